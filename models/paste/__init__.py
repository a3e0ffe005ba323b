"""Crops back into their photographs: ``paste``. Nothing outside the mask is touched.

All work happens in the part of the frame that a face's mask covers, so its cost does not depend on the frame's size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from ..crops.crop import check_crops, crop_matrices, find_cut_crop
from ..errors import FaceLoomError
from ..faces import Faces
from ..options.paste import PasteSettings
from ..parse import region_mask
from ..pixels.affine import bounds, invert, scale_of
from ..pixels.masks import feather_mask, fit_shared_mask, nonzero_bounds
from ..pixels.sampling import lattice, read_grid, sample_crops, sampling_grid, warp
from ..pixels.tensors import expand_rgb
from ..pixels.tone import compress, expand, white_of
from ..progress import Progress, silent
from . import blends
from .color import match_color
from .toned import luma, toning_of

# From this many crop pixels per photograph pixel on, crops are read bilinearly, which is four times as fast as bicubic and as good: the
# round trip of a crop keeps 42 dB (bicubic: 42 dB at 1.0 crop pixels per photograph pixel, 47 dB at 1.25).
_BILINEAR_FROM = 1.4
# Crop values this close to what the photograph gives were not edited: as floats, or after a way through an 8-bit picture.
_SAME, _SAME_8_BIT = 0.25 / 255, 1.5 / 255


def paste(images: torch.Tensor, faces: Faces, crops: torch.Tensor, masks: torch.Tensor | None = None,
          settings: PasteSettings | None = None, progress: Progress = silent) -> tuple[torch.Tensor, torch.Tensor]:
    """Paste the crops back into the photographs. Return the photographs, and where they changed.

    images: ``[B, H, W, C]``, C 1, 3 or 4, any float type and device; alpha is kept. crops: ``[N, S, S, 3]`` float32 0..1 in face order,
    of any size. masks: ``[N, M, M]`` or one for all, 0..1, of any size; None is the face hull.

    Overlapping faces: every crop was cut from the original photograph, and smaller (farther) faces go in first, so each face is
    composited over what lies beneath and the nearest face has the last word.

    Returns the images ``[B, H, W, C]`` in their own type and the mask ``[B, H, W]`` float32 (without opacity). Pixels where the mask
    is 0 are bit-identical. Without faces the images are returned as they are with a zero mask.
    """
    covered = torch.zeros(images.shape[:3], dtype=torch.float32, device=images.device)
    out = images.clone() if len(faces) else images
    paste_into(out, covered, images, faces, crops, masks, settings, progress)
    return out, covered


def paste_into(out: torch.Tensor, covered: torch.Tensor, images: torch.Tensor, faces: Faces, crops: torch.Tensor,
               masks: torch.Tensor | None = None, settings: PasteSettings | None = None, progress: Progress = silent) -> None:
    """Do what ``paste`` does in memory of the caller: in ``out``, a copy of ``images``, and in ``covered`` ``[B, H, W]`` float32."""
    settings = settings or PasteSettings()
    settings.check()
    _check_photographs(images, faces)
    if not len(faces):
        return
    check_crops(crops, faces)
    crops = crops.to(images.device)
    size = crops.shape[1]
    masks = _fit_masks(masks, faces, size, settings.feather).to(images.device)
    matrices = crop_matrices(faces, size)
    order = sorted(range(len(faces)), key=lambda i: (faces[i].frame, faces[i].size, -i))
    for done, i in enumerate(order):
        progress(done, len(order))
        place = Place(images, faces, i, matrices[i])
        frame = faces[i].frame
        _paste_one(out[frame], covered[frame], place, crops[i], masks[i if len(masks) > 1 else 0], settings)
    progress(len(order), len(order))


def _check_photographs(images: torch.Tensor, faces: Faces) -> None:
    """Raise unless the images have a form that ``paste`` takes and are the ones that the faces were found in."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or not images.is_floating_point():
        raise FaceLoomError(f"image must be a float picture batch [B, H, W, 1, 3 or 4], not {images.dtype} {tuple(images.shape)}.")
    faces.check_image(images.shape)


def _fit_masks(masks: torch.Tensor | None, faces: Faces, size: int, feather: float) -> torch.Tensor:
    """Bring the masks to the crops' size, soften them, and return ``[N or 1, size, size]`` float32 0..1."""
    if masks is None:
        masks = region_mask(("face",), size, faces=faces)
    masks = fit_shared_mask(masks, len(faces), (size, size))
    if feather > 0:
        masks = feather_mask(masks, feather * size, side="inside")
    return masks


