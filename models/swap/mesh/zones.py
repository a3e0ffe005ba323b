"""The parts of a face, as weights of its vertices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...face3d.expression import distance_to_ring
from ...face3d.fit import mean_face
from ...face3d.topology import FACE_OVAL, INNER_LIPS, LEFT_BROW, LEFT_EYE, RIGHT_BROW, RIGHT_EYE


@dataclass(frozen=True, eq=False)
class Zones:
    """Parts of the face as weights ``[V]`` from 0 to 1 for each vertex.

    sure: certainly skin. core: nose and mouth, which every photo shows. forehead: above the brows, where hair may be. side: along cheeks
    and temples. mouth: inside the lips. eyes: ``[V, 2]``, inside the left and the right lids.
    """

    sure: np.ndarray
    core: np.ndarray
    forehead: np.ndarray
    side: np.ndarray
    mouth: np.ndarray
    eyes: np.ndarray


@lru_cache(maxsize=1)
def zones() -> Zones:
    """Returns the zones of the mean face, whose vertices every fitted face has."""
    v = mean_face().vertices
    to_outline = distance_to_ring(v, FACE_OVAL)
    to_outline[468:] = 0
    lids = np.minimum(distance_to_ring(v, LEFT_EYE), distance_to_ring(v, RIGHT_EYE))
    y = v[:, 1]
    core = np.clip((4.5 - np.minimum(distance_to_ring(v, (4,)), distance_to_ring(v, INNER_LIPS))) / 1.5, 0, 1)
    sure = ((lids > 0.9) & (to_outline > 1.2) & (y > -1.5) & (y < 3.2)).astype(np.float64)
    brows = v[list(LEFT_BROW[:5] + RIGHT_BROW[:5])]
    forehead = np.clip((np.interp(v[:, 0], brows[:, 0], brows[:, 1]) - 0.15 - y) / 0.6, 0, 1)
    side = np.clip((1.8 - to_outline) / 1.0, 0, 1) * np.clip((4.0 - y) / 1.5, 0, 1)
    mouth, eyes = np.zeros(len(v)), np.zeros((len(v), 2))
    mouth[list(INNER_LIPS)] = 1
    for i, ring in enumerate((LEFT_EYE, RIGHT_EYE)):
        eyes[list(ring), i] = 1
    return Zones(sure, core, forehead, side, mouth, eyes)
