"""The source's face shape with the target's expression, in head space (see ``fit``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..faces import Identity
from .fit import Fit, fit_face, five_points, mean_face, spread_moves
from .topology import FACE_OVAL, INNER_LIPS, LEFT_EYE, RIGHT_EYE

# How far each of the five keypoints may move from the target's, in eye distances. The mouth's corners belong to the expression, which
# stays the target's.
_KEYPOINT_REACH = np.array([0.05, 0.05, 0.04, 0.02, 0.02])
# How much of the source's shape is taken at the outline, which must meet the target's hair, ears and neck, and the cm from the outline
# over which the share rises to 1.
_OUTLINE_SHARE = 0.5
_OUTLINE_WIDTH = 4.0


def reference_fits(identity: Identity) -> list[Fit]:
    """Fit a 3-D face to every reference photo of an identity."""
    return [fit_face(face) for face in identity.faces]


def nearest_pose(references: Sequence[Fit], target: Fit) -> int:
    """Find the index of the reference whose head is turned most like the target's.

    Earlier references are better photos: each later one must be nearer by 3 degrees.
    """
    differences = [np.hypot(*(fit.angles[:2] - target.angles[:2])) + 3 * i for i, fit in enumerate(references)]
    return int(np.argmin(differences))


def distance_to_ring(vertices: np.ndarray, ring: Sequence[int]) -> np.ndarray:
    """Measure how far each of ``[V, 3]`` vertices is from the nearest of those in ``ring``: ``[V]``."""
    return np.linalg.norm(vertices[:, None] - vertices[list(ring)][None], axis=-1).min(1)


def _opening_ratio(head: np.ndarray, upper: np.ndarray | list[int], lower: np.ndarray | list[int], ends: tuple[int, int]) -> float:
    """Divide the height of an opening, from ``upper`` to ``lower`` vertices, by its width between ``ends``."""
    return float((head[lower, 1] - head[upper, 1]).mean() / np.linalg.norm(head[ends[0]] - head[ends[1]]))


def mouth_opening(head: np.ndarray) -> float:
    """Measure how open the mouth is: 0 when the lips meet, about 0.3 for a wide laugh."""
    return _opening_ratio(head, [82, 13, 312], [87, 14, 317], (78, 308))


def eye_openings(head: np.ndarray) -> tuple[float, float]:
    """Measure how open the left and the right eye are: about 0.3 when open, below 0.12 when shut."""
    return _opening_ratio(head, [160, 158], [144, 153], (33, 133)), _opening_ratio(head, [385, 387], [380, 373], (362, 263))


def transfer_shape(source: Fit, target: Fit) -> np.ndarray:
    """Give the target's face the source's proportions: vertices ``[V, 3]`` in the target's head space.

    Lips and lids stay the target's, and keypoints stay within a few per cent of the eye distance of the target's, so that hair, gaze and
    pose still fit. Projected by the target's camera (``target.project``) they show the source's face in the target's pose and expression:
    Face-Adapter's motion landmarks (Han et al. 2024, section 3.1) and the shape of DiffSwap's 3-D-aware mask (Zhao et al. 2023, section
    3.3).
    """
    mean = mean_face().vertices
    source_points, target_points = five_points(source.head), five_points(target.head)
    source_centre, target_centre = source_points.mean(0), target_points.mean(0)
    scale = np.sqrt(((target_points - target_centre) ** 2).sum() / ((source_points - source_centre) ** 2).sum())
    moved = (source.head - source_centre) * scale + target_centre
    to_outline = distance_to_ring(mean, FACE_OVAL)
    to_outline[468:] = 0
    share = _OUTLINE_SHARE + (1 - _OUTLINE_SHARE) * np.clip(to_outline / _OUTLINE_WIDTH, 0, 1)
    head = target.head + share[:, None] * (moved - target.head)
    return head + _expression_corrections(head, target.head, mean)


def _expression_corrections(head: np.ndarray, target: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Compute the moves ``[V, 3]`` that bring keypoints back within reach and lips and lids to the target's expression.

    They are spread smoothly over the mesh.
    """
    points, wanted = five_points(head), five_points(target)
    away = points - wanted
    away[:, 2] = 0
    reach = _KEYPOINT_REACH * np.linalg.norm(wanted[1] - wanted[0])
    length = np.linalg.norm(away, axis=1)
    back = -away * np.maximum(0, 1 - reach / np.maximum(length, 1e-9))[:, None]
    anchors, moves = [five_points(mean)[:3], mean[list(FACE_OVAL)]], [back[:3], np.zeros((len(FACE_OVAL), 3))]
    anchors.append(mean[list(INNER_LIPS)])
    lips = target[list(INNER_LIPS)] - head[list(INNER_LIPS)]
    moves.append(lips)
    for eye, (ring, corners) in enumerate(((LEFT_EYE, (33, 133)), (RIGHT_EYE, (263, 362)))):
        # lids keep the source's shape unless the eye is opened clearly more or less than the target's
        ratio = eye_openings(target)[eye] / max(eye_openings(head)[eye], 1e-3)
        squeeze = np.clip(ratio, ratio / 1.25, ratio / 0.8) if not 0.8 <= ratio <= 1.25 else 1.0
        a, b = head[corners[0]], head[corners[1]]
        along = (b - a) / np.linalg.norm(b - a)
        lids = head[list(ring)] - a
        off = lids - (lids @ along)[:, None] * along
        anchors.append(mean[list(ring)])
        moves.append(off * (np.clip(squeeze, 0.05, 2.5) - 1) + back[eye])
    anchors, moves = np.concatenate(anchors), np.concatenate(moves)
    _, unique = np.unique(anchors.round(6), axis=0, return_index=True)
    return spread_moves(anchors[unique], moves[unique], mean)
