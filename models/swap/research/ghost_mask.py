"""Makes the mask GHOST blends with: the hull of 106 points of the swapped face, eroded and blurred as the two faces' outlines differ.

It is made in 8 bits on integer points, as published, so that it is the published mask to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ...pixels.opencv_like import convex_hull, fill_convex, gaussian_blur_uint8

BROWS = np.array([43, 48, 49, 51, 50, 102, 103, 104, 105, 101])
EYE_TOPS = np.array([35, 41, 40, 42, 39, 89, 95, 94, 96, 93])
LEFT_CHEEK, RIGHT_CHEEK = [1, 2, 13], [17, 18, 29]


@dataclass(frozen=True)
class MaskParameters:
    """erode: edge in pixels of the square that shrinks the mask (grows it where negative). sigma_x, sigma_y: of the blur, pixels."""

    erode: int
    sigma_x: float
    sigma_y: float

    @property
    def brow_factor(self) -> float:
        """By how much the mask's brows are raised, in halves of their distance to the eyes."""
        return 2.7 if self.erode == 15 else .5 if self.erode < 0 else 2.0


def mask_parameters(swapped: np.ndarray, target: np.ndarray) -> MaskParameters:
    """Chooses how to shrink and blur the mask by how far the cheeks among the swapped face's points ``[106, 2]`` lie inside the
    target's, in crops of 224 pixels."""
    inside = swapped[:, 0] - target[:, 0]
    offset = max(inside[LEFT_CHEEK].sum(), -inside[RIGHT_CHEEK].sum())
    if offset > 6:
        return MaskParameters(15, 15, 10)
    if offset > 3:
        return MaskParameters(10, 10, 8)
    return MaskParameters(-5, 5, 10) if offset < -3 else MaskParameters(5, 5, 5)


def blend_mask(swapped: np.ndarray, target: np.ndarray, size: int = 224, parameters: MaskParameters | None = None) -> np.ndarray:
    """Makes the mask ``[size, size]`` float32 0..1 for points ``[106, 2]`` of the swapped and of the target crop, in pixels of the mask.

    parameters: those of a clip's first frame, which are kept while the face is in every frame; None: chosen by these points.
    """
    parameters = parameters or mask_parameters(swapped, target)
    points = swapped.astype(np.int32)
    raised = points.astype(np.float64)
    raised[BROWS] += .5 * parameters.brow_factor * (raised[BROWS] - raised[EYE_TOPS])
    points = raised.astype(np.int32)
    mask = fill_convex(convex_hull(points), size)
    edge = max(abs(parameters.erode), 1)
    mask = (ndimage.minimum_filter(mask, edge, mode="constant", cval=255) if parameters.erode >= 0
            else ndimage.maximum_filter(mask, edge, mode="constant", cval=0))
    border = int(2 * parameters.sigma_y)
    inner = np.zeros_like(mask)
    inner[border : size - border, border : size - border] = mask[border : size - border, border : size - border]
    return gaussian_blur_uint8(inner, parameters.sigma_x, parameters.sigma_y).astype(np.float32) / 255
