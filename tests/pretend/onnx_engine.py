"""A pretend swap engine around an ONNX file, whole in one module: it paints every face in a colour that its network returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from faceloom.models.crops.crop import crop_faces
from faceloom.models.options.swap import USUAL
from faceloom.models.runtime.method import Method
from faceloom.models.runtime.onnx import open_session
from faceloom.models.runtime.options import Options, option


@dataclass(frozen=True)
class PainterOptions(Options):
    """How the colour is painted."""

    amount: float = option(0.5, "How much of the colour is painted.", least=0.0, most=1.0, step=0.1)
    half: str = option("left", "Which half of the face is painted.", choices=("left", "right"))


class PainterEngine:
    """A ``SwapEngine``."""

    def __init__(self, name, model, **options) -> None:
        self.name, self.model, self.options = name, model, PainterOptions(**options)

    def with_options(self, **options):
        return PainterEngine(self.name, self.model, **vars(self.options.changed(self.name, **options)))

    def prepare(self, identity):
        (colour,) = self.model.run({"who": np.full((1, 1), len(identity.crops), np.float32)})
        return torch.from_numpy(np.asarray(colour[0]))

    def swap(self, images, faces, source, settings=USUAL, progress=None):
        settings.check("It can only paint.")
        size = settings.edge(faces)
        crops, masks = crop_faces(images, faces, size), torch.zeros(len(faces), size, size)
        part = slice(0, size // 2) if self.options.half == "left" else slice(size // 2, size)
        crops[:, :, part] += (source - crops[:, :, part]) * self.options.amount
        masks[:, :, part] = 1
        return crops, masks


def open_painter(file, loading, **options):
    return PainterEngine(file.name, open_session(file.path, providers=loading.providers), **options)


METHOD = Method("Painter", kind="swap", suffixes=(".onnx",), options=PainterOptions, open=open_painter,
                recognizes=lambda file: file.suffix == ".onnx" and file.graph.inputs[0].name == "who")
