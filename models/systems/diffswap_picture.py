"""DiffSwap's arithmetic on crops around its networks: the alignment for the identity, masks, blending, and its own cutting and pasting.

Nothing here knows of a network. Functions of ``[H, W, 3]`` uint8 do as the published program does, in 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..crops.templates import TEMPLATES
from ..pixels.affine import compose, invert, similarity
from ..pixels.opencv_like import fill_hull

RECOGNIZER_SIZE = 112  # edge of what the identity network sees
ORGANS = (slice(36, 42), slice(42, 48), slice(27, 36), slice(48, 68))  # left eye, right eye, nose, mouth of 68 points
_SMOOTHING_KERNEL = (1, 5, 8, 5, 1)
_CUT_SIZE = 1024  # the program cuts crops of this size and shrinks them
_CORNERS = np.array([[0, 0], [0, 1], [1, 1], [1, 0]], np.float64)


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


def blend_by_bands(swapped: Tensor, target: Tensor, masks: Tensor, whole_numbers: bool = False) -> Tensor:
    """Return ``[N, 3, S, S]`` with ``swapped`` where ``masks`` ``[N, S, S]`` are 1 and ``target`` elsewhere.

    Every band of frequencies is blended by itself, down to two pixels (Burt and Adelson 1983). Crops are 0..1; with whole_numbers they
    are 0..255 and every filter's result is cut to a whole number, as published.
    """
    first, second = laplacian_pyramid(swapped, whole_numbers), laplacian_pyramid(target, whole_numbers)
    bands = [torch.where(mask, a, b) for mask, a, b in zip(mask_pyramid(masks, first), first, second, strict=True)]
    crops = bands.pop()
    while bands:
        crops = _double(crops, bands[-1].shape[-1], whole_numbers) + bands.pop()
    return crops.clamp(0, 255 if whole_numbers else 1)


def mask_pyramid(masks: Tensor, bands: list[Tensor]) -> list[Tensor]:
    """Return a mask ``[N, 1, h, w]`` bool for each band: ``[N, S, S]`` read at the middle of every pixel, one half and more being True."""
    return [F.interpolate(masks[:, None], band.shape[2:], mode="bilinear", align_corners=False) >= 0.5 for band in bands]


def laplacian_pyramid(crops: Tensor, whole_numbers: bool) -> list[Tensor]:
    """Return the bands of ``[N, C, S, S]``, the finest first; the last is what remains at two pixels."""
    bands = []
    while crops.shape[-1] > 2:
        smaller = halve(crops, whole_numbers)
        bands.append(crops - _double(smaller, crops.shape[-1], whole_numbers))
        crops = smaller
    return [*bands, crops]


def halve(crops: Tensor, whole_numbers: bool) -> Tensor:
    """Smooth ``[N, C, S, S]``, mirrored at the border, and return every second pixel."""
    for dim in (2, 3):
        ends = crops.narrow(dim, 0, 2).flip(dim), crops, crops.narrow(dim, crops.shape[dim] - 2, 2).flip(dim)
        crops = _smooth(torch.cat(ends, dim), dim, 20, whole_numbers)
    return crops[:, :, ::2, ::2]


def _double(crops: Tensor, size: int, whole_numbers: bool) -> Tensor:
    """Put zeros between the pixels, up to an edge of ``size``, and smooth them away."""
    wide = crops.new_zeros((*crops.shape[:2], size, size))
    wide[:, :, ::2, ::2] = crops
    for dim in (2, 3):
        pad = (0, 0, 2, 2) if dim == 2 else (2, 2)
        wide = _smooth(F.pad(wide, pad), dim, 10, whole_numbers)
    return wide


def _smooth(padded: Tensor, dim: int, total: int, whole_numbers: bool) -> Tensor:
    """Filter along one dimension, which is padded by two pixels on each side; the kernel's sum is divided by ``total``."""
    size = padded.shape[dim] - 4
    smooth = sum(weight * padded.narrow(dim, place, size) for place, weight in enumerate(_SMOOTHING_KERNEL)) / total
    return smooth.trunc() if whole_numbers else smooth


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


def cut(photo: np.ndarray, quad: np.ndarray, size: int) -> np.ndarray:
    """Cut a quad out of a photo ``[H, W, 3]`` uint8: ``[size, size, 3]``, black where it reaches outside.

    quad: ``[4, 2]`` pixels of the upper left, lower left, lower right and upper right corner.
    """
    picture = Image.fromarray(photo)
    shrink = int(np.hypot(*(quad[3] - quad[0])) / size / 2)
    if shrink > 1:
        picture = picture.resize((round(picture.width / shrink), round(picture.height / shrink)), Image.Resampling.BICUBIC)
        quad = quad / shrink
    to_quad = tuple(_affine_coefficients(_CORNERS * _CUT_SIZE, quad + 0.5))
    large = picture.transform((_CUT_SIZE, _CUT_SIZE), Image.Transform.AFFINE, to_quad, Image.Resampling.BICUBIC)
    return np.asarray(large.resize((size, size), Image.Resampling.BICUBIC))


def way_back(quad: np.ndarray, size: int) -> np.ndarray:
    """Return the ``[6]`` coefficients of PIL's affine transform that draws a crop of ``size`` pixels into its quad."""
    return _affine_coefficients(quad + 0.5, _CORNERS * size)


def put_back(photo: np.ndarray, crop: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """Return the photo ``[H, W, 3]`` uint8 with a square crop drawn over its whole quad."""
    size = photo.shape[1::-1]
    options = size, Image.Transform.AFFINE, tuple(way_back(quad, len(crop))), Image.Resampling.BICUBIC
    result = Image.fromarray(photo)
    result.paste(Image.fromarray(crop).transform(*options), (0, 0), Image.new("L", crop.shape[1::-1], 255).transform(*options))
    return np.array(result)


def _affine_coefficients(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return ``[6]``: the affine map nearest to one that takes the corners ``source`` ``[4, 2]`` to ``target``."""
    return np.linalg.lstsq(np.concatenate([source, np.ones((4, 1))], 1), target, rcond=None)[0].T.flatten()
