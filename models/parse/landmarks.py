"""Outlines of face regions from 68 iBUG points, or more exactly from MediaPipe's mesh where a face has one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from ..crops.crop import crop_matrices
from ..face3d.topology import FACE_OVAL, INNER_LIPS, LEFT_BROW, LEFT_EYE, OUTER_LIPS, RIGHT_BROW, RIGHT_EYE
from ..faces import MIRROR_68, Face, Faces, keypoints_from_68
from ..options.regions import LANDMARK_PARTS
from ..pixels.affine import similarity, transform
from ..pixels.masks import polygon_mask
from ..runtime.method import Method

# How high the forehead rises above the brows, in brow-to-chin distances: by the rule of thirds the hairline would be at 0.5;
# fringes hang lower, and hair in the mask looks worse than a missing finger's breadth of skin.
_FOREHEAD = 0.38
# The 68 points of a frontal face in the FFHQ template, thousandths of the crop's edge: the left half and the middle line, the mean of
# the two demo portraits (dlib) and their mirror images. It stands in where a face has five keypoints only.
_MEAN_LEFT_HALF = {
    0: (230, 497), 1: (238, 567), 2: (248, 633), 3: (261, 701), 4: (284, 765), 5: (319, 822), 6: (372, 867), 7: (430, 901), 8: (500, 910),
    17: (270, 447), 18: (299, 405), 19: (345, 393), 20: (394, 396), 21: (440, 413), 27: (500, 469), 28: (500, 521), 29: (500, 568),
    30: (500, 617), 31: (441, 642), 32: (470, 651), 33: (500, 659), 36: (330, 478), 37: (357, 456), 38: (393, 456), 39: (423, 485),
    40: (390, 488), 41: (356, 488), 48: (383, 717), 49: (425, 707), 50: (468, 704), 51: (500, 712), 57: (500, 779), 58: (467, 774),
    59: (424, 756), 60: (399, 721), 61: (468, 724), 62: (500, 729), 66: (500, 749), 67: (468, 746),
}  # fmt: skip
# A quarter of an ellipse, its start left out: cosine and sine.
_QUARTER = np.stack([np.cos(angle := np.linspace(0, np.pi / 2, 24)[1:]), np.sin(angle)], 1)
# The regions' outlines as indices into MediaPipe's face mesh. A lip's runs along the outer ring and back along the inner one.
_MESH_RINGS: dict[str, tuple[int, ...]] = {
    "face": FACE_OVAL, "left_eye": LEFT_EYE, "right_eye": RIGHT_EYE, "left_brow": LEFT_BROW, "right_brow": RIGHT_BROW, "mouth": INNER_LIPS,
    "upper_lip": (*OUTER_LIPS[:11], *INNER_LIPS[10::-1]),
    "lower_lip": (*OUTER_LIPS[10:], OUTER_LIPS[0], INNER_LIPS[0], *INNER_LIPS[:9:-1]),
}  # fmt: skip


def smooth_curve(points: np.ndarray, closed: bool = False, samples: int = 8) -> np.ndarray:
    """Draw a centripetal Catmull-Rom curve through ``[K, 2]`` points (Yuksel et al. 2011: no cusps or loops between points).

    Returns ``[M, 2]`` with ``samples`` points per span, the last point included when the curve is open. Fewer than three different points
    come back as they are.
    """
    points = np.asarray(points, np.float64)
    moves = _segment_lengths(points) > 1e-9
    points = points if moves.all() else points[np.append(True, moves)]
    if len(points) < 3:
        return points
    if closed:
        before, after = points[-1:], points[:2]
    else:
        before, after = 2 * points[:1] - points[1:2], 2 * points[-1:] - points[-2:-1]
    extended = np.concatenate([before, points, after])
    knots = np.sqrt(np.maximum(_segment_lengths(extended), 1e-9))
    a, b, c, d = extended[:-3], extended[1:-2], extended[2:-1], extended[3:]
    first, span, last = knots[:-2, None], knots[1:-1, None], knots[2:, None]
    # Tangents per unit of the span's parameter (Barry & Goldman's pyramid in Hermite form).
    out = ((b - a) / first - (c - a) / (first + span) + (c - b) / span) * span
    into = ((c - b) / span - (d - b) / (span + last) + (d - c) / last) * span
    curve = (_hermite_weights(samples) @ np.stack([b, out, c, into], 1)).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def _segment_lengths(points: np.ndarray) -> np.ndarray:
    """Return the distances ``[K - 1]`` from each of ``[K, 2]`` points to the next."""
    step = points[1:] - points[:-1]
    return np.hypot(step[:, 0], step[:, 1])


@lru_cache
def _hermite_weights(samples: int) -> np.ndarray:
    """Return the weights ``[samples, 4]`` of start, tangent out, end and tangent in along a span."""
    t = np.arange(samples) / samples
    return np.stack([2 * t**3 - 3 * t**2 + 1, t**3 - 2 * t**2 + t, 3 * t**2 - 2 * t**3, t**3 - t**2], 1)


def upright_axes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit vectors ``[2]`` (right, up) of a face in its image from its points ``[68, 2]``, whatever its roll.

    They follow the line across the eyes and the one from the chin to the nose root: the second keeps its direction when the head turns,
    the first when it nods.
    """
    across = points[42:48].mean(0) - points[36:42].mean(0)
    rise = points[27] - points[8]
    across, rise = _unit_vector(across), _unit_vector(rise)
    up = _unit_vector(np.array([across[1], -across[0]]) + rise)
    return np.array([-up[1], up[0]]), up


