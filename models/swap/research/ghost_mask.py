"""The mask GHOST blends with: the hull of 106 points of the swapped face, eroded and blurred as the two faces' outlines differ.

It is made in 8 bits on integer points, as published, so that it is the published mask to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

BROWS = np.array([43, 48, 49, 51, 50, 102, 103, 104, 105, 101])
EYE_TOPS = np.array([35, 41, 40, 42, 39, 89, 95, 94, 96, 93])
LEFT_CHEEK, RIGHT_CHEEK = [1, 2, 13], [17, 18, 29]
HALF = 1 << 15  # of a pixel in 16.16 fixed point


@dataclass(frozen=True)
class MaskParameters:
    """``erode``: edge in pixels of the square that shrinks the mask (grows it where negative); ``sigma_x``, ``sigma_y``: blur in pixels."""

    erode: int
    sigma_x: float
    sigma_y: float

    @property
    def brow_factor(self) -> float:
        """How far brows are raised, in halves of their distance to the eyes."""
        return 2.7 if self.erode == 15 else .5 if self.erode < 0 else 2.0


def mask_parameters(swapped: np.ndarray, target: np.ndarray) -> MaskParameters:
    """How to shrink and blur, by how far the swapped face's cheeks ``[106, 2]`` lie inside the target's, at 224 pixels."""
    inside = swapped[:, 0] - target[:, 0]
    offset = max(inside[LEFT_CHEEK].sum(), -inside[RIGHT_CHEEK].sum())
    if offset > 6:
        return MaskParameters(15, 15, 10)
    if offset > 3:
        return MaskParameters(10, 10, 8)
    return MaskParameters(-5, 5, 10) if offset < -3 else MaskParameters(5, 5, 5)


def blend_mask(swapped: np.ndarray, target: np.ndarray, size: int = 224, parameters: MaskParameters | None = None) -> np.ndarray:
    """``[size, size]`` float32 0..1 for 106 points ``[106, 2]`` of the swapped and of the target crop, in its pixels.

    parameters: those of a clip's first frame, to be kept over its run; None takes them from these points.
    """
    parameters = parameters or mask_parameters(swapped, target)
    points = swapped.astype(np.int32)
    raised = points.astype(np.float64)
    raised[BROWS] += .5 * parameters.brow_factor * (raised[BROWS] - raised[EYE_TOPS])
    points = raised.astype(np.int32)
    mask = fill_convex(points[ConvexHull(points).vertices], size)
    edge = max(abs(parameters.erode), 1)
    mask = (ndimage.minimum_filter(mask, edge, mode="constant", cval=255) if parameters.erode >= 0
            else ndimage.maximum_filter(mask, edge, mode="constant", cval=0))
    border = int(2 * parameters.sigma_y)
    inner = np.zeros_like(mask)
    inner[border : size - border, border : size - border] = mask[border : size - border, border : size - border]
    return blur8(inner, parameters.sigma_x, parameters.sigma_y).astype(np.float32) / 255


def fill_convex(corners: np.ndarray, size: int) -> np.ndarray:
    """``[size, size]`` uint8, 255 on and inside a convex polygon of integer corners ``[K, 2]``: the pixels OpenCV's fillConvexPoly sets."""
    low, high = np.full(size, size, np.int64), np.full(size, -1, np.int64)

    def reach(rows: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
        seen = (rows >= 0) & (rows < size)
        np.minimum.at(low, rows[seen], left[seen])
        np.maximum.at(high, rows[seen], right[seen])

    for start, end in zip(corners, np.roll(corners, -1, 0)):
        if ends := _clip(start.tolist(), end.tolist(), size - 1):
            reach(*_line(*ends))
        (x0, y0), (x1, y1) = sorted((start.tolist(), end.tolist()), key=lambda point: point[1])
        rows = np.arange(y0, y1 + 1)
        if y1 > y0:
            slope = int((((x1 - x0) << 16) * 2 + (y1 - y0)) / (2 * (y1 - y0)))
            columns = ((x0 << 16) + slope * (rows - y0) + HALF) >> 16
            reach(rows[:-1], columns[:-1], columns[:-1])
    columns = np.arange(size)
    return np.where((columns >= low[:, None]) & (columns <= high[:, None]), np.uint8(255), np.uint8(0))


def _clip(start: list[int], end: list[int], last: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The part of a line inside the square from 0 to ``last``, its new ends on whole pixels; rows first, then columns."""
    for axis in (1, 0):
        ends = start, end
        if max(start[axis], end[axis]) < 0 or min(start[axis], end[axis]) > last:
            return None
        for point in ends:
            edge = min(max(point[axis], 0), last)
            if edge != point[axis]:
                across, along = end[1 - axis] - start[1 - axis], end[axis] - start[axis]
                point[1 - axis] += int((edge - point[axis]) * across / along)
                point[axis] = edge
    return np.array(start), np.array(end)


def _line(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and columns again of a Bresenham line drawn from left to right."""
    if start[0] > end[0]:
        start, end = end, start
    step = end - start
    long, short = np.abs(step).max(), np.abs(step).min()
    steps = np.arange(long + 1)
    minor = (2 * short * steps + long - 1) // max(2 * long, 1)  # rounds halves down
    steep = abs(step[1]) > abs(step[0])
    along, across = steps * np.sign(step[1 if steep else 0]), minor * np.sign(step[0 if steep else 1])
    columns, rows = (across, along) if steep else (along, across)
    return rows + start[1], columns + start[0], columns + start[0]


def blur8(mask: np.ndarray, sigma_x: float, sigma_y: float) -> np.ndarray:
    """A Gaussian blur of ``[H, W]`` uint8 in 8.8 fixed point, three sigmas wide, mirrored at the border."""
    rows = ndimage.correlate1d(mask.astype(np.int64), _kernel8(sigma_x), 1, mode="mirror")
    return ((ndimage.correlate1d(rows, _kernel8(sigma_y), 0, mode="mirror") + HALF) >> 16).astype(np.uint8)


def _kernel8(sigma: float) -> np.ndarray:
    """Weights in 256ths that add up to 256; what rounding takes from one is given to the next."""
    reach = int(round(6 * sigma + 1) | 1) // 2
    weights = np.exp(-.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = weights / weights.sum() * 256
    rounded, carry = np.zeros(2 * reach + 1, np.int64), 0.0
    for i in range(reach):
        rounded[i] = rounded[-1 - i] = round(weights[i] + carry)
        carry += weights[i] - rounded[i]
    rounded[reach] = 256 - rounded.sum()
    return rounded
