"""The squares that faceswap cuts faces out with: 51 points laid over a mean face, moved to the middle of face or head, and padded.

The mean face is dlib's (its 68 points less the jaw), here moved so that the nose is in the middle. The head's 26 points are those of a
well-known anthropometric model whose eye corners lie at height 0. Proven by the vector ``faceswap_align_masks``.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from ..options.ranges import check_number
from ..pixels.affine import similarity, transform
from .crop import LARGEST_EDGE

_X = (
    .010086, .085135, .191003, .300643, .40327, .596729, .699356, .808997, .914864, .989913, .5, .5, .5, .5, .376753, .435909, .5, .56409,
    .623246, .13161, .196995, .275698, .344479, .270791, .192616, .65552, .724301, .803005, .868389, .807383, .729208, .264022, .350858,
    .438731, .5, .561268, .649141, .735977, .652032, .566594, .5, .433405, .347967, .300252, .437969, .5, .56203, .699747, .563237, .5,
    .436763,
)  # fmt: skip
_Y = (
    .106454, .038915, .018748, .034489, .077391, .077391, .034489, .018748, .038915, .106454, .203352, .307009, .409805, .515625, .587326,
    .609345, .628106, .609345, .587326, .216423, .178758, .179852, .231733, .245099, .244077, .231733, .179852, .178758, .216423, .244077,
    .245099, .780233, .745405, .727388, .742578, .727388, .745405, .780233, .864805, .902192, .909281, .902192, .864805, .784792, .778746,
    .785343, .778746, .784792, .824182, .831803, .824182,
)  # fmt: skip
MEAN_51 = np.stack([_X, _Y], 1)

# Which of the 68 points the head's are, and where they lie on it: right, up and forward.
HEAD_POINTS = (6, 7, 8, 9, 10, 17, 21, 22, 26, 31, 32, 33, 34, 35, 36, 39, 42, 45, 48, 50, 51, 52, 54, 56, 57, 58)
HEAD = np.array([
    (4.056931, -11.432347, 1.636229), (1.833492, -12.542305, 4.061275), (0, -12.901019, 4.070434), (-1.833492, -12.542305, 4.061275),
    (-4.056931, -11.432347, 1.636229), (6.825897, 1.275284, 4.402142), (1.330353, 1.636816, 6.903745), (-1.330353, 1.636816, 6.903745),
    (-6.825897, 1.275284, 4.402142), (1.930245, -5.060977, 5.914376), (.746313, -5.136947, 6.263227), (0, -5.485328, 6.76343),
    (-.746313, -5.136947, 6.263227), (-1.930245, -5.060977, 5.914376), (5.311432, 0, 3.987654), (1.78993, -.091703, 4.413414),
    (-1.78993, -.091703, 4.413414), (-5.311432, 0, 3.987654), (2.774015, -7.566103, 5.048531), (.509714, -7.056507, 6.566167),
    (0, -7.131772, 6.704956), (-.509714, -7.056507, 6.566167), (-2.774015, -7.566103, 5.048531), (-.589441, -8.443925, 6.109526),
    (0, -8.601736, 6.097667), (.589441, -8.443925, 6.109526),
])  # fmt: skip
FOCAL = 4  # of the camera that looks at the unit square, in the square's edges
START = (0, 0, 0, 0, 4, -60)  # a frontal head: turn, then place. Behind the camera, which mirrors both axes

# By how much each square is wider than the mean face's, as a fraction of its own edge, and the point of the head that is its middle.
RATIO = {"legacy": .375, "face": .5, "head": .625}
MIDDLE = {"face": (0, -1.5, 4.2), "head": (0, 0, -2.3)}


def centred_matrix(points: np.ndarray, centering: str) -> np.ndarray:
    """Return image → unit square ``[2, 3]`` for ``[68, 2]`` image points.

    centering: the middle of the square is that of the mean face (``"legacy"``), of the ``"face"`` or of the ``"head"`` in space.
    """
    matrix = similarity(points[17:], MEAN_51)
    if centering in MIDDLE:
        matrix[:, 2] -= _project(_fit_pose(transform(points, matrix)), MIDDLE[centering])[0] - .5
    return matrix


def square_matrix(points: np.ndarray, centering: str, size: int, coverage: float = 1.0) -> np.ndarray:
    """Return image → padded square of ``size`` pixels, ``[2, 3]``, for ``[68, 2]`` image points.

    centering: as in ``centred_matrix``. coverage: the fraction of the square's edge that is kept, in the middle.
    """
    border = padding(centering, size, coverage)
    return centred_matrix(points, centering) * (size - 2 * border) + np.array([[0, 0, border], [0, 0, border]])


def padding(centering: str, size: int, coverage: float = 1.0) -> int:
    """Return how many pixels a square of ``size`` pixels shows around the unit square, on each side."""
    check_number("The square's edge", size, 1, LARGEST_EDGE)
    check_number("Coverage", coverage, 0.1, 4)
    return round(size * (RATIO[centering] + coverage - 1) / (2 * coverage))


def _fit_pose(points: np.ndarray) -> np.ndarray:
    """Fit the head to ``[68, 2]`` points in the unit square: ``[6]``, its rotation vector and its position, by least squares."""
    observed = points[list(HEAD_POINTS)]
    return least_squares(lambda pose: (_project(pose, HEAD) - observed).ravel(), START, method="lm", xtol=1e-12, ftol=1e-12).x


def _project(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Project points ``[K, 3]`` of a head in this pose into the unit square: ``[K, 2]``."""
    placed = Rotation.from_rotvec(pose[:3]).apply(np.atleast_2d(points)) + pose[3:]
    return FOCAL * placed[:, :2] / placed[:, 2:] + .5
