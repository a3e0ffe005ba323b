"""Moves a face into other coordinates: those of a crop, or of a part of its photograph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..faces import Face, box_from_68
from ..pixels.affine import scale_of, transform


def transform_face(face: Face, matrix: np.ndarray, frame: int = 0) -> Face:
    """Return the face with all its points transformed by ``matrix`` ``[2, 3]`` (a similarity), and a box that covers them.

    The z of the mesh is scaled with them. The face's own square is left out: it holds in the old coordinates.
    """
    keypoints = transform(face.keypoints, matrix)
    points = None if face.points68 is None else transform(face.points68, matrix).astype(np.float32)
    mesh = face.mesh
    if mesh is not None:
        mesh = np.concatenate([transform(mesh[:, :2], matrix), mesh[:, 2:] * float(scale_of(matrix))], 1)
    if points is not None:
        box = box_from_68(points)
    else:
        x0, y0, x1, y1 = face.box
        corners = transform(np.array([[x0, y0], [x1, y0], [x0, y1], [x1, y1]]), matrix)
        box = np.concatenate([corners.min(0), corners.max(0)])
    return replace(face, frame=frame, box=box, keypoints=keypoints, points68=points, mesh=mesh, square=None)
