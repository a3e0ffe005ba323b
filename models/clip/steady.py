"""Keeps the landmarks of a followed face from trembling, without making them lag.

A detector fits every frame anew, and its landmarks tremble by about a hundredth of the face. How the picture of the face moved from one
frame to the next is known far more exactly: the landmarks are moved along with it, and go over to the detector's only as far as these lie
away from that, as where the mouth opens or the head turns, and by a small share in any case, so that nothing drifts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..crops.crop import crop_matrix
from ..faces import Face
from ..pixels.affine import compose, invert, transform
from ..pixels.register import register_affine
from ..pixels.sampling import warp
from ..select.points import all_points, kinds_of_points, with_points

EDGE = 192  # pixels of the small crops that are compared
LEAST_CORRELATION = .85  # of two crops that show the same face
MOST_APART = .08  # of the detector's landmarks and those that moved along, their median in edges of the crop; more is another face
LEAST_SHARE = .03  # of the detector's landmarks that is always taken
TREMBLE = .02  # edges of the crop by which landmarks lie apart that are taken to a good half


@dataclass(frozen=True, eq=False)
class _Seen:
    """A face in the frame before. gray: its small crop. matrix: frame → crop. points: as of ``all_points``."""

    frame: int
    gray: np.ndarray
    matrix: np.ndarray
    points: np.ndarray
    kinds: tuple[bool, ...]


class Steadier:
    """Steadies the faces of a clip frame by frame; see the module."""

    def __init__(self) -> None:
        self.seen: dict[int, _Seen] = {}

    def steady(self, image: torch.Tensor, face: Face, cut: bool) -> Face:
        """Return a face with ``track`` of the next frame ``[H, W, 3]`` float32 0..1 with steady landmarks. cut: a new shot begins with this
        frame. A face that was not in the frame before comes back as it is."""
        assert face.track is not None
        matrix = crop_matrix(face, EDGE)
        gray = warp(image, matrix, EDGE, EDGE).mean(-1).cpu().numpy().astype(np.float64)
        before, points = self.seen.get(face.track), all_points(face)
        if before is not None and before.frame == face.frame - 1 and before.kinds == kinds_of_points(face) and not cut:
            points = _steady_points(before, gray, matrix, points)
        self.seen[face.track] = _Seen(face.frame, gray, matrix, points, kinds_of_points(face))
        return with_points(face, points)


def _steady_points(before: _Seen, gray: np.ndarray, matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the detector's ``points`` ``[P, 3]`` of a face, steadied by how its crop moved since ``before``."""
    motion, correlation = register_affine(before.gray, gray, WEIGHTS)
    if correlation < LEAST_CORRELATION:
        return points
    moved = before.points.copy()
    moved[:, :2] = transform(before.points[:, :2], compose(invert(matrix), compose(motion, before.matrix)))
    edge = EDGE / np.hypot(*matrix[:, 0])
    apart = np.linalg.norm(points[:, :2] - moved[:, :2], axis=1) / edge
    if np.median(apart) > MOST_APART:
        return points
    share = LEAST_SHARE + (1 - LEAST_SHARE) * apart**2 / (apart**2 + TREMBLE**2)
    return moved + share[:, None] * (points - moved)


def _face_weights() -> np.ndarray:
    """Return how much each pixel of a crop counts ``[EDGE, EDGE]``: an ellipse that holds brows, eyes, nose and mouth of FFHQ's crop."""
    y, x = np.mgrid[:EDGE, :EDGE] / (EDGE - 1)
    distance = np.hypot((x - .5) / .24, (y - .58) / .3)
    return np.clip((1.2 - distance) / .4, 0, 1)


WEIGHTS = _face_weights()
WEIGHTS.setflags(write=False)
