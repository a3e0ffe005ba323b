"""How DiffSwap's program cuts, blends and pastes its crops with PIL, in 8 bits: what FaceLoom's way is measured by."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from faceloom.models.faces import Faces
from faceloom.models.systems.diffswap import Prepared
from PIL import Image
from quad_as_published import draw_squares
from torch import Tensor

_SMOOTHING_KERNEL = (1, 5, 8, 5, 1)
_CUT_SIZE = 1024  # the program cuts crops of this size and shrinks them
_CORNERS = np.array([[0, 0], [0, 1], [1, 1], [1, 0]], np.float64)


def paste_as_published(images: Tensor, faces: Faces, prepared: Prepared, painted: Tensor) -> Tensor:
    """Blend every painted crop with its target and draws it over its whole square in the photos ``[B, H, W, 3]``."""
    first, second = ((crops.cpu() * 255).movedim(-1, 1) for crops in (painted, prepared.targets))
    blended = blend_by_bands(first.trunc(), second.round(), (prepared.swapped.cpu() > 0.5).float(), whole_numbers=True)
    return draw_squares(images, faces, blended.movedim(1, -1).to(torch.uint8).numpy(), put_back)


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