def _unit_vector(vector: np.ndarray) -> np.ndarray:
    return vector / (math.hypot(*vector) + 1e-9)


def face_outline(points: np.ndarray) -> np.ndarray:
    """Draw the closed outline ``[M, 2]`` of the whole face with forehead from ``[68, 2]`` points: the jaw line, closed by two quarter
    ellipses that meet above the brows."""
    right, up = upright_axes(points)
    brows = points[17:27].mean(0)
    start, end = points[0], points[16]
    height = (brows - points[8]) @ up * (1 + _FOREHEAD)
    # Half way between the brows' middle and the outline's: turned heads show their forehead off the middle of the jaw line.
    across = ((brows + (start + end) / 2) / 2 - points[8]) @ right
    top = points[8] + height * up + across * right
    # The far brow of a turned head may stand out beyond the jaw line's end; the outline passes around it.
    if (points[17] - start) @ right < 0:
        start = points[17]
    if (points[26] - end) @ right > 0:
        end = points[26]
    chord, width = _unit_vector(end - start), math.hypot(*(end - start))
    foot = start + min(max((top - start) @ chord, 0.2 * width), 0.8 * width) * chord
    rise = np.array([chord[1], -chord[0]])
    top = foot + ((top - start) @ rise) * rise
    rising = foot + _QUARTER @ np.stack([end - foot, top - foot])
    falling = foot + _QUARTER @ np.stack([start - foot, top - foot])
    return np.concatenate([smooth_curve(points[:17]), end[None], rising, falling[-2::-1], start[None]])


def _eye_outline(points: np.ndarray) -> np.ndarray:
    return np.concatenate([smooth_curve(points[:4])[:-1], smooth_curve(points[[3, 4, 5, 0]])[:-1]])


def _brow_outline(points: np.ndarray, up: np.ndarray, outer_first: bool) -> np.ndarray:
    """Draw the outline of a brow around its points ``[5, 2]``, which run along the hair: as thick as brows are, thin at the tail."""
    length = np.linalg.norm(points[-1] - points[0])
    thickness = length * np.array([.05, .14, .19, .20, .12])
    thickness = (thickness if outer_first else thickness[::-1])[:, None] * up
    upper, lower = smooth_curve(points + thickness * .45), smooth_curve((points - thickness * .55)[::-1])
    return np.concatenate([upper, lower])


