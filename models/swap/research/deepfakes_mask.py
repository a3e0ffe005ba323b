"""faceswap's masks: hulls of groups of landmarks, how their border is blurred, and how the square's own border fades.

Hulls are drawn in 8 bits on whole pixels with OpenCV's smoothed lines, as published, so that they are the published masks but for a pixel
or two where lines meet, which depend on the line that is drawn first.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import ndimage

# Which of the 68 points each of the eight hulls is around.
HULLS = (
    (*range(9), 17), (*range(8, 17), 26), (17, 18, 19, 31, 8), (24, 25, 26, 35, 8), (*range(19, 25), 8), (*range(17, 22), 27, 31, 8),
    (*range(22, 27), 27, 35, 8), tuple(range(27, 36)),
)  # fmt: skip
ONE = 1 << 16  # a pixel in 16.16 fixed point
# OpenCV's smoothed line: weights by the distance of a pixel from the line in 32nds, from half a pixel on one side on, and how much slanted
# lines are strengthened, by the slope in 32nds.
_NEAR = np.array((
    168, 177, 185, 194, 202, 210, 218, 224, 231, 236, 241, 246, 249, 252, 254, 254, 254, 254, 252, 249, 246, 241, 236, 231, 224, 218, 210,
    202, 194, 185, 177, 168, 158, 149, 140, 131, 122, 114, 105, 97, 89, 82, 75, 68, 62, 56, 50, 45, 40, 36, 32, 28, 25, 22, 19, 16, 14, 12,
    11, 9, 8, 7, 5, 5,
))  # fmt: skip
_SLANTED = (181, 181, 181, 182, 182, 183, 184, 185, 187, 188, 190, 192, 194, 196, 198, 201, 203, 206, 209, 211, 214, 218, 221, 224, 227,
            231, 235, 238, 242, 246, 250, 254, 256)
# OpenCV's Gaussians of few pixels.
_SMALL = {1: (1,), 3: (1, 2, 1), 5: (1, 4, 6, 4, 1), 7: (2, 7, 14, 18, 14, 7, 2), 9: (4, 13, 30, 51, 60, 51, 30, 13, 4)}
# How blurred masks go on: each pass with a kernel this much smaller.
SHRINKS = {"normalized": .5, "gaussian": .8}
THRESHOLD = .04  # blurred masks are 0 below it, and 1 as near to 1
EDGE, SOFT = 32, .06  # of the square: its border that is not shown is one part in so many, softened by this share of what is


def landmark_mask(points: np.ndarray, size: int, extended: bool = False) -> np.ndarray:
    """``[size, size]`` float32 0..1: the hulls of ``[68, 2]`` points in its pixels. extended: brows are raised by half their height over
    the eyes."""
    points = _raised(points) if extended else points
    points = np.rint(points).astype(np.int64)
    mask = np.zeros((size, size), np.int64)
    for group in HULLS:
        corners = hull(points[list(group)])
        for start, end in zip(corners, np.roll(corners, -1, 0)):
            _draw_line(mask, start, end)
        _fill(mask, corners)
    return mask.astype(np.float32) / 255


def _raised(points: np.ndarray) -> np.ndarray:
    """Halves are cut to whole pixels, as published."""
    points = points.copy()
    left, right = ((points[36] + (points[36] + points[0]) // 2) // 2, (points[45] + (points[16] + points[45]) // 2) // 2)
    below = np.concatenate([left[None], points[36:40], points[42:46], right[None]])
    points[17:27] += (points[17:27] - below) // 2
    return points


def hull(points: np.ndarray) -> np.ndarray:
    """Corners ``[K, 2]`` of the convex hull of whole points, in order, without those on its edges (Andrew 1979)."""
    ordered = sorted({(int(x), int(y)) for x, y in points})

    def half(way: list[tuple[int, int]]) -> list[tuple[int, int]]:
        out: list[tuple[int, int]] = []
        for x, y in way:
            while len(out) > 1 and (out[-1][0] - out[-2][0]) * (y - out[-2][1]) <= (out[-1][1] - out[-2][1]) * (x - out[-2][0]):
                out.pop()
            out.append((x, y))
        return out[:-1]

    return np.array(half(ordered) + half(ordered[::-1]) or ordered)


def _draw_line(mask: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    """A smoothed line of 255 over ``mask``, three pixels wide across."""
    steep = abs(end[0] - start[0]) <= abs(end[1] - start[1])
    along, across = (1, 0) if steep else (0, 1)
    if end[along] < start[along]:
        start, end = end, start
    count = int(end[along] - start[along])
    step = _divide(int(end[across] - start[across]) * ONE * ONE, count * ONE | 1)
    slope = _SLANTED[min(abs(step) if step >= 0 else ~step, ONE) >> 11]
    places = np.arange(count + 2)
    strength = np.full(count + 2, slope)
    for place, part in ((0, 124), (1, 252), (-2, 132), (-1, 4)):  # of 256; later ones hold where a line is short
        strength[place] = part * slope >> 8
    if count < 2:
        strength = np.array([4 if count == 0 else 124, 132 if count == 1 else 4, 4][: count + 2]) * slope >> 8
    middle = int(start[across]) * ONE + places * step + ONE // 2
    off = middle >> 11 & 31
    for beside, near in ((-1, off + 32), (0, off), (1, 63 - off)):
        rows, columns = (int(start[along]) + places, (middle >> 16) + beside)
        rows, columns = (rows, columns) if steep else (columns, rows)
        seen = (rows >= 0) & (rows < len(mask)) & (columns >= 0) & (columns < len(mask))
        weight = (strength * _NEAR[near] >> 8 & 255)[seen]
        for _ in range(2):
            here = mask[rows[seen], columns[seen]]
            mask[rows[seen], columns[seen]] = here + ((255 - here) * weight + 127 >> 8)


def _fill(mask: np.ndarray, corners: np.ndarray) -> None:
    """255 on the pixels within a convex polygon, row by row between its edges in fixed point."""
    bottom = int(corners[:, 1].max())
    low, high = np.full(len(mask), len(mask) * ONE), np.full(len(mask), -ONE)
    for start, end in zip(corners, np.roll(corners, -1, 0)):
        (x0, y0), (x1, y1) = sorted((start.tolist(), end.tolist()), key=lambda point: point[1])
        if y0 == y1:
            continue
        step = _divide((x1 - x0) * ONE * 2 + y1 - y0, 2 * (y1 - y0))
        rows = np.arange(y0, y1 + (y1 == bottom))
        columns = x0 * ONE + step * (rows - y0)
        seen = (rows >= 0) & (rows < len(mask))
        np.minimum.at(low, rows[seen], columns[seen])
        np.maximum.at(high, rows[seen], columns[seen])
    columns = np.arange(len(mask))
    mask[(columns >= (low + ONE - 1 >> 16)[:, None]) & (columns <= (high >> 16)[:, None])] = 255


def _divide(a: int, b: int) -> int:
    """Towards zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def blurred(mask: np.ndarray, kind: str = "normalized", edge: int = 3, passes: int = 4) -> np.ndarray:
    """A mask ``[H, W]`` float32 0..1 blurred ``passes`` times by a box (``normalized``) or a ``gaussian`` of ``edge`` pixels, which gets
    smaller from pass to pass; mirrored at the border."""
    for _ in range(passes):
        edge |= 1
        weights = _gaussian(edge) if kind == "gaussian" else np.ones(edge)
        for axis in (0, 1):
            mask = ndimage.correlate1d(mask, weights / weights.sum(), axis, mode="mirror")
        edge = round(edge * SHRINKS[kind])
    return mask


