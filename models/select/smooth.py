"""Smoothing faces over a clip: each person is tracked, and all points, boxes and squares of a face are smoothed together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..errors import FaceLoomError
from ..faces import Face, Faces
from ..options.ranges import check_choice
from ..pixels.affine import invert, transform
from .filters import kalman, running_mean, savitzky_golay
from .track import assign_tracks, track_runs

# Rows of ``_all_points``.
KEYPOINTS = slice(0, 5)
BOX = slice(5, 7)
SQUARE_CORNERS = np.array([[0., 0], [1, 0], [0, 1]])  # those that fix a face's square, in edges


def _running_mean(points: np.ndarray, reach: int = 2, jump: float = 5.0) -> np.ndarray:
    """Smooth as GHOST does (Groshev et al. 2022): an eye or nose that moves further than ``jump`` pixels (0: never) breaks the run."""
    return np.stack([mean for mean in running_mean(list(points), reach, jump or np.inf) if mean is not None])


METHODS: dict[str, Callable[..., np.ndarray]] = {
    "running mean": _running_mean, "kalman": kalman, "savitzky-golay": savitzky_golay,
}  # fmt: skip


def smooth_faces(faces: Faces, method: str = "running mean", *, gap: int = 0, **numbers: float) -> Faces:
    """Return the same faces, with ``track``, whose keypoints, landmarks, boxes and squares move steadily from frame to frame.

    method: ``running mean`` (``reach`` frames on either side, ``jump`` pixels, 0 never), ``kalman`` (``process``, ``measure``) or
    ``savitzky-golay`` (``window`` frames, ``order``), with its ``numbers``; see ``filters.py``. gap: frames a face may be missing from and
    still keep its track. A person is smoothed over consecutive frames in which the same kinds of points are known. FaceLoomError for
    another method, or a window no longer than the order.
    """
    check_choice("method", method, METHODS)
    if numbers.get("order", 0) >= numbers.get("window", np.inf):
        raise FaceLoomError(f"The window of {numbers['window']} frames must be longer than the order {numbers['order']}.")
    tracked = assign_tracks(faces, gap)
    items = list(tracked)
    for run in track_runs(tracked):
        for part in _split_by_kinds(items, run):
            smooth = METHODS[method](np.stack([_all_points(items[i]) for i in part]), **numbers)
            for i, points in zip(part, smooth, strict=True):
                items[i] = _with_points(items[i], points)
    return replace(tracked, items=tuple(items))


def _split_by_kinds(items: list[Face], run: list[int]) -> list[list[int]]:
    """Split a run of positions where the faces begin to have other kinds of points."""
    parts: list[list[int]] = []
    for i in run:
        if parts and _kinds(items[parts[-1][-1]]) == _kinds(items[i]):
            parts[-1].append(i)
        else:
            parts.append([i])
    return parts


def _kinds(face: Face) -> tuple[bool, bool, bool]:
    """Tell whether a face has 68 points, a mesh and a square of its own."""
    return face.points68 is not None, face.mesh is not None, face.square is not None


def _all_points(face: Face) -> np.ndarray:
    """Stack what a face has as ``[P, 3]`` float64: keypoints, two corners of the box, 68 points, three corners of the square, mesh. z is 0
    but for the mesh."""
    flat = [face.keypoints, face.box.reshape(2, 2)]
    if face.points68 is not None:
        flat.append(face.points68)
    if face.square is not None:
        flat.append(transform(SQUARE_CORNERS, invert(face.square)))
    points = np.concatenate([np.pad(np.asarray(part, np.float64), ((0, 0), (0, 1))) for part in flat])
    return points if face.mesh is None else np.concatenate([points, face.mesh])


def _with_points(face: Face, points: np.ndarray) -> Face:
    """Return the face with other points, in the order of ``_all_points``."""
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
