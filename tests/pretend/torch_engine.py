"""A pretend swap engine around a torch checkpoint, whole in one module: it brightens the face it sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from faceloom.models.crops.templates import template_matrix
from faceloom.models.networks import build
from faceloom.models.runtime.devices import TorchModel
from faceloom.models.runtime.method import Method
from faceloom.models.runtime.options import Options, option
from faceloom.models.swap.torch_engine import TorchEngine


@dataclass(frozen=True)
class BrightOptions(Options):
    """How bright the face gets."""

    stops: int = option(1, "How many times the face is brightened.", least=0, most=3, step=1)
    invert: bool = option(False, "Darkens the face instead.")


class Bright(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.brightness = torch.nn.Parameter(torch.zeros(1))


class BrightEngine(TorchEngine):
    """A ``SwapEngine``."""

    mixes = False
    size = 64
    options = BrightOptions()

    def alignment(self, keypoints):
        return template_matrix(keypoints, "arcface_128", self.size)

    def encode_faces(self, images, faces):
        return torch.zeros(len(faces), 1)

    def generate(self, targets, sources):
        step = self.model.net.brightness * (-1 if self.options.invert else 1)
        return targets + step * self.options.stops, None


def open_bright(file, loading, **options):
    net = build(Bright, file.tensors, file.path.name)
    return BrightEngine(file.name, TorchModel(file.name, net, loading.devices), **options)


METHOD = Method("Bright", kind="research", folders=("faceloom/bright",), options=BrightOptions,
                recognizes=lambda file: file.tensors.keys() == {"brightness"}, open=open_bright)
