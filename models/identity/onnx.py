"""Recognizers of ArcFace's kind that come as ONNX files: an aligned crop of the face in, one vector out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..crops.templates import template_matrix
from ..errors import FaceLoomError
from ..faces import Faces
from ..files.catalogue import KINDS, NetContract, as_net_contract
from ..files.contents import Contents
from ..pixels.sampling import sample_crops
from ..progress import Progress, silent
from ..runtime.input import to_network_input
from ..runtime.method import Loading, Method, any_file
from ..runtime.onnx import OnnxModel, open_session
from .combine import unit_vectors

# What every recognizer of insightface's packs was trained with; a file the catalogue does not know is taken for one of these.
ARCFACE = NetContract(family="arcface", size=112, template="arcface_112_v2", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
# Faces sampled before the network is called.
FACES_PER_BATCH = 64


class OnnxRecognizer:
    """A ``Recognizer`` around one network. Make it with ``load_recognizer``."""

    def __init__(self, space: str, model: OnnxModel, contract: NetContract) -> None:
        self.space = space
        self.model = model
        self.contract = contract

    def __repr__(self) -> str:
        return f"OnnxRecognizer({self.model.describe()})"

    def embed(self, images: torch.Tensor, faces: Faces, progress: Progress = silent) -> np.ndarray:
        """Embed the ``faces`` of ``images`` ``[B, H, W, 3]`` 0..1 as unit rows ``[N, D]`` float32."""
        vectors = self.embed_raw(images, faces, progress)
        return unit_vectors(vectors) if len(vectors) else vectors

    def embed_raw(self, images: torch.Tensor, faces: Faces, progress: Progress = silent) -> np.ndarray:
        """Embed the faces as rows ``[N, D]`` float32 of the length that the network gives them: it says how sure the network is, and
        some swap models want it."""
        faces.check_image(images.shape)
        parts = []
        for start in range(0, len(faces), FACES_PER_BATCH):
            batch = faces.take(range(start, min(start + FACES_PER_BATCH, len(faces))))
            matrices = template_matrix(batch.keypoints, self.contract.crop_template, self.contract.fixed_size)
            crops = sample_crops(images[..., :3], batch.frame_indices, matrices, self.contract.fixed_size)
            parts.append(self.embed_crops(crops, lambda done, _, start=start: progress(start + done, len(faces))))
        return np.concatenate(parts) if parts else np.zeros((0, (self.model.outputs[0].shape or (0,))[-1] or 0), np.float32)

    def embed_crops(self, crops: torch.Tensor, progress: Progress = silent) -> np.ndarray:
        """Embed crops ``[N, n, n, 3]`` 0..1 that are aligned already, as ``embed_raw`` does."""
        return self.model.run({self.model.inputs[0].name: to_network_input(crops, self.contract).cpu().numpy()}, progress)[0]


def _open(file: Contents, loading: Loading) -> OnnxRecognizer:
    """Open a recognizer; its space is the catalogue's, or the file's own name where the catalogue does not know the file."""
    path, row = file.path, file.row
    model = open_session(path, providers=loading.providers, kind="recognizer")
    shapes = [list(port.shape or ()) for port in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or len(model.outputs[0].shape or ()) != 2:
        raise FaceLoomError(f"{path.name} is not {KINDS['recognizer']}: it should take one image and return one vector.")
    contract = as_net_contract(loading.contract or (row.contract if row else _contract_by_first_nodes(model, ARCFACE)))
    size = shapes[0][2]
    if isinstance(size, int) and size != contract.size:
        if row:
            raise FaceLoomError(f"{path.name} should take pictures of 3×{contract.size}×{contract.size}, but takes 3×{size}×{size}.")
        # insightface's rule: the template of 112 pixels belongs to its multiples, every other picture is 16 of 128 parts wider.
        contract = replace(contract, size=size, template=contract.template if size % 112 == 0 else "arcface_128")
    return OnnxRecognizer(contract.space or path.stem, model, contract)


def _contract_by_first_nodes(model: OnnxModel, contract: NetContract) -> NetContract:
    """Return the contract without mean and scale, for values 0..255, where the network begins with nodes that subtract and multiply, as
    those from MXNet do (insightface's rule)."""
    names = model.file.node_names(8)
    if any(name.startswith(("Sub", "_minus")) for name in names) and any(name.startswith(("Mul", "_mul")) for name in names):
        return replace(contract, mean=(0, 0, 0), std=(1 / 255,) * 3)
    return contract


METHOD = Method("ONNX", kind="recognizer", suffixes=(".onnx",), recognizes=any_file, open=_open)
