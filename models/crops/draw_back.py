"""A network's answer, a square with its own alignment, drawn into the canonical crop."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..pixels.affine import bounds, invert
from ..pixels.masks import nonzero_bounds
from ..pixels.sampling import warp

# Share of its square's edge over which an answer fades in, so that a chin cut off by the square shows no line.
FADE = 1 / 16


def draw_back(crop: torch.Tensor, mask: torch.Tensor, answer: torch.Tensor, to_crop: np.ndarray, outline: torch.Tensor, share: float = 1.0
         ) -> None:
    """Draw ``answer`` ``[E, E, 3]`` into ``crop`` ``[S, S, 3]`` through ``to_crop`` ``[2, 3]``, answer → crop.

    ``outline``: ``[S, S]`` where to (the face), or ``[E, E, 1]`` in the answer's own pixels (the network's mask). ``share``: how much
    of the answer and how much of the crop is shown there. ``mask`` ``[S, S]`` becomes the outline as far as the answer reaches; where
    it is 0 the crop stays as it was. Both are written to; only the rectangle that can change is looked at.
    """
    mask.zero_()
    window = reach(outline, to_crop, answer.shape[0], crop.shape[0])
    if window is None:
        return
    height, width = (part.stop - part.start for part in window)
    matrix = to_crop.copy()
    matrix[:, 2] -= (window[1].start, window[0].start)
    shown = warp(outline, matrix, height, width, mode="bilinear").clamp(0, 1)[..., 0] if outline.ndim == 3 else outline[window]
    shown = fade(shown, invert(matrix), answer.shape[0])
    mask[window] = shown
    weight = (shown > 0).to(crop.dtype)
    weight = (weight * share if share != 1 else weight)[..., None].expand(-1, -1, 3).contiguous()  # alike in memory they mix fast
    crop[window].lerp_(warp(answer, matrix, height, width).clamp_(0, 1).contiguous(), weight)


def reach(outline: torch.Tensor, to_crop: np.ndarray, edge: int, size: int) -> tuple[slice, slice] | None:
    """Rows and columns of a crop of ``size`` where an answer of ``edge`` pixels meets an outline as ``draw`` takes it, if anywhere."""
    used = (0, 0, size, size) if outline.ndim == 3 else nonzero_bounds(outline)
    if used is None:
        return None
    x0, y0, x1, y1 = bounds(to_crop, -.5, -.5, edge - .5, edge - .5)
    left, top = max(math.floor(x0), used[0]), max(math.floor(y0), used[1])
    right, bottom = min(math.ceil(x1) + 1, used[2]), min(math.ceil(y1) + 1, used[3])
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None


def fade(mask: torch.Tensor, to_square: np.ndarray, edge: int) -> torch.Tensor:
    """``mask`` ``[h, w]``, 0 outside a square of ``edge`` pixels and rising smoothly to what it was within ``FADE`` of the square's edge.

    ``to_square`` ``[2, 3]``: mask → square.
    """
    height, width = mask.shape
    # Distance from the square's edge, in units of the fade: the least of four that grow evenly, so a row is least at one of its ends.
    scale = 1 / (edge * FADE)
    m = to_square * scale
    m[:, 2] += (0.5 - edge / 2) * scale
    across, down = m[:, :1] * np.arange(width) + m[:, 2:], m[:, 1:2] * np.arange(height)
    ends = edge / 2 * scale - np.abs(across[:, None, [0, -1]] + down[..., None]).max((0, 2))
    rows = np.flatnonzero(ends < 1)
    if not len(rows):
        return mask
    part = slice(int(rows[0]), int(rows[-1]) + 1)
    across, down = (torch.from_numpy(values).to(mask) for values in (across, down[:, part]))
    inside = (edge / 2 * scale - (across[:, None] + down[..., None]).abs_().amax(0)).clamp_(0, 1)
    out = mask.clone()
    out[part] *= inside * inside * (3 - 2 * inside)
    return out
