"""All the points of a face as one array, so that they can be smoothed and interpolated together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..faces import Face
from ..pixels.affine import invert, transform

# Rows of ``all_points``.
KEYPOINTS = slice(0, 5)
BOX = slice(5, 7)
SQUARE_CORNERS = np.array([[0., 0], [1, 0], [0, 1]])  # those that fix a face's square, in edges


def kinds_of_points(face: Face) -> tuple[bool, bool, bool]:
    """Tell whether a face has 68 points, a mesh and a square of its own."""
    return face.points68 is not None, face.mesh is not None, face.square is not None


def all_points(face: Face) -> np.ndarray:
    """Stack what a face has as ``[P, 3]`` float64: keypoints, two corners of the box, 68 points, three corners of the square, mesh. z is 0
    but for the mesh."""
    flat = [face.keypoints, face.box.reshape(2, 2)]
    if face.points68 is not None:
        flat.append(face.points68)
    if face.square is not None:
        flat.append(transform(SQUARE_CORNERS, invert(face.square)))
    points = np.concatenate([np.pad(np.asarray(part, np.float64), ((0, 0), (0, 1))) for part in flat])
    return points if face.mesh is None else np.concatenate([points, face.mesh])


def with_points(face: Face, points: np.ndarray) -> Face:
    """Return the face with other points, in the order of ``all_points``."""
    flat, start = points[:, :2], BOX.stop
    changes = {"keypoints": flat[KEYPOINTS], "box": flat[BOX].reshape(4)}
    if face.points68 is not None:
        changes["points68"] = flat[start : start + 68]
        start += 68
    if face.square is not None:
        corner, right, down = flat[start : start + 3]
        changes["square"] = invert(np.stack([right - corner, down - corner, corner], 1))
        start += 3
    if face.mesh is not None:
        changes["mesh"] = points[start:]
    return replace(face, **changes)
