"""The 68-point fit where one start is not to be trusted: half-profiles, covered eyes, side light.

The predictor runs down into a different answer from nearly every square there. Right answers resemble each other, wrong ones are wrong
each in its own way, and dlib's 5-point predictor, which was trained on wider poses, has a say about eyes and nose.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..faces import MIRROR_68
from ..pixels.affine import invert, similarity, transform
from .dlib_points import PointFitter, upright_crop, upright_matrix

# The network's box to dlib's square: how far below the middle, and the edge, in box edges. Measured where both see a face.
_BELOW, _EDGE = 0.10, 0.97
_STARTS = tuple((x, y, scale) for x in (-0.2, -0.1, 0, 0.1, 0.2) for y in (-0.1, 0.05) for scale in (0.8, 1.0))
_NEAR_STARTS = ((0, 0, 1), (-0.1, 0, 1), (0.1, 0, 1), (0, 0, 0.85), (0, 0, 1.15))
_FIVE_STARTS = ((0, 0, 1), (0.06, 0.06, 0.95), (-0.06, 0.06, 1.05), (0.06, -0.06, 1.1), (-0.06, -0.06, 0.9))
_FIVE_OF_68 = [45, 42, 36, 39, 33]  # the 5-point predictor's points
_FIVE_MIRROR = [2, 3, 0, 1, 4]
# Where those lie on a usual face, in edges of the square from its middle.
_FIVE_USUAL = np.array([[0.304, -0.249], [0.132, -0.241], [-0.281, -0.252], [-0.119, -0.241], [-0.013, 0.07]])
_FIVE_WEIGHT = 2.0  # of the disagreement with the five points, against that with the nearest other answers
_ROLLS = (-0.7, 0.7)  # radians, tried where the upright answers do not agree
_AGREED = 0.12  # worst rating at which they do


class _Answer(NamedTuple):
    """Points in frame pixels and how much the answers disagree, in edges."""

    points: np.ndarray
    rating: float


class ConsensusFitter:
    """68 points in the boxes of dlib's face network. ``five``: dlib's 5-point predictor, or None."""

    def __init__(self, fitter: PointFitter, five=None) -> None:
        self._fitter, self._five = fitter, five

    def fit(self, gray: np.ndarray, box: np.ndarray) -> np.ndarray:
        """``[68, 2]`` float32 points in ``box`` (x0, y0, x1, y1) of ``gray`` ``[H, W]`` uint8."""
        best = self._at(gray, box, 0.0)
        if best.rating > _AGREED:
            best = min([best, *(self._at(gray, box, roll) for roll in _ROLLS)], key=lambda answer: answer.rating)
        return best.points

    def _at(self, gray: np.ndarray, box: np.ndarray, roll: float) -> _Answer:
        """The most agreed answer for a head tilted by ``roll``."""
        middle, wide = (box[:2] + box[2:]) / 2, float(box[2] - box[0])
        down = np.array([-np.sin(roll), np.cos(roll)])
        matrix = upright_matrix(middle + _BELOW * wide * down, _EDGE * wide, roll)
        shapes = self._fitter.shapes(upright_crop(gray, matrix, self._fitter.crop), _STARTS, MIRROR_68)
        five = None
        if self._five is not None:
            five, nearer = self._five_points(gray, upright_matrix(middle, wide, roll), wide)
            more = self._fitter.shapes(upright_crop(gray, nearer, self._fitter.crop), _NEAR_STARTS)
            shapes = np.concatenate([shapes, transform(transform(more, invert(nearer)), matrix)])
            five = transform(five, matrix)
        shapes = shapes / self._fitter.box
        apart = np.linalg.norm(shapes[:, None, 17:] - shapes[None, :, 17:], axis=-1).mean(-1)
        rating = np.sort(apart, 1)[:, 1:6].mean(1)
        if five is not None:
            rating = rating + _FIVE_WEIGHT * np.linalg.norm(shapes[:, _FIVE_OF_68] - five / self._fitter.box, axis=-1).mean(1)
        ranked = np.argsort(rating)[:6]
        agreed = ranked[apart[ranked[0], ranked] < 0.06]
        points = transform(shapes[agreed].mean(0) * self._fitter.box, invert(matrix))
        return _Answer(points.astype(np.float32), float(rating[ranked[0]]))

    def _five_points(self, gray: np.ndarray, matrix: np.ndarray, wide: float) -> tuple[np.ndarray, np.ndarray]:
        """``[5, 2]`` points in frame pixels, and the matrix of the square that they stand for."""
        crop = upright_crop(gray, matrix, self._fitter.crop)
        five = np.median(self._fitter.shapes(crop, _FIVE_STARTS, _FIVE_MIRROR, self._five), 0)
        five = transform(five, invert(matrix))
        usual = similarity(_FIVE_USUAL, five)
        across = usual[:, 0]
        edge = max(float(np.hypot(*across)), 0.85 * wide)
        return five, upright_matrix(usual[:, 2], edge, float(np.arctan2(across[1], across[0])))