def _nose_outline(points: np.ndarray, right: np.ndarray, up: np.ndarray) -> np.ndarray:
    root, tip = points[27], points[30]
    width = np.linalg.norm(points[35] - points[31])
    wing = 0.24 * width
    left = [root - .16 * width * right, points[28] - .2 * width * right, points[29] - .36 * width * right,
            points[31] - wing * right + .42 * ((tip - points[31]) @ up) * up, points[31] - wing * .7 * right]
    other = [root + .16 * width * right, points[28] + .2 * width * right, points[29] + .36 * width * right,
             points[35] + wing * right + .42 * ((tip - points[35]) @ up) * up, points[35] + wing * .7 * right]
    base = points[31:36] - .04 * width * up
    return smooth_curve(np.array([*left, *base, *other[::-1]]), closed=True)


def region_outlines68(points: np.ndarray) -> dict[str, np.ndarray]:
    """Draw closed outlines ``[M, 2]`` by region name from ``[68, 2]`` points, in the points' own coordinates."""
    points = np.asarray(points, np.float64)
    right, up = upright_axes(points)
    return {
        "face": face_outline(points),
        "left_brow": _brow_outline(points[17:22], up, True),
        "right_brow": _brow_outline(points[22:27], up, False),
        "left_eye": _eye_outline(points[36:42]),
        "right_eye": _eye_outline(points[42:48]),
        "nose": _nose_outline(points, right, up),
        "upper_lip": np.concatenate([smooth_curve(points[48:55]), smooth_curve(points[[64, 63, 62, 61, 60]])]),
        "lower_lip": np.concatenate([smooth_curve(points[[54, 55, 56, 57, 58, 59, 48]]), smooth_curve(points[[60, 67, 66, 65, 64]])]),
        "mouth": np.concatenate([smooth_curve(points[60:65])[:-1], smooth_curve(points[[64, 65, 66, 67, 60]])[:-1]]),
    }


def mean_points68() -> np.ndarray:
    """Return the points ``[68, 2]`` float64 of an average frontal face, as fractions of the FFHQ crop's edge."""
    points = np.zeros((68, 2))
    for index, (x, y) in _MEAN_LEFT_HALF.items():
        points[MIRROR_68[index]] = (1 - x / 1000, y / 1000)
        points[index] = (x / 1000, y / 1000)
    return points


def points68_of(face: Face) -> np.ndarray:
    """Return a face's points ``[68, 2]`` float64, or the average face's laid over its five keypoints where it has no others."""
    if face.points68 is not None:
        return np.asarray(face.points68, np.float64)
    mean = mean_points68()
    return transform(mean, similarity(keypoints_from_68(mean), face.keypoints))


def region_outlines(face: Face) -> dict[str, np.ndarray]:
    """Draw closed outlines ``[M, 2]``, in image pixels, of the whole face and of every part that landmarks can show.

    The mesh gives more exact eyes, lips, brows and oval where a face has one; five keypoints alone give an average face.
    """
    curves = region_outlines68(points68_of(face))
    if face.mesh is not None:
        mesh = face.mesh[:, :2]
        curves |= {name: smooth_curve(mesh[list(ring)], closed=True, samples=4) for name, ring in _MESH_RINGS.items()}
    return curves


def landmark_mask(faces: Faces, index: int, size: int, regions: Sequence[str]) -> torch.Tensor:
    """Draw the union of ``regions`` (of ``LANDMARK_REGIONS``) of the face at position ``index`` in crop space: ``[size, size]`` float32."""
    face = faces[index]
    matrix = crop_matrices(faces, size)[index]
    if tuple(regions) == ("face",) and face.mesh is None:  # the one that every swap asks for
        return polygon_mask(transform(face_outline(points68_of(face)), matrix), size, size)
    curves = {name: transform(curve, matrix) for name, curve in region_outlines(face).items()}
    union = torch.zeros((size, size))
    for name in regions:
        if name in curves:
            mask = polygon_mask(curves[name], size, size)
        else:
            mask = polygon_mask(curves["face"], size, size)
            if name == "background":
                mask = 1 - mask
            else:
                mask = (mask - sum(polygon_mask(curves[part], size, size) for part in LANDMARK_PARTS)).clamp_(min=0)
        union += mask  # regions that touch share their border pixels: coverages add up, a maximum would leave a seam
    return union.clamp_(max=1)


# No parser: every stage draws the regions from the landmarks then.
METHOD = Method("landmarks", label="landmarks (built in)", open=lambda file, loading: None)