def _gaussian(edge: int) -> np.ndarray:
    """OpenCV's for a kernel of this size."""
    if edge in _SMALL:
        return np.array(_SMALL[edge])
    sigma = .3 * ((edge - 1) * .5 - 1) + .8
    return np.exp(-.5 * ((np.arange(edge) - edge // 2) / sigma) ** 2)


def finished(mask: np.ndarray, erode: float = 0) -> np.ndarray:
    """A mask ``[S, S]`` 0..1 of where the new face is, ready to blend with: shrunk by ``erode`` per cent of its radius (grown where
    negative), its border blurred, and the square's own border faded."""
    reach = int(abs(erode) / 100 * np.sqrt(mask.sum()) / 2)
    if reach:
        filtered = ndimage.minimum_filter if erode > 0 else ndimage.maximum_filter
        mask = filtered(mask, footprint=_disc(reach), mode="nearest")
    mask = blurred(mask)
    mask = np.where(mask < THRESHOLD, 0, np.where(mask > 1 - THRESHOLD, 1, mask))
    return np.minimum(mask, square_fade(len(mask))).astype(np.float32)


def _disc(radius: int) -> np.ndarray:
    away = np.arange(-radius, radius + 1)
    return np.hypot(away, away[:, None]) <= radius + .5


@cache
def square_fade(size: int) -> np.ndarray:
    """``[size, size]`` 0..1: the square itself, softly ending before its border."""
    border = size // EDGE
    square = np.zeros((size, size))
    square[border : size - border, border : size - border] = 1
    return blurred(square, "gaussian", 2 * round((size - 2 * border) * SOFT / 2) + 1, 1)
