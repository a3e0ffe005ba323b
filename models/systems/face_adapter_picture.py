"""What Face-Adapter shows its ControlNet: coloured points where the face shall go, drawn into the part of the picture that may change."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from ..parse import REGIONS
from ..pixels.sampling import sampling_grid

SIZE = 512  # all of Face-Adapter's numbers of pixels are about pictures of this size
CANVAS = 256  # the aligned picture the points are drawn in
_RADIUS = 2
_EYES = ((36, 39), (42, 45))

_FACE = ("skin", "left_brow", "right_brow", "left_eye", "right_eye", "nose", "mouth", "upper_lip", "lower_lip")
_EARS = ("left_ear", "right_ear")
_IN_FRONT = ("glasses", "earring", "necklace", "hat")


def with_gaze(points: np.ndarray, gaze: np.ndarray) -> np.ndarray:
    """``[N, 68, 2]`` points and ``[N, 4]`` gaze (x, y of the left, then of the right eye, in eye widths) to ``[N, 70, 2]`` with pupils."""
    pupils = []
    for (first, last), turn in zip(_EYES, (gaze[:, :2], gaze[:, 2:]), strict=True):
        width = np.linalg.norm(points[:, last] - points[:, first], axis=-1, keepdims=True)
        pupils.append((points[:, first] + points[:, last]) / 2 + turn * width)
    return np.concatenate([points, np.stack(pupils, 1)], 1)


def rainbow(count: int) -> np.ndarray:
    """``[count, 3]`` uint8 RGB from red by green to violet: matplotlib's colour map of this name, the other way round."""
    at = np.minimum((np.linspace(0, 1, count) * 256).astype(int), 255) / 255
    colours = np.stack([np.cos(np.pi * at / 2), np.sin(np.pi * at), np.abs(2 * at - 0.5).clip(0, 1)], -1)
    return (colours * 255).astype(np.uint8)


def draw_points(points: np.ndarray, to_canvas: np.ndarray, size: int = SIZE) -> torch.Tensor:
    """Dots of radius 2 at ``[N, K, 2]`` of the 256 picture, later ones over earlier ones, seen through crop → 256 matrices ``[N, 2, 3]``:
    crops ``[N, size, size, 3]`` 0..1 on black."""
    canvas = torch.zeros((len(points), CANVAS, CANVAS, 3))
    colours = torch.from_numpy(rainbow(points.shape[1]).astype(np.float32) / 255)
    offsets = np.stack(np.meshgrid(*[np.arange(-_RADIUS, _RADIUS + 1)] * 2), -1).reshape(-1, 2)
    offsets = offsets[(offsets**2).sum(-1) <= _RADIUS**2]
    for picture, places in zip(canvas, np.rint(np.asarray(points, np.float32)).astype(int), strict=True):
        for place, colour in zip(places, colours, strict=True):
            x, y = (place + offsets).T
            inside = (x >= 0) & (y >= 0) & (x < CANVAS) & (y < CANVAS)
            picture[torch.from_numpy(y[inside]), torch.from_numpy(x[inside])] = colour
    grid = sampling_grid(to_canvas, size, size, CANVAS, CANVAS)
    return functional.grid_sample(canvas.movedim(-1, 1), grid, mode="bilinear", align_corners=False).movedim(1, -1)


def swap_area(labels: torch.Tensor) -> torch.Tensor:
    """Labels ``[N, 512, 512]`` (indices into ``REGIONS``) to where a swap may paint, ``[N, 512, 512]`` of 0 and 1: the face with 32
    pixels around it, and the ears, but nothing that is worn in front."""
    face, ears, front = (_any_of(labels, names) for names in (_FACE, _EARS, _IN_FRONT))
    area = torch.maximum(torch.maximum(face, ears), _grown(face, 65)) * (1 - front)
    return _grown(area, 5)[:, 0]


def blend_mask(area: torch.Tensor) -> torch.Tensor:
    """``[N, 512, 512]``: the area, 8 pixels larger and with an edge of 17 pixels, to paste the result with."""
    wide = _grown(functional.pad(area[:, None], (16, 16, 16, 16)), 17)
    return functional.avg_pool2d(wide, 17, 1, 8)[:, 0, 16:-16, 16:-16].clamp(0, 1)


def _grown(mask: torch.Tensor, window: int) -> torch.Tensor:
    """The largest of a square of ``window`` pixels around each pixel."""
    across = functional.max_pool2d(mask, (1, window), 1, (0, window // 2))
    return functional.max_pool2d(across, (window, 1), 1, (window // 2, 0))


def _any_of(labels: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
    table = torch.tensor([name in names for name in REGIONS], dtype=torch.float32, device=labels.device)
    return table[labels.to(torch.int64)][:, None]
