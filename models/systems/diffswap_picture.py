"""What DiffSwap does to pictures around its networks: alignment for the identity, masks, blending, and its own way of cutting and pasting.

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

LOOK = 112  # the identity network's picture
ORGANS = (slice(36, 42), slice(42, 48), slice(27, 36), slice(48, 68))  # left eye, right eye, nose, mouth of 68 points
_KERNEL = (1, 5, 8, 5, 1)
_LARGE = 1024  # the program cuts this size and shrinks it
_UNIT = np.array([[0, 0], [0, 1], [1, 1], [1, 0]], np.float64)


def identity_view(keypoints: np.ndarray, size: int) -> np.ndarray:
    """``[..., 2, 3]`` for ``affine_grid``: where in a crop of ``size`` pixels ArcFace's picture lies, from ``[..., 5, 2]`` crop pixels.

    The similarity is fitted from ArcFace's points to the crop's, not the other way round, and both pictures' corners are taken for ±1,
    as the program does.
    """
    to_crop = similarity(TEMPLATES["arcface_112_v2"] * LOOK, keypoints)
    return compose(_to_unit(size), compose(to_crop, invert(_to_unit(LOOK))))


def _to_unit(size: int) -> np.ndarray:
    scale = 2 / (size - 1)
    return np.array([[scale, 0, -1], [0, scale, -1]])


def organ_masks(points: np.ndarray, size: int) -> np.ndarray:
    """``[4, size, size]`` bool: left eye, right eye, nose and mouth of ``[68, 2]`` crop pixels."""
    return np.stack([fill_hull(points[part], size) for part in ORGANS])


def latent_mask(masks: Tensor, size: int) -> Tensor:
    """``[N, 1, size, size]`` 0 or 1: what of ``[N, S, S]`` is replaced, as the latents see it."""
    return F.interpolate((masks > 0.5).float()[:, None], (size, size), mode="nearest")


def join(swapped: Tensor, target: Tensor, masks: Tensor, whole_numbers: bool = False) -> Tensor:
    """``[N, 3, S, S]`` with ``swapped`` where ``masks`` ``[N, S, S]`` are 1, every band of frequencies blended by itself (Burt and Adelson
    1983) down to two pixels. whole_numbers: pictures are 0..255 and every filter's answer is cut to a whole number, as published."""
    first, second = pyramid(swapped, whole_numbers), pyramid(target, whole_numbers)
    mixed = [torch.where(mask, a, b) for mask, a, b in zip(levels(masks, first), first, second, strict=True)]
    picture = mixed.pop()
    while mixed:
        picture = _expanded(picture, mixed[-1].shape[-1], whole_numbers) + mixed.pop()
    return picture.clamp(0, 255 if whole_numbers else 1)


def levels(masks: Tensor, bands: list[Tensor]) -> list[Tensor]:
    """``[N, 1, h, w]`` bool: ``[N, S, S]`` looked up at the middle of every pixel of the bands, one half and more being 1."""
    return [F.interpolate(masks[:, None], band.shape[2:], mode="bilinear", align_corners=False) >= 0.5 for band in bands]


def pyramid(picture: Tensor, whole_numbers: bool) -> list[Tensor]:
    """A Laplacian pyramid, the finest band first; the last is what remains."""
    bands = []
    while picture.shape[-1] > 2:
        smaller = reduced(picture, whole_numbers)
        bands.append(picture - _expanded(smaller, picture.shape[-1], whole_numbers))
        picture = smaller
    return [*bands, picture]


def reduced(picture: Tensor, whole_numbers: bool) -> Tensor:
    """Every second pixel of a smoothed picture."""
    for dim in (2, 3):
        ends = picture.narrow(dim, 0, 2).flip(dim), picture, picture.narrow(dim, picture.shape[dim] - 2, 2).flip(dim)
        picture = _smoothed(torch.cat(ends, dim), dim, 20, whole_numbers)
    return picture[:, :, ::2, ::2]


def _expanded(picture: Tensor, size: int, whole_numbers: bool) -> Tensor:
    wide = picture.new_zeros((*picture.shape[:2], size, size))
    wide[:, :, ::2, ::2] = picture
    for dim in (2, 3):
        pad = (0, 0, 2, 2) if dim == 2 else (2, 2)
        wide = _smoothed(F.pad(wide, pad), dim, 10, whole_numbers)
    return wide


def _smoothed(padded: Tensor, dim: int, total: int, whole_numbers: bool) -> Tensor:
    size = padded.shape[dim] - 4
    smooth = sum(weight * padded.narrow(dim, place, size) for place, weight in enumerate(_KERNEL)) / total
    return smooth.trunc() if whole_numbers else smooth


@torch.no_grad()
def preview_colours(decode: Callable[[Tensor], Tensor], book: Tensor, count: int = 64) -> tuple[list, list]:
    """The linear map from latents to colours in [-1, 1] nearest to what the decoder ``[N, 3, h, w]`` → ``[N, H, W, 3]`` 0..1 answers to
    flat pictures of ``count`` codes spread over the code book ``[K, 3]``: ``[3][3]`` factors and ``[3]`` offsets."""
    codes = book[torch.linspace(0, len(book) - 1, count).long()].float().cpu()
    shown = decode(codes[:, :, None, None].expand(-1, -1, 8, 8)).float().cpu()
    colours = shown[:, 8:-8, 8:-8].mean((1, 2)) * 2 - 1
    solved = np.linalg.lstsq(np.concatenate([codes, np.ones((count, 1))], 1), colours.numpy(), rcond=None)[0].tolist()
    return solved[:3], solved[3]


def cut(photo: np.ndarray, quad: np.ndarray, size: int) -> np.ndarray:
    """``[size, size, 3]``: the quad (upper left, lower left, lower right, upper right pixels) of a photo, black where it reaches
    outside."""
    picture = Image.fromarray(photo)
    shrink = int(np.hypot(*(quad[3] - quad[0])) / size / 2)
    if shrink > 1:
        picture = picture.resize((round(picture.width / shrink), round(picture.height / shrink)), Image.Resampling.BICUBIC)
        quad = quad / shrink
    to_quad = tuple(_affine(_UNIT * _LARGE, quad + 0.5))
    large = picture.transform((_LARGE, _LARGE), Image.Transform.AFFINE, to_quad, Image.Resampling.BICUBIC)
    return np.asarray(large.resize((size, size), Image.Resampling.BICUBIC))


def way_back(quad: np.ndarray, size: int) -> np.ndarray:
    """``[6]`` coefficients of PIL's affine transform that draws a crop of ``size`` pixels into its quad."""
    return _affine(quad + 0.5, _UNIT * size)


def put_back(photo: np.ndarray, crop: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """The photo with a crop laid over its whole quad."""
    size = photo.shape[1::-1]
    options = size, Image.Transform.AFFINE, tuple(way_back(quad, len(crop))), Image.Resampling.BICUBIC
    result = Image.fromarray(photo)
    result.paste(Image.fromarray(crop).transform(*options), (0, 0), Image.new("L", crop.shape[1::-1], 255).transform(*options))
    return np.array(result)


def _affine(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """``[6]``: the affine map from one quad to another."""
    return np.linalg.lstsq(np.concatenate([source, np.ones((4, 1))], 1), target, rcond=None)[0].T.flatten()
