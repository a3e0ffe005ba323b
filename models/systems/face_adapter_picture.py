"""Draws what Face-Adapter's ControlNet sees, coloured points where the face shall go, and finds the part of a crop that may change."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from ..parse import REGIONS
from ..pixels.sampling import sampling_grid

SIZE = 512  # edge of the crops that are painted; all numbers of pixels are about this size
CANVAS = 256  # edge of the aligned crop that the points are drawn in
_RADIUS = 2
_EYES = ((36, 39), (42, 45))

_FACE = ("skin", "left_brow", "right_brow", "left_eye", "right_eye", "nose", "mouth", "upper_lip", "lower_lip")
_EARS = ("left_ear", "right_ear")
_IN_FRONT = ("glasses", "earring", "necklace", "hat")


def add_pupils(points: np.ndarray, gaze: np.ndarray) -> np.ndarray:
    """Append the pupils to 68 points ``[N, 68, 2]``: ``[N, 70, 2]``. gaze: ``[N, 4]``, x and y of the left, then of the right eye, in eye
    widths."""
    pupils = []
    for (first, last), turn in zip(_EYES, (gaze[:, :2], gaze[:, 2:]), strict=True):
        width = np.linalg.norm(points[:, last] - points[:, first], axis=-1, keepdims=True)
        pupils.append((points[:, first] + points[:, last]) / 2 + turn * width)
    return np.concatenate([points, np.stack(pupils, 1)], 1)


def rainbow(count: int) -> np.ndarray:
    """Return colours ``[count, 3]`` uint8 RGB from red by green to violet: matplotlib's colour map of this name, reversed."""
    position = np.minimum((np.linspace(0, 1, count) * 256).astype(int), 255) / 255
    colours = np.stack([np.cos(np.pi * position / 2), np.sin(np.pi * position), np.abs(2 * position - 0.5).clip(0, 1)], -1)
    return (colours * 255).astype(np.uint8)


def draw_points(points: np.ndarray, to_canvas: np.ndarray, size: int = SIZE) -> torch.Tensor:
    """Draw dots of radius 2 at points ``[N, K, 2]`` of the aligned crop of 256, later ones over earlier ones, on black.

    to_canvas: ``[N, 2, 3]`` from the crop to the aligned one. Returns crops ``[N, size, size, 3]`` 0..1.
    """
    canvas = torch.zeros((len(points), CANVAS, CANVAS, 3))
    colours = torch.from_numpy(rainbow(points.shape[1]).astype(np.float32) / 255)
    offsets = np.stack(np.meshgrid(*[np.arange(-_RADIUS, _RADIUS + 1)] * 2), -1).reshape(-1, 2)
    offsets = offsets[(offsets**2).sum(-1) <= _RADIUS**2]
    for crop, centres in zip(canvas, np.rint(np.asarray(points, np.float32)).astype(int), strict=True):
        for centre, colour in zip(centres, colours, strict=True):
            x, y = (centre + offsets).T
            inside = (x >= 0) & (y >= 0) & (x < CANVAS) & (y < CANVAS)
            crop[torch.from_numpy(y[inside]), torch.from_numpy(x[inside])] = colour
    grid = sampling_grid(to_canvas, size, size, CANVAS, CANVAS)
    return functional.grid_sample(canvas.movedim(-1, 1), grid, mode="bilinear", align_corners=False).movedim(1, -1)


def swap_area(labels: torch.Tensor) -> torch.Tensor:
    """Return where a swap may paint, ``[N, 512, 512]`` of 0 and 1: the face with 32 pixels around it, and the ears, but nothing that is
    worn in front. labels: ``[N, 512, 512]``, indices into ``REGIONS``."""
    face, ears, front = (_is_one_of(labels, names) for names in (_FACE, _EARS, _IN_FRONT))
    area = torch.maximum(torch.maximum(face, ears), _dilate(face, 65)) * (1 - front)
    return _dilate(area, 5)[:, 0]


def blend_mask(area: torch.Tensor) -> torch.Tensor:
    """Return the mask to paste the result with, ``[N, 512, 512]``: the area, 8 pixels larger and with an edge 17 pixels wide."""
    wide = _dilate(functional.pad(area[:, None], (16, 16, 16, 16)), 17)
    return functional.avg_pool2d(wide, 17, 1, 8)[:, 0, 16:-16, 16:-16].clamp(0, 1)


def _dilate(mask: torch.Tensor, window: int) -> torch.Tensor:
    """Set each pixel of ``[N, 1, H, W]`` to the largest one in a square of ``window`` pixels around it."""
    across = functional.max_pool2d(mask, (1, window), 1, (0, window // 2))
    return functional.max_pool2d(across, (window, 1), 1, (window // 2, 0))


def _is_one_of(labels: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
    """Return ``[N, 1, 512, 512]`` with 1 where a label is one of the regions named."""
    table = torch.tensor([name in names for name in REGIONS], dtype=torch.float32, device=labels.device)
    return table[labels.to(torch.int64)][:, None]
