"""Smoothing faces over a clip: each person is tracked, and all points, boxes and squares of a face are smoothed together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..errors import FaceLoomError, check_number
from ..faces import Face, Faces
from ..options.ranges import check_choice
from .filters import kalman, running_mean, savitzky_golay
from .points import all_points, kinds_of_points, with_points
from .track import assign_tracks, track_runs


def _running_mean(points: np.ndarray, reach: int = 2, jump: float = 5.0) -> np.ndarray:
    """Smooth as GHOST does (Groshev et al. 2022): an eye or nose that moves further than ``jump`` pixels (0: never) breaks the run."""
    return np.stack([mean for mean in running_mean(list(points), reach, jump or np.inf) if mean is not None])


METHODS: dict[str, Callable[..., np.ndarray]] = {
    "running mean": _running_mean, "kalman": kalman, "savitzky-golay": savitzky_golay,
}  # fmt: skip
# The numbers of each method: the least, the largest, and whether they are whole.
LIMITS: dict[str, dict[str, tuple[float, float, bool]]] = {
    "running mean": {"reach": (0, 10_000, True), "jump": (0, 65536, False)},
    "kalman": {"process": (0, 1e6, False), "measure": (1e-9, 1e6, False)},
    "savitzky-golay": {"window": (1, 100_001, True), "order": (0, 20, True)},
}  # fmt: skip


def smooth_faces(faces: Faces, method: str = "running mean", *, gap: int = 0, **numbers: float) -> Faces:
    """Return the same faces, with ``track``, whose keypoints, landmarks, boxes and squares move steadily from frame to frame.

    method: ``running mean`` (``reach`` frames on either side, ``jump`` pixels, 0 never), ``kalman`` (``process``, ``measure``) or
    ``savitzky-golay`` (``window`` frames, ``order``), with its ``numbers``; see ``filters.py``. gap: frames a face may be missing from and
    still keep its track. A person is smoothed over consecutive frames in which the same kinds of points are known. FaceLoomError for
    another method, or a window no longer than the order.
    """
    check_choice("method", method, METHODS)
    for name, value in numbers.items():
        check_choice(f"a number of {method}", name, LIMITS[method])
        check_number(name.capitalize(), value, *LIMITS[method][name])
    if numbers.get("order", 0) >= numbers.get("window", np.inf):
        raise FaceLoomError(f"The window of {numbers['window']} frames must be longer than the order {numbers['order']}.")
    tracked = assign_tracks(faces, gap)
    items = list(tracked)
    for run in track_runs(tracked):
        for part in _split_by_kinds(items, run):
            smooth = METHODS[method](np.stack([all_points(items[i]) for i in part]), **numbers)
            for i, points in zip(part, smooth, strict=True):
                items[i] = with_points(items[i], points)
    return replace(tracked, items=tuple(items))


def _split_by_kinds(items: list[Face], run: list[int]) -> list[list[int]]:
    """Split a run of positions where the faces begin to have other kinds of points."""
    parts: list[list[int]] = []
    for i in run:
        if parts and kinds_of_points(items[parts[-1][-1]]) == kinds_of_points(items[i]):
            parts[-1].append(i)
        else:
            parts.append([i])
    return parts
