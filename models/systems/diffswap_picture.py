"""DiffSwap's arithmetic on crops around its networks: the alignment for the identity, masks, and colours for previews.

Nothing here knows of a network.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..crops.templates import TEMPLATES
from ..pixels.affine import compose, invert, similarity
from ..pixels.opencv_like import fill_hull

RECOGNIZER_SIZE = 112  # edge of what the identity network sees
ORGANS = (slice(36, 42), slice(42, 48), slice(27, 36), slice(48, 68))  # left eye, right eye, nose, mouth of 68 points


def identity_view(keypoints: np.ndarray, size: int) -> np.ndarray:
    """Return ``[..., 2, 3]`` for ``affine_grid``: where in a crop of ``size`` pixels with keypoints ``[..., 5, 2]`` ArcFace looks.

    The similarity is fitted from ArcFace's points to the crop's, not the other way round, and the centres of both pictures' corner pixels
    are taken for ±1, as the program does.
    """
    to_crop = similarity(TEMPLATES["arcface_112_v2"] * RECOGNIZER_SIZE, keypoints)
    return compose(_pixels_to_unit(size), compose(to_crop, invert(_pixels_to_unit(RECOGNIZER_SIZE))))


def _pixels_to_unit(size: int) -> np.ndarray:
    """Return the matrix ``[2, 3]`` that takes the pixels 0 and ``size`` - 1 to -1 and 1."""
    scale = 2 / (size - 1)
    return np.array([[scale, 0, -1], [0, scale, -1]])


def organ_masks(points: np.ndarray, size: int) -> np.ndarray:
    """Return ``[4, size, size]`` bool: left eye, right eye, nose and mouth of 68 crop points ``[68, 2]``."""
    return np.stack([fill_hull(points[part], size) for part in ORGANS])


def latent_mask(masks: Tensor, size: int) -> Tensor:
    """Return ``[N, 1, size, size]`` of 0 and 1: masks ``[N, S, S]`` rounded and read at every latent pixel's first pixel."""
    return F.interpolate((masks > 0.5).float()[:, None], (size, size), mode="nearest")


@torch.no_grad()
def preview_colours(decode: Callable[[Tensor], Tensor], book: Tensor, count: int = 64) -> tuple[list, list]:
    """Return the linear map from latents to colours in [-1, 1] that is nearest to the decoder: ``[3][3]`` factors and ``[3]`` offsets.

    decode: ``[N, 3, h, w]`` to ``[N, H, W, 3]`` 0..1. It is given flat latents of ``count`` codes spread over the code book ``[K, 3]``.
    """
    codes = book[torch.linspace(0, len(book) - 1, count).long()].float().cpu()
    decoded = decode(codes[:, :, None, None].expand(-1, -1, 8, 8)).float().cpu()
    colours = decoded[:, 8:-8, 8:-8].mean((1, 2)) * 2 - 1
    solved = np.linalg.lstsq(np.concatenate([codes, np.ones((count, 1))], 1), colours.numpy(), rcond=None)[0].tolist()
    return solved[:3], solved[3]
