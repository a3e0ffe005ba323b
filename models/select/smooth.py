"""Faces made steady over a clip: each person is followed, and everything that is known of where they are is smoothed together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..errors import FaceLoomError
from ..faces import Face, Faces
from ..pixels.affine import invert, transform
from .filters import kalman, running_mean, savitzky_golay
from .track import follow, runs

KEYPOINTS = slice(0, 5)
BOX = slice(5, 7)
CORNERS = np.array([[0., 0], [1, 0], [0, 1]])  # of a face's square


def _running_mean(points: np.ndarray, reach: int = 2, jump: float = 5.0) -> np.ndarray:
    """GHOST's (Groshev et al. 2022): eyes and nose that jump further than ``jump`` pixels break the run."""
    return np.stack(running_mean(list(points), reach, jump or np.inf))


METHODS: dict[str, Callable[..., np.ndarray]] = {
    "running mean": _running_mean, "kalman": kalman, "savitzky-golay": savitzky_golay,
}  # fmt: skip


def smooth_faces(faces: Faces, method: str = "running mean", *, gap: int = 0, **numbers: float) -> Faces:
    """The same faces, with ``track``, whose keypoints, landmarks, boxes and squares move steadily from frame to frame.

    method: ``running mean`` (``reach`` frames on either side, ``jump`` pixels, 0 never), ``kalman`` (``process``, ``measure``) or
    ``savitzky-golay`` (``window`` frames, ``order``); see ``filters.py``. gap: frames a face may be missing from and still keep its track.
    A person's frames are smoothed in runs that follow each other and have the same landmarks.
    """
    if method not in METHODS:
        raise FaceLoomError(f"method must be one of {', '.join(METHODS)}, not {method!r}.")
    if numbers.get("order", 0) >= numbers.get("window", np.inf):
        raise FaceLoomError(f"The window of {numbers['window']} frames must be longer than the order {numbers['order']}.")
    followed = follow(faces, gap)
    items = list(followed)
    for run in runs(followed):
        for part in _alike(items, run):
            smooth = METHODS[method](np.stack([_points(items[i]) for i in part]), **numbers)
            for i, points in zip(part, smooth, strict=True):
                items[i] = _moved(items[i], points)
    return replace(followed, items=tuple(items))


def _alike(items: list[Face], run: list[int]) -> list[list[int]]:
    """A run in parts whose faces have the same points."""
    parts: list[list[int]] = []
    for i in run:
        if parts and _kinds(items[parts[-1][-1]]) == _kinds(items[i]):
            parts[-1].append(i)
        else:
            parts.append([i])
    return parts


def _kinds(face: Face) -> tuple[bool, bool, bool]:
    return face.points68 is not None, face.dense is not None, face.square is not None


def _points(face: Face) -> np.ndarray:
    """``[P, 3]`` float64: keypoints, the box's corners, 68 points, corners of the square, mesh; z is 0 but for the mesh."""
    flat = [face.keypoints, face.box.reshape(2, 2)]
    if face.points68 is not None:
        flat.append(face.points68)
    if face.square is not None:
        flat.append(transform(CORNERS, invert(face.square)))
    points = np.concatenate([np.pad(np.asarray(part, np.float64), ((0, 0), (0, 1))) for part in flat])
    return points if face.dense is None else np.concatenate([points, face.dense])


def _moved(face: Face, points: np.ndarray) -> Face:
    flat, start = points[:, :2], BOX.stop
    changes = {"keypoints": flat[KEYPOINTS], "box": flat[BOX].reshape(4)}
    if face.points68 is not None:
        changes["points68"] = flat[start : start + 68]
        start += 68
    if face.square is not None:
        corner, right, down = flat[start : start + 3]
        changes["square"] = invert(np.stack([right - corner, down - corner, corner], 1))
        start += 3
    if face.dense is not None:
        changes["dense"] = points[start:]
    return replace(face, **changes)
