"""Age and sex, for those who ask: nothing here runs unless a node wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..errors import FaceLoomError
from ..faces import Faces
from ..files.catalogue import KINDS, NetContract, catalogue
from ..files.find import find_by_path_or_name
from ..files.folders import Folders
from ..pixels.sampling import sample_crops
from ..progress import Progress, silent
from ..runtime.input import to_network_input
from ..runtime.onnx import OnnxModel, open_session

# The network's picture is a square around the box, this much larger than its longer side.
MARGIN = 1.5
FACES = 64


class AgeAndSex:
    """insightface's genderage network. Make it with ``load_attributes``."""

    def __init__(self, model: OnnxModel, contract: NetContract) -> None:
        self.model = model
        self.contract = contract

    def __repr__(self) -> str:
        return f"AgeAndSex({self.model.describe()})"

    def read(self, images: torch.Tensor, faces: Faces, progress: Progress = silent) -> Faces:
        """The same faces with ``sex`` (``"female"``, ``"male"``) and ``age`` (years)."""
        faces.check_image(images.shape)
        size = self.contract.size
        items = []
        for start in range(0, len(faces), FACES):
            some = faces.items[start:start + FACES]
            matrices = np.stack([_around(face.box, size) for face in some])
            pictures = sample_crops(images[..., :3], [face.frame for face in some], matrices, size)
            answers = self.model.run({self.model.inputs[0].name: to_network_input(pictures, self.contract).cpu().numpy()})[0]
            items += [replace(face, sex="male" if male > female else "female", age=max(float(age) * 100, 0.0))
                      for face, (female, male, age) in zip(some, answers, strict=True)]
            progress(len(items), len(faces))
        return replace(faces, items=tuple(items))


def _around(box: np.ndarray, size: int) -> np.ndarray:
    """Image → a square of ``size`` pixels around the middle of the box."""
    scale = size / (MARGIN * float((box[2:] - box[:2]).max()))
    middle = (box[:2] + box[2:]) / 2
    return np.concatenate([np.eye(2) * scale, (size / 2 - scale * middle)[:, None]], 1)


def load_attributes(path_or_name: str | Path = "genderage", *, folders: Folders | None = None,
                    providers: str | Sequence[str] = "auto") -> AgeAndSex:
    """The age and sex network in a file, or of a catalogue name."""
    found = find_by_path_or_name(path_or_name, "attributes", folders)
    if found.row and found.row.kind != "attributes":
        raise FaceLoomError(f"{found.path.name} is {KINDS[found.row.kind]}, not {KINDS['attributes']}; load it with the node for that.")
    model = open_session(found.path, providers=providers, kind="attributes")
    contract = (found.row or catalogue()["genderage"]).contract
    if contract.family != "genderage" or (model.outputs[0].shape or (0,))[-1] not in (3, None):
        raise FaceLoomError(f"FaceLoom reads age and sex from insightface's genderage.onnx only, not from {found.path.name}.")
    return AgeAndSex(model, contract)
