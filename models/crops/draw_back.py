"""Draws what a network made, a square with an alignment of its own, back into the canonical crop."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..options.ranges import check_number
from ..pixels.affine import bounds, invert
from ..pixels.masks import nonzero_bounds
from ..pixels.sampling import warp

# Fraction of the square's edge over which an output fades in, so that a chin cut off by the square shows no line.
FADE = 1 / 16


def draw_back(crop: torch.Tensor, mask: torch.Tensor, output: torch.Tensor, to_crop: np.ndarray, outline: torch.Tensor, share: float = 1.0
              ) -> None:
    """Draw a network's ``output`` ``[E, E, 3]`` into ``crop`` ``[S, S, 3]``, and write into ``mask`` ``[S, S]`` where it is seen.

    to_crop: output → crop, ``[2, 3]``. outline: where to draw, 0..1, as ``[S, S]`` of the crop (the face) or as ``[E, E, 1]`` of the output
    (the network's own mask). share: how much of the output shows there, the rest being the crop's. Where the mask comes out as 0 the crop
    stays as it was, bit for bit.
    """
    check_number("The share of an output", share, 0, 2)
    mask.zero_()
    window = _drawn_window(outline, to_crop, output.shape[0], crop.shape[0])
    if window is None:
        return
    height, width = (part.stop - part.start for part in window)
    matrix = to_crop.copy()
    matrix[:, 2] -= (window[1].start, window[0].start)
    visible = warp(outline, matrix, height, width, mode="bilinear").clamp(0, 1)[..., 0] if outline.ndim == 3 else outline[window]
    visible = fade(visible, invert(matrix), output.shape[0])
    mask[window] = visible
    weight = (visible > 0).to(crop.dtype)
    # Contiguous, as the other two: tensors of the same layout mix fast.
    weight = (weight * share if share != 1 else weight)[..., None].expand(-1, -1, 3).contiguous()
    crop[window].lerp_(warp(output, matrix, height, width).clamp_(0, 1).contiguous(), weight)


def _drawn_window(outline: torch.Tensor, to_crop: np.ndarray, edge: int, size: int) -> tuple[slice, slice] | None:
    """Return rows and columns of a crop of ``size`` pixels where an output of ``edge`` pixels meets the outline; None where they do not."""
    used = (0, 0, size, size) if outline.ndim == 3 else nonzero_bounds(outline)
    if used is None:
        return None
    x0, y0, x1, y1 = bounds(to_crop, -.5, -.5, edge - .5, edge - .5)
    left, top = max(math.floor(x0), used[0]), max(math.floor(y0), used[1])
    right, bottom = min(math.ceil(x1) + 1, used[2]), min(math.ceil(y1) + 1, used[3])
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None


def fade(mask: torch.Tensor, to_square: np.ndarray, edge: int) -> torch.Tensor:
    """Return a mask ``[h, w]`` that is 0 outside a square of ``edge`` pixels and rises smoothly to what it was within ``FADE`` of its edge.

    to_square: mask → square, ``[2, 3]``.
    """
    height, width = mask.shape
    # The distance from the square's edge, in units of the fade, is the least of four linear functions. So along a row of the mask it is
    # least at one of the row's ends, and only rows with an end near the square's edge change.
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
