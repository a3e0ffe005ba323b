"""Recognizers whose answer can be differentiated: ArcFace networks in ONNX files as torch modules, and the alignment before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..crops.crop import crop_matrix
from ..crops.templates import TEMPLATES, template_matrix
from ..errors import FaceLoomError
from ..faces import Face
from ..files.catalogue import NetContract
from ..pixels.affine import compose, invert, scale_of, transform
from ..pixels.sampling import sampling_grid
from ..runtime.as_torch import copy_with_gradient


@dataclass(frozen=True, eq=False)
class Embedder:
    """A recognizer in torch. space: of its vectors. net: ``[N, 3, n, n]`` in the contract's range to ``[N, D]``."""

    space: str
    net: nn.Module
    contract: NetContract

    def __call__(self, faces: Tensor) -> Tensor:
        """Aligned faces ``[N, 3, n, n]`` RGB 0..1 to unit rows ``[N, D]``, with a gradient."""
        if self.contract.color == "bgr":
            faces = faces.flip(1)
        mean, std = (faces.new_tensor(values)[:, None, None] for values in (self.contract.mean, self.contract.std))
        return F.normalize(self.net((faces - mean) / std), dim=1)


@runtime_checkable
class Differentiable(Protocol):
    """A recognizer that makes an ``Embedder`` of itself."""

    def differentiable(self) -> Embedder: ...


def differentiable(recognizer: Any) -> Embedder:
    """The recognizer as an ``Embedder`` with weights of its own, which any autograd mode may use.

    Torch networks are copied, ONNX files converted; a recognizer of another kind may have a method ``differentiable``. Anything else
    (the built-in dlib network) is an error.
    """
    if isinstance(recognizer, Differentiable):
        with torch.inference_mode(False):
            return recognizer.differentiable()
    net = copy_with_gradient(recognizer)
    if net is None:
        raise FaceLoomError("Identity guidance needs an ArcFace network; connect one from Load Face Recognizer (the built-in dlib "
                            "recognizer has no gradient).")
    return Embedder(recognizer.space, net, recognizer.contract)


def align_crops(crops: Tensor, matrices: np.ndarray, size: int) -> Tensor:
    """``[N, C, S, S]`` through crop → aligned ``matrices`` ``[N, 2, 3]`` to ``[N, C, size, size]``, with a gradient.

    The grid is constant. Where the crop is finer than the answer, several bilinear looks per pixel are averaged: an area filter.
    """
    matrices = np.asarray(matrices, np.float64)
    looks = max(1, int(np.ceil(1 / scale_of(matrices).min() - 0.25)))
    fine = matrices * looks
    fine[:, :, 2] += (looks - 1) / 2
    grid = sampling_grid(invert(fine), size * looks, size * looks, crops.shape[2], crops.shape[3], crops.device)
    seen = F.grid_sample(crops, grid.to(crops.dtype), padding_mode="border", align_corners=False)
    return F.avg_pool2d(seen, looks) if looks > 1 else seen


def alignment(count: int, crop_size: int, contract: NetContract, faces: tuple[Face, ...] | None = None, framing: float = 1.0) -> np.ndarray:
    """``[count, 2, 3]`` crop → aligned picture of the contract. Without ``faces`` the face is taken to sit where the template puts it."""
    template = contract.template or "arcface_112_v2"
    if faces is None:
        points = ((TEMPLATES["ffhq_512"] - 0.5) / framing + 0.5) * crop_size - 0.5
        return np.broadcast_to(template_matrix(points, template, contract.size), (count, 2, 3)).copy()
    keypoints = np.stack([transform(face.keypoints, crop_matrix(face, crop_size, framing)) for face in faces])
    return template_matrix(keypoints, template, contract.size)


def embedding_in_crop(embedder: Embedder, crops: Tensor, matrices: np.ndarray) -> Tensor:
    """Canonical crops ``[N, 3, S, S]`` 0..1 to unit rows ``[N, D]``."""
    return embedder(align_crops(crops, matrices, embedder.contract.size))


def rescaled(matrices: np.ndarray, old: int, new: int) -> np.ndarray:
    """The same alignments for crops resized from ``old`` to ``new`` pixels (border to border)."""
    factor = old / new
    return compose(np.asarray(matrices, np.float64), np.array([[factor, 0, factor / 2 - 0.5], [0, factor, factor / 2 - 0.5]]))