@dataclass(frozen=True, eq=False)
class Place:
    """Where one face's crop comes from.

    images: ``[B, H, W, C]``, untouched. faces, index: all faces and which of them. matrix: image → crop ``[2, 3]``.
    """

    images: torch.Tensor
    faces: Faces
    index: int
    matrix: np.ndarray

    @property
    def image(self) -> torch.Tensor:
        """``[H, W, C]``: the face's frame."""
        return self.images[self.faces[self.index].frame]

    @property
    def white(self) -> float:
        """The brightest value of the face's frame, by which crops were brought to 0..1; at least 1."""
        return white_of(self.faces.whites, self.faces[self.index].frame)

    @cached_property
    def seen(self) -> torch.Tensor:
        """``[H, W, 3]``: the face's frame as crops are cut from it, with values above 1 compressed."""
        rgb = expand_rgb(self.image)
        return compress(rgb.to(torch.float32), self.white) if self.white > 1 else rgb

    def cut(self, size: int, step: float = 1.0) -> torch.Tensor:
        """Cut the crop anew: ``[size, size, 3]``, or with a ``step`` above 1 only its pixels on a ``lattice``."""
        return warp(self.seen, self.matrix, size, size, step=step).clamp_(0, 1)

    def known_crop(self, size: int) -> torch.Tensor | None:
        """Find what ``cut(size)`` gives among the crops that were cut before, if it is there; it must not be written in."""
        return find_cut_crop(self.images, self.faces, self.index, self.matrix, size)


def _paste_one(out: torch.Tensor, covered: torch.Tensor, place: Place, crop: torch.Tensor, mask: torch.Tensor,
               settings: PasteSettings) -> None:
    """Composite one crop ``[S, S, 3]`` over ``out`` ``[H, W, C]`` and adds its mask ``[S, S]`` to ``covered`` ``[H, W]``."""
    matrix, image = place.matrix, place.image
    support = support_in_image(mask, matrix, image.shape)
    if support is None:
        return
    x0, y0, x1, y1 = support
    to_crop = matrix.copy()
    to_crop[:, 2] += to_crop[:, :2] @ (x0, y0)
    size, fineness = crop.shape[0], float(scale_of(matrix))
    grid = sampling_grid(to_crop, y1 - y0, x1 - x0, size, size, crop.device)
    alpha = read_back(mask, grid, fineness, "zeros")
    region = covered[y0:y1, x0:x1]
    region += alpha * (1 - region)
    region.clamp_(0, 1)
    edited = edited_weight(place, crop, mask) if settings.keep_unchanged else None
    if edited is not None:
        if not bool(edited.any()):
            return
        alpha = read_back(mask * edited, grid, fineness, "zeros")
    if settings.color != "none":
        reference = reference_crop(place.seen, matrix, size, min(size, 128))
        crop = match_color(crop[None], reference[None], mask[None], settings.color)[0]
    pasted = read_back(crop, grid, fineness, "border")
    beneath = out[y0:y1, x0:x1, :3]
    base = beneath.to(torch.float32)
    if place.white > 1:
        base = compress(base, place.white)
    if beneath.shape[-1] == 1:
        pasted = luma(pasted).clamp_(0, 1).expand(base.shape)
    elif settings.keep_gray and (toning := toning_of(base)) is not None:
        pasted = toning.applied(pasted)
    weight = alpha = alpha[..., None]
    if settings.blend != "feather":
        pasted, weight = (blends.poisson if settings.blend == "poisson" else blends.multi_band)(base, pasted, alpha)
    base, pasted, weight = (values.permute(2, 0, 1).contiguous() for values in (base, pasted, weight))  # planes mix faster
    mixed = torch.lerp(base, pasted, weight * settings.opacity if settings.opacity < 1 else weight)
    if settings.blend != "feather":  # their weight is not always 0 where the mask is
        mixed = torch.where(alpha.permute(2, 0, 1) > 0, mixed, base)
    mixed = _within(mixed, base).permute(1, 2, 0)
    if place.white > 1:
        mixed = torch.where(alpha > 0, expand(mixed, place.white), beneath.to(torch.float32))
    beneath.copy_(mixed)


