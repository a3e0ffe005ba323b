"""Makes faceswap's masks: hulls of groups of landmarks with a blurred border, inside a square whose own border fades.

Hulls are drawn in 8 bits on whole pixels with OpenCV's smoothed lines, as published, so that they are the published masks but for a pixel
or two where lines meet, which depend on the line that is drawn first.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import ndimage

from ...pixels.opencv_like import convex_hull, draw_smooth_polygon, gaussian_kernel

# Which of the 68 points each of the eight hulls is around.
HULLS = (
    (*range(9), 17), (*range(8, 17), 26), (17, 18, 19, 31, 8), (24, 25, 26, 35, 8), (*range(19, 25), 8), (*range(17, 22), 27, 31, 8),
    (*range(22, 27), 27, 35, 8), tuple(range(27, 36)),
)  # fmt: skip
# By how much the kernel of a blur gets smaller from pass to pass.
KERNEL_SHRINKS = {"normalized": .5, "gaussian": .8}
THRESHOLD = .04  # blurred masks become 0 below it, and 1 as near to 1
# The square's border that is not shown is one part in so many of its edge; it fades over this share of what is shown.
HIDDEN_BORDER, FADE = 32, .06


def landmark_mask(points: np.ndarray, size: int, extended: bool = False) -> np.ndarray:
    """Draws the hulls of points ``[68, 2]``, in pixels of the mask: ``[size, size]`` float32 0..1. extended: brows are raised by half their
    height over the eyes."""
    points = _raise_brows(points) if extended else points
    points = np.rint(points).astype(np.int64)
    mask = np.zeros((size, size), np.int64)
    for group in HULLS:
        draw_smooth_polygon(mask, convex_hull(points[list(group)]))
    return mask.astype(np.float32) / 255


def _raise_brows(points: np.ndarray) -> np.ndarray:
    """Points ``[68, 2]`` with the brows raised by half their height over the eyes; halves are cut to whole pixels, as published."""
    points = points.copy()
    left, right = ((points[36] + (points[36] + points[0]) // 2) // 2, (points[45] + (points[16] + points[45]) // 2) // 2)
    below = np.concatenate([left[None], points[36:40], points[42:46], right[None]])
    points[17:27] += (points[17:27] - below) // 2
    return points


def blur_mask(mask: np.ndarray, kind: str = "normalized", edge: int = 3, passes: int = 4) -> np.ndarray:
    """Blurs a mask ``[H, W]`` float32 0..1 ``passes`` times by a box (``normalized``) or a ``gaussian`` of ``edge`` pixels, which gets
    smaller from pass to pass; the mask is mirrored at its border."""
    for _ in range(passes):
        edge |= 1
        weights = gaussian_kernel(edge) if kind == "gaussian" else np.ones(edge)
        for axis in (0, 1):
            mask = ndimage.correlate1d(mask, weights / weights.sum(), axis, mode="mirror")
        edge = round(edge * KERNEL_SHRINKS[kind])
    return mask


def finish_mask(mask: np.ndarray, erode: float = 0) -> np.ndarray:
    """Makes a mask ``[S, S]`` 0..1 of the new face ready to blend with: shrinks it by ``erode`` per cent of its radius (grows it where
    negative), blurs its border, and fades the square's own border."""
    reach = int(abs(erode) / 100 * np.sqrt(mask.sum()) / 2)
    if reach:
        filtered = ndimage.minimum_filter if erode > 0 else ndimage.maximum_filter
        mask = filtered(mask, footprint=_disc(reach), mode="nearest")
    mask = blur_mask(mask)
    mask = np.where(mask < THRESHOLD, 0, np.where(mask > 1 - THRESHOLD, 1, mask))
    return np.minimum(mask, square_fade(len(mask))).astype(np.float32)


def _disc(radius: int) -> np.ndarray:
    offsets = np.arange(-radius, radius + 1)
    return np.hypot(offsets, offsets[:, None]) <= radius + .5


@cache
def square_fade(size: int) -> np.ndarray:
    """Returns the square's own mask ``[size, size]`` 0..1, which fades out before its border."""
    border = size // HIDDEN_BORDER
    square = np.zeros((size, size))
    square[border : size - border, border : size - border] = 1
    return blur_mask(square, "gaussian", 2 * round((size - 2 * border) * FADE / 2) + 1, 1)
