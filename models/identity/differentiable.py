"""Recognizers whose output can be differentiated: ArcFace networks in ONNX files as torch modules, and the alignment before them."""

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
from ..pixels.affine import invert, scale_of, transform
from ..pixels.sampling import sampling_grid
from ..runtime.as_torch import copy_with_gradient
from ..runtime.input import normalize_channels


@dataclass(frozen=True, eq=False)
class DifferentiableRecognizer:
    """A recognizer as a torch function with a gradient. space: of its vectors. net: ``[N, 3, n, n]`` in the contract's range to
    ``[N, D]``."""

    space: str
    net: nn.Module
    contract: NetContract

    def __call__(self, crops: Tensor) -> Tensor:
        """Embed aligned crops ``[N, 3, n, n]`` RGB 0..1 as unit rows ``[N, D]``."""
        if self.contract.color == "bgr":
            crops = crops.flip(1)
        return F.normalize(self.net(normalize_channels(crops, self.contract.mean, self.contract.std)), dim=1)


@runtime_checkable
class Differentiable(Protocol):
    """A recognizer that makes a ``DifferentiableRecognizer`` of itself."""

    def differentiable(self) -> DifferentiableRecognizer: ...


def as_differentiable(recognizer: Any) -> DifferentiableRecognizer:
    """Make a ``DifferentiableRecognizer`` of a recognizer, with weights of its own, which any autograd mode may use.

    Torch networks are copied, ONNX files converted; a recognizer of another kind may have a method ``differentiable``. Anything else
    (the built-in dlib network) is a FaceLoomError.
    """
    if isinstance(recognizer, Differentiable):
        with torch.inference_mode(False):
            return recognizer.differentiable()
    net = copy_with_gradient(recognizer)
    if net is None:
        raise FaceLoomError("Identity guidance needs an ArcFace network; connect one from Load Face Recognizer (the built-in dlib "
                            "recognizer has no gradient).")
    return DifferentiableRecognizer(recognizer.space, net, recognizer.contract)


def align_crops(crops: Tensor, matrices: np.ndarray, size: int) -> Tensor:
    """Sample ``[N, C, S, S]`` through crop → aligned ``matrices`` ``[N, 2, 3]`` as ``[N, C, size, size]``, with a gradient.

    The sampling grid is constant. Where the crop is finer than the aligned one, several bilinear samples per pixel are averaged: an area
    filter.
    """
    matrices = np.asarray(matrices, np.float64)
    samples = max(1, int(np.ceil(1 / scale_of(matrices).min() - 0.25)))  # per pixel and axis
    fine = matrices * samples
    fine[:, :, 2] += (samples - 1) / 2
    grid = sampling_grid(invert(fine), size * samples, size * samples, crops.shape[2], crops.shape[3], crops.device)
    sampled = F.grid_sample(crops, grid.to(crops.dtype), padding_mode="border", align_corners=False)
    return F.avg_pool2d(sampled, samples) if samples > 1 else sampled


def alignment_matrices(count: int, crop_size: int, contract: NetContract, faces: tuple[Face, ...] | None = None,
                       framing: float = 1.0) -> np.ndarray:
    """Return ``[count, 2, 3]`` crop → aligned crop of the contract, for canonical crops of ``crop_size`` pixels with ``framing``.

    faces: those that the crops show, in image pixels; without them every face is taken to sit where the FFHQ template puts it.
    """
    template = contract.template or "arcface_112_v2"
    if faces is None:
        keypoints = ((TEMPLATES["ffhq_512"] - 0.5) / framing + 0.5) * crop_size - 0.5
        return np.broadcast_to(template_matrix(keypoints, template, contract.fixed_size), (count, 2, 3)).copy()
    keypoints = np.stack([transform(face.keypoints, crop_matrix(face, crop_size, framing)) for face in faces])
    return template_matrix(keypoints, template, contract.fixed_size)
