"""Age and sex of faces, by insightface's genderage network. It runs only where a node asks for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..errors import FaceLoomError
from ..faces import Faces
from ..files.catalogue import NetContract, as_net_contract, catalogue
from ..files.contents import Contents
from ..pixels.sampling import sample_crops
from ..progress import Progress, silent
from ..runtime.input import to_network_input
from ..runtime.method import Loading, Method, any_file
from ..runtime.onnx import OnnxModel, open_session

# Edge of the square that the network sees, in longer sides of the face's box.
SQUARE_PER_BOX = 1.5
# Faces sampled before the network is called.
FACES_PER_BATCH = 64


class AgeAndSex:
    """Reads sex and age of faces with insightface's genderage network. Make it with ``load_attributes``."""

    def __init__(self, model: OnnxModel, contract: NetContract) -> None:
        self.model = model
        self.contract = contract

    def __repr__(self) -> str:
        return f"AgeAndSex({self.model.describe()})"

    def read(self, images: torch.Tensor, faces: Faces, progress: Progress = silent) -> Faces:
        """Return the same faces with ``sex`` (``"female"``, ``"male"``) and ``age`` (years), 0 or more. images: ``[B, H, W, 3]`` float32
        0..1, in which the faces were found."""
        faces.check_image(images.shape)
        size = self.contract.fixed_size
        items = []
        for start in range(0, len(faces), FACES_PER_BATCH):
            batch = faces.items[start:start + FACES_PER_BATCH]
            matrices = np.stack([_square_matrix(face.box, size) for face in batch])
            crops = sample_crops(images[..., :3], [face.frame for face in batch], matrices, size)
            outputs = self.model.run({self.model.inputs[0].name: to_network_input(crops, self.contract).cpu().numpy()})[0]
            items += [replace(face, sex="male" if male > female else "female", age=max(float(age) * 100, 0.0))
                      for face, (female, male, age) in zip(batch, outputs, strict=True)]
            progress(len(items), len(faces))
        return replace(faces, items=tuple(items))


def _square_matrix(box: np.ndarray, size: int) -> np.ndarray:
    """Return ``[2, 3]`` image → upright square of ``size`` pixels around the middle of the box ``[4]``."""
    scale = size / (SQUARE_PER_BOX * float((box[2:] - box[:2]).max()))
    middle = (box[:2] + box[2:]) / 2
    return np.concatenate([np.eye(2) * scale, (size / 2 - scale * middle)[:, None]], 1)


def _open(file: Contents, loading: Loading) -> AgeAndSex:
    model = open_session(file.path, providers=loading.providers, kind="attributes")
    contract = as_net_contract((file.row or catalogue()["genderage"]).contract)
    if contract.family != "genderage" or (model.outputs[0].shape or (0,))[-1] not in (3, None):
        raise FaceLoomError(f"FaceLoom reads age and sex from insightface's genderage.onnx only, not from {file.path.name}.")
    return AgeAndSex(model, contract)


METHOD = Method("genderage", kind="attributes", families=("genderage",), suffixes=(".onnx",), recognizes=any_file, open=_open)
