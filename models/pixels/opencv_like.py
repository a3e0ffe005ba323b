"""Drawing and blurring in 8 bits that sets the same pixels to the same values as OpenCV, for masks that published programs made with it.

Points are ``(x, y)`` in pixels, y pointing down.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

ONE = 1 << 16  # a pixel in 16.16 fixed point
HALF = ONE >> 1
# OpenCV's smooth line: the weight of a pixel by its distance from the line in 32nds of a pixel, from half a pixel on one side on.
_WEIGHT_BY_DISTANCE = np.array((
    168, 177, 185, 194, 202, 210, 218, 224, 231, 236, 241, 246, 249, 252, 254, 254, 254, 254, 252, 249, 246, 241, 236, 231, 224, 218, 210,
    202, 194, 185, 177, 168, 158, 149, 140, 131, 122, 114, 105, 97, 89, 82, 75, 68, 62, 56, 50, 45, 40, 36, 32, 28, 25, 22, 19, 16, 14, 12,
    11, 9, 8, 7, 5, 5,
))  # fmt: skip
# How much a slanted smooth line is strengthened, by its slope in 32nds.
_STRENGTH_BY_SLOPE = (
    181, 181, 181, 182, 182, 183, 184, 185, 187, 188, 190, 192, 194, 196, 198, 201, 203, 206, 209, 211, 214, 218, 221, 224, 227, 231, 235,
    238, 242, 246, 250, 254, 256,
)  # fmt: skip
# OpenCV's Gaussian kernels of few pixels are tables.
_SMALL_KERNELS = {1: (1,), 3: (1, 2, 1), 5: (1, 4, 6, 4, 1), 7: (2, 7, 14, 18, 14, 7, 2), 9: (4, 13, 30, 51, 60, 51, 30, 13, 4)}


def convex_hull(points: np.ndarray) -> np.ndarray:
    """Find the corners ``[M, 2]`` of the convex hull of whole points ``[K, 2]``, clockwise as seen, without points on its edges.

    Points on one line give its two ends, points in one place give one corner (Andrew 1979).
    """
    points = np.unique(points, axis=0)
    if len(points) < 3:
        return points
    corners: list[np.ndarray] = []
    for ordered in (points, points[::-1]):
        half: list[np.ndarray] = []
        for point in ordered:
            while len(half) > 1 and _turn(half[-2], half[-1], point) <= 0:
                half.pop()
            half.append(point)
        corners += half[:-1]
    return np.array(corners)


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> int:
    """Return more than 0 where the way from ``a`` over ``b`` to ``c`` turns right as seen, less than 0 where it turns left."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def line_pixels(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """List the pixels ``[M, 2]`` of Bresenham's line between two pixels, from its left end; halves are rounded towards that end."""
    if start[0] > end[0]:
        start, end = end, start
    step = end - start
    count = int(np.abs(step).max())
    places = np.arange(count + 1)[:, None]
    return start + np.sign(step) * -(-(2 * places * np.abs(step) - count) // max(1, 2 * count))


def _clip_line(start: list[int], end: list[int], last: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Cut a line to the part inside the square from 0 to ``last``: its two ends on whole pixels, or None where no part lies inside.

    The line is cut at the upper and lower edge first, then at the left and right one.
    """
    for axis in (1, 0):
        if max(start[axis], end[axis]) < 0 or min(start[axis], end[axis]) > last:
            return None
        for point in (start, end):
            edge = min(max(point[axis], 0), last)
            if edge != point[axis]:
                across, along = end[1 - axis] - start[1 - axis], end[axis] - start[axis]
                point[1 - axis] += int((edge - point[axis]) * across / along)
                point[axis] = edge
    return np.array(start), np.array(end)


def _row_spans(corners: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the first and the last column ``[size]``, in 16.16 fixed point, where the edges of a convex polygon cross every row.

    Rows that no edge crosses have a first column beyond the square and a last column before it.
    """
    first, last = np.full(size, size * ONE), np.full(size, -ONE)
    bottom = int(corners[:, 1].max())
    for start, end in zip(corners.tolist(), np.roll(corners, -1, 0).tolist(), strict=True):
        (x0, y0), (x1, y1) = sorted((start, end), key=lambda point: point[1])
        if y0 == y1:
            continue
        step = _divide((x1 - x0) * ONE * 2 + y1 - y0, 2 * (y1 - y0))
        rows = np.arange(y0, y1 + (y1 == bottom))
        columns = x0 * ONE + step * (rows - y0)
        visible = (rows >= 0) & (rows < size)
        np.minimum.at(first, rows[visible], columns[visible])
        np.maximum.at(last, rows[visible], columns[visible])
    return first, last


def _divide(numerator: int, denominator: int) -> int:
    """Divide whole numbers, rounding towards zero."""
    return abs(numerator) // abs(denominator) * (1 if (numerator < 0) == (denominator < 0) else -1)


def fill_convex(corners: np.ndarray, size: int) -> np.ndarray:
    """Draw a filled convex polygon of whole corners ``[K, 2]``: ``[size, size]`` uint8, 255 on and inside it, like ``fillConvexPoly``."""
    first, last = ((columns + HALF) >> 16 for columns in _row_spans(corners, size))
    for start, end in zip(corners, np.roll(corners, -1, 0), strict=True):
        if ends := _clip_line(start.tolist(), end.tolist(), size - 1):
            columns, rows = line_pixels(*ends).T
            np.minimum.at(first, rows, columns)
            np.maximum.at(last, rows, columns)
    columns = np.arange(size)
    return np.where((columns >= first[:, None]) & (columns <= last[:, None]), np.uint8(255), np.uint8(0))


def fill_hull(points: np.ndarray, size: int) -> np.ndarray:
    """Draw the filled convex hull of ``[K, 2]`` points, cut to whole pixels: ``[size, size]`` bool, like ``fillPoly``.

    Pixels whose centre lies on or inside the hull, and Bresenham's lines along its outline.
    """
    corners = convex_hull(np.trunc(np.asarray(points, np.float64)).astype(np.int64))
    ys, xs = np.mgrid[:size, :size]
    mask = np.full((size, size), len(corners) > 2)
    ends = np.roll(corners, -1, 0)
    for (x, y), (dx, dy) in zip(corners, ends - corners, strict=True):
        mask &= dx * (ys - y) >= dy * (xs - x)
    for start, end in zip(corners, ends, strict=True):
        line = line_pixels(start, end)
        line = line[((line >= 0) & (line < size)).all(1)]
        mask[line[:, 1], line[:, 0]] = True
    return mask


def draw_smooth_polygon(mask: np.ndarray, corners: np.ndarray) -> None:
    """Draw a filled convex polygon of whole corners ``[K, 2]`` with a smooth outline into ``mask`` ``[S, S]`` int64 0..255, in place.

    Like ``fillConvexPoly`` with ``LINE_AA``.
    """
    for start, end in zip(corners, np.roll(corners, -1, 0), strict=True):
        draw_smooth_line(mask, start, end)
    first, last = _row_spans(corners, len(mask))
    columns = np.arange(len(mask))
    mask[(columns >= (first + ONE - 1 >> 16)[:, None]) & (columns <= (last >> 16)[:, None])] = 255


def draw_smooth_line(mask: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    """Draw a smooth line of 255, three pixels wide, over ``mask`` ``[S, S]`` int64 0..255, in place; like ``line`` with ``LINE_AA``."""
    steep = abs(end[0] - start[0]) <= abs(end[1] - start[1])
    along, across = (1, 0) if steep else (0, 1)
    if end[along] < start[along]:
        start, end = end, start
    count = int(end[along] - start[along])
    step = _divide(int(end[across] - start[across]) * ONE * ONE, count * ONE | 1)
    slope = _STRENGTH_BY_SLOPE[min(abs(step) if step >= 0 else ~step, ONE) >> 11]
    places = np.arange(count + 2)
    strength = np.full(count + 2, slope)
    for place, part in ((0, 124), (1, 252), (-2, 132), (-1, 4)):  # of 256; later ones hold where a line is short
        strength[place] = part * slope >> 8
    if count < 2:
        strength = np.array([4 if count == 0 else 124, 132 if count == 1 else 4, 4][: count + 2]) * slope >> 8
    middle = int(start[across]) * ONE + places * step + HALF
    off = middle >> 11 & 31
    for beside, distance in ((-1, off + 32), (0, off), (1, 63 - off)):
        rows, columns = (int(start[along]) + places, (middle >> 16) + beside)
        rows, columns = (rows, columns) if steep else (columns, rows)
        visible = (rows >= 0) & (rows < len(mask)) & (columns >= 0) & (columns < len(mask))
        weight = (strength * _WEIGHT_BY_DISTANCE[distance] >> 8 & 255)[visible]
        for _ in range(2):
            here = mask[rows[visible], columns[visible]]
            mask[rows[visible], columns[visible]] = here + ((255 - here) * weight + 127 >> 8)


def gaussian_blur_uint8(mask: np.ndarray, sigma_x: float, sigma_y: float) -> np.ndarray:
    """Blur ``[H, W]`` uint8 by a Gaussian of ``sigma_x`` and ``sigma_y`` pixels, mirrored at the border, like ``GaussianBlur`` of 8 bits.

    The arithmetic is OpenCV's 8.8 fixed point; the kernel reaches three sigmas.
    """
    rows = ndimage.correlate1d(mask.astype(np.int64), _fixed_point_kernel(sigma_x), 1, mode="mirror")
    columns = np.asarray(ndimage.correlate1d(rows, _fixed_point_kernel(sigma_y), 0, mode="mirror"), np.int64)
    return ((columns + HALF) >> 16).astype(np.uint8)


def _fixed_point_kernel(sigma: float) -> np.ndarray:
    """Make whole weights that add up to 256; what rounding takes from one weight is given to the next."""
    reach = int(round(6 * sigma + 1) | 1) // 2
    weights = np.exp(-.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = weights / weights.sum() * 256
    rounded, carry = np.zeros(2 * reach + 1, np.int64), 0.0
    for i in range(reach):
        rounded[i] = rounded[-1 - i] = round(weights[i] + carry)
        carry += weights[i] - rounded[i]
    rounded[reach] = 256 - rounded.sum()
    return rounded


def gaussian_kernel(edge: int) -> np.ndarray:
    """Make the unscaled weights ``[edge]`` of the Gaussian that ``GaussianBlur`` takes for a kernel of ``edge`` pixels."""
    if edge in _SMALL_KERNELS:
        return np.array(_SMALL_KERNELS[edge])
    sigma = .3 * ((edge - 1) * .5 - 1) + .8
    return np.exp(-.5 * ((np.arange(edge) - edge // 2) / sigma) ** 2)
