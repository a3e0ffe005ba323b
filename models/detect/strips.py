"""Strips: pictures many times as long as wide (webtoons, screenshots of long pages, panoramas), which are searched window by window."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# A picture longer than this many times its width is a strip, and one window is this many times as long as wide, and no shorter than so many
# pixels: thin strips would else go through in very many windows.
_STRIP_RATIO, _WINDOW_RATIO, _SHORTEST_WINDOW = 4, 3, 640
# How far windows overlap, in widths of the strip: no face is wider, and every face is to lie whole in one of them, with something around.
_OVERLAP = 1.25
_SLACK = 0.1  # widths by which a face's middle may differ between two windows
# Strips thinner than this many pixels show no face that the detector knows.
_THINNEST = 16


@dataclass(frozen=True)
class Window:
    """Part of a strip. rows, columns: of the picture. axis: along which the strip runs, 0 is x. first, last: the middles of this window's
    own faces lie between them, pixels along the strip; those of the windows beside it begin a little before it ends."""

    rows: slice
    columns: slice
    axis: int
    first: float
    last: float

    @property
    def corner(self) -> np.ndarray:
        """``[2]`` x, y of its first pixel."""
        return np.array([self.columns.start, self.rows.start])

    def owns(self, points: np.ndarray) -> bool:
        """Whether ``[K, 2]`` points in the picture are of a face of this window."""
        return bool(self.first <= points[:, self.axis].mean() <= self.last)


def is_strip(height: int, width: int) -> bool:
    """Whether a picture is to be searched in windows."""
    return max(height, width) > _STRIP_RATIO * min(height, width)


def strip_windows(height: int, width: int) -> list[Window]:
    """Return the windows in which a strip is searched; none where it is too thin for a face."""
    short, long = sorted((height, width))
    if short < _THINNEST:
        return []
    length = max(_WINDOW_RATIO * short, _SHORTEST_WINDOW)
    count = 1 + max(0, math.ceil((long - length) / (length - _OVERLAP * short)))
    starts = [round(start) for start in np.linspace(0, max(0, long - length), count)]
    middles = [(start + length + following) / 2 for start, following in pairwise(starts)]
    slack = _SLACK * short
    windows = []
    for start, first, last in zip(starts, [-math.inf, *middles], [*middles, math.inf], strict=True):
        across, along = slice(0, short), slice(start, min(start + length, long))
        rows, columns = (along, across) if height > width else (across, along)
        windows.append(Window(rows, columns, int(height > width), first - slack, last + slack))
    return windows