def _within(mixed: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Keep what was mixed within 0..1, or within what lay beneath where that is not; rounding takes it out by a hair."""
    return torch.minimum(torch.maximum(mixed, base.clamp(max=0)), base.clamp(min=1))


def reference_crop(image: torch.Tensor, matrix: np.ndarray, size: int, edge: int) -> torch.Tensor:
    """Cut what the photograph ``[H, W, C]`` shows where a crop of ``size`` pixels lies, but at ``edge`` pixels: ``[edge, edge, 3]``.

    matrix: image → crop of ``size`` pixels, ``[2, 3]``.
    """
    scale = edge / size
    resized = matrix * scale
    resized[:, 2] += 0.5 * scale - 0.5
    return sample_crops(expand_rgb(image)[None], [0], resized[None], edge)[0]


def support_in_image(mask: torch.Tensor, matrix: np.ndarray, shape: Sequence[int]) -> tuple[int, int, int, int] | None:
    """Return x0, y0, x1, y1 (exclusive) of the image pixels that a mask ``[S, S]`` of a crop can reach; None where there are none.

    matrix: image → crop, ``[2, 3]``. shape: of the image, ``[H, W, ...]``.
    """
    used = nonzero_bounds(mask)
    if used is None:
        return None
    reach = 2 * max(1, int(scale_of(matrix)))
    left, top, right, bottom = bounds(invert(matrix), used[0] - reach, used[1] - reach, used[2] - 1 + reach, used[3] - 1 + reach)
    x0, y0 = max(math.floor(left), 0), max(math.floor(top), 0)
    x1, y1 = min(math.ceil(right) + 1, shape[1]), min(math.ceil(bottom) + 1, shape[0])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def read_back(values: torch.Tensor, grid: torch.Tensor, fineness: float, padding: str) -> torch.Tensor:
    """Read a crop ``[S, S, 3]`` or mask ``[S, S]`` at image pixels: ``[h, w, 3]`` or ``[h, w]``.

    grid: the image pixels' ``sampling_grid`` ``[1, h, w, 2]``. fineness: crop pixels per image pixel. padding: of ``grid_sample``, outside
    the crop. From a fineness of 2 on, the crop first goes through an antialiased resize to one and a half pixels per image pixel. It is
    read bicubically, or bilinearly where it is fine enough for that; a mask always bilinearly, since it must not overshoot.
    """
    mask = values.ndim == 2
    planes = values[None, None] if mask else values.permute(2, 0, 1)[None]
    if fineness >= 2:
        edge = max(1, round(values.shape[0] * 1.5 / fineness))
        planes = F.interpolate(planes, (edge, edge), mode="bilinear" if mask else "bicubic", antialias=True)
    if mask or _BILINEAR_FROM <= fineness < 2:
        out = read_grid(planes, grid, "bilinear", padding)
    else:
        out = read_grid(planes, grid, "bicubic", padding).clamp_(0, 1)
    return out[0] if mask else out.permute(1, 2, 0)


def edited_weight(place: Place, crop: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
    """Find where a crop ``[S, S, 3]`` was edited: ``[S, S]`` 0..1, 1 on and around edits, 0 where it is what the photograph gives.

    mask: ``[S, S]``, where it will be pasted. Returns None where everything was edited, which a lattice of 32 × 32 points tells, so that a
    swapped face costs next to nothing. Otherwise the whole crop is compared with what the photograph gives now, never with its own memory,
    and edits are grown and softened by about 1 % of the edge, over pixels that equal the photograph's.
    """
    size = crop.shape[0]
    points = torch.from_numpy(lattice(size, size / 32)).long().to(crop.device)
    difference = (crop[points][:, points] - place.cut(size, size / 32)).abs().amax(-1)[mask[points][:, points] > 0]
    same, same_8_bit = (int((difference <= limit).sum()) for limit in (_SAME, _SAME_8_BIT))
    few = len(difference) < 16
    rounded = same_8_bit > 0.1 * len(difference) and same < 0.5 * same_8_bit
    if not (few or rounded or same > 0.01 * len(difference)):
        return None
    target = place.known_crop(size)
    if target is None:
        target = place.cut(size)
    elif target.data_ptr() == crop.data_ptr() and target.stride() == crop.stride():
        return torch.zeros_like(mask)  # the crop is the very tensor that was cut, and nobody wrote in it
    difference = (crop - target).abs().amax(-1)
    edited = (difference > (_SAME_8_BIT if rounded else _SAME)).to(torch.float32)[None, None]
    reach = max(1, round(size / 128))
    grow = reach + 3  # as far as a bicubic look-up reaches
    for kernel, padding in (((2 * grow + 1, 1), (grow, 0)), ((1, 2 * grow + 1), (0, grow))):
        edited = F.max_pool2d(edited, kernel, 1, padding)
    for kernel, padding in (((2 * reach + 1, 1), (reach, 0)), ((1, 2 * reach + 1), (0, reach))):
        edited = F.avg_pool2d(edited, kernel, 1, padding, count_include_pad=False)
    return edited[0, 0]
