"""The 68-point fit from many starting squares, for faces on which one start is not to be trusted: half-profiles, covered eyes, side light.

There the predictor ends at other points from nearly every square. Right fits resemble each other, wrong ones are each wrong in their
own way, and dlib's 5-point predictor, which was trained on wider poses, is asked about eyes and nose. The fit that agrees best with the
others and with the five points wins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..faces import MIRROR_68
from ..pixels.affine import invert, similarity, transform
from .dlib_points import PointFitter, upright_crop, upright_matrix

# From the face network's box to dlib's square: how far below the middle, and the edge, in box edges. Measured where both see a face.
_SQUARE_BELOW, _SQUARE_PER_BOX = 0.10, 0.97
# Shift in edges (x, y) and scale of the squares from which the points are predicted.
_STARTS = tuple((x, y, scale) for x in (-0.2, -0.1, 0, 0.1, 0.2) for y in (-0.1, 0.05) for scale in (0.8, 1.0))
_NEAR_STARTS = ((0, 0, 1), (-0.1, 0, 1), (0.1, 0, 1), (0, 0, 0.85), (0, 0, 1.15))
_FIVE_STARTS = ((0, 0, 1), (0.06, 0.06, 0.95), (-0.06, 0.06, 1.05), (0.06, -0.06, 1.1), (-0.06, -0.06, 0.9))
_FIVE_OF_68 = [45, 42, 36, 39, 33]  # the 68-point indices of the 5-point predictor's points
_MIRROR_5 = [2, 3, 0, 1, 4]  # the index of each one's mirror image
# Where those lie on an average face, in edges of the square from its middle.
_MEAN_FIVE = np.array([[0.304, -0.249], [0.132, -0.241], [-0.281, -0.252], [-0.119, -0.241], [-0.013, 0.07]])
_FIVE_WEIGHT = 2.0  # of the distance to the five points, against that to the nearest other fits
_ROLLS = (-0.7, 0.7)  # radians, tried where the upright fits do not agree
_AGREEING = 0.12  # the worst rating at which fits agree
_NEAREST = 6  # fits to which each is compared, itself included, and that may be averaged
_SAME_FIT = 0.06  # distance in edges below which two fits are the same


class _Fit(NamedTuple):
    """Points ``[68, 2]`` in image pixels, and how far the fits lie apart, in edges: lower is better."""

    points: np.ndarray
    rating: float


class ConsensusFitter:
    """Fits 68 points in the boxes of dlib's face network. five: dlib's 5-point predictor, or None."""

    def __init__(self, fitter: PointFitter, five=None) -> None:
        self._fitter, self._five = fitter, five

    def fit(self, gray: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Fit ``[68, 2]`` float32 points in ``box`` ``[4]`` (x0, y0, x1, y1) of ``gray`` ``[H, W]`` uint8."""
        best = self._fit_at_roll(gray, box, 0.0)
        if best.rating > _AGREEING:
            best = min([best, *(self._fit_at_roll(gray, box, roll) for roll in _ROLLS)], key=lambda fit: fit.rating)
        return best.points

    def _fit_at_roll(self, gray: np.ndarray, box: np.ndarray, roll: float) -> _Fit:
        """Fit a head tilted by ``roll`` (radians): the mean of the fits that agree best."""
        middle, width = (box[:2] + box[2:]) / 2, float(box[2] - box[0])
        down = np.array([-np.sin(roll), np.cos(roll)])
        matrix = upright_matrix(middle + _SQUARE_BELOW * width * down, _SQUARE_PER_BOX * width, roll)
        shapes = self._fitter.predict(upright_crop(gray, matrix, self._fitter.crop_edge), _STARTS, MIRROR_68)
        five = None
        if self._five is not None:
            five, nearer = self._five_points(gray, upright_matrix(middle, width, roll), width)
            more = self._fitter.predict(upright_crop(gray, nearer, self._fitter.crop_edge), _NEAR_STARTS)
            shapes = np.concatenate([shapes, transform(transform(more, invert(nearer)), matrix)])
            five = transform(five, matrix)
        shapes = shapes / self._fitter.square_edge
        distances = np.linalg.norm(shapes[:, None, 17:] - shapes[None, :, 17:], axis=-1).mean(-1)
        rating = np.sort(distances, 1)[:, 1:_NEAREST].mean(1)
        if five is not None:
            rating = rating + _FIVE_WEIGHT * np.linalg.norm(shapes[:, _FIVE_OF_68] - five / self._fitter.square_edge, axis=-1).mean(1)
        ranked = np.argsort(rating)[:_NEAREST]
        agreeing = ranked[distances[ranked[0], ranked] < _SAME_FIT]
        points = transform(shapes[agreeing].mean(0) * self._fitter.square_edge, invert(matrix))
        return _Fit(points.astype(np.float32), float(rating[ranked[0]]))

    def _five_points(self, gray: np.ndarray, matrix: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
        """Predict ``[5, 2]`` points in image pixels, and return with them the matrix ``[2, 3]`` of the square in which they would lie
        on an average face. width: the box's, in pixels; the square gets no smaller than 0.85 of it."""
        crop = upright_crop(gray, matrix, self._fitter.crop_edge)
        five = np.median(self._fitter.predict(crop, _FIVE_STARTS, _MIRROR_5, self._five), 0)
        five = transform(five, invert(matrix))
        to_image = similarity(_MEAN_FIVE, five)
        across = to_image[:, 0]
        edge = max(float(np.hypot(*across)), 0.85 * width)
        return five, upright_matrix(to_image[:, 2], edge, float(np.arctan2(across[1], across[0])))
