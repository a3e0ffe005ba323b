"""Filters that smooth the points of one face over the frames of a clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Points of one face, frame by frame; None where the face is missing.
PointsPerFrame = Sequence[np.ndarray | None]


def running_mean(frames: PointsPerFrame, reach: int = 2, jump: float = 5.0, watched: Sequence[int] = (0, 2)
                 ) -> list[np.ndarray | None]:
    """Smooth points by the mean over up to ``reach`` frames on either side, as many on one as on the other (GHOST's smoothing).

    A run ends where the face is missing (None, which stays), or where one of the points with the indices ``watched`` moves more than
    ``jump`` pixels from one frame to the next.
    """
    smooth: list[np.ndarray | None] = [None] * len(frames)
    for start, stop in _unbroken_runs(frames, jump, list(watched)):
        run = np.stack([points for points in frames[start:stop] if points is not None]).astype(np.float64)
        for i in range(len(run)):
            half = min(i, len(run) - 1 - i, reach)
            smooth[start + i] = run[i - half : i + half + 1].mean(0)
    return smooth


def _unbroken_runs(frames: PointsPerFrame, jump: float, watched: list[int]) -> list[tuple[int, int]]:
    """Return first frame and end (exclusive) of every run of frames in which the face is there and does not jump."""
    runs, start = [], None
    for i, points in enumerate(frames):
        before = None if start is None else frames[i - 1]
        broken = before is not None and points is not None and np.linalg.norm(
            np.subtract(points, before)[watched], axis=-1).max() > jump
        if start is not None and (points is None or broken):
            runs.append((start, i))
            start = None
        if start is None and points is not None:
            start = i
    return runs if start is None else [*runs, (start, len(frames))]


def kalman(points: np.ndarray, process: float = .03, measure: float = .01) -> np.ndarray:
    """Smooth ``[F, ...]`` coordinates of F frames by Kalman filters that expect each to stay where it is (ReliableSwap's).

    process, measure: variances of how far a point moves between frames and of how wrongly it is measured; ReliableSwap's demo has 0.01 for
    both. The first frame stays as it is.
    """
    state, variance = points[0].astype(np.float64), 0.0
    smooth = np.empty(points.shape, np.float64)
    for frame, measured in enumerate(points):
        gain = variance / (variance + measure)
        state = state + gain * (measured - state)
        variance = (1 - gain) * variance + process
        smooth[frame] = state
    return smooth


def savitzky_golay(points: np.ndarray, window: int = 25, order: int = 2) -> np.ndarray:
    """Smooth ``[F, ...]`` coordinates of F frames by a polynomial of ``order`` through ``window`` of them at a time."""
    from scipy.signal import savgol_filter

    window = min(window, len(points) - (len(points) + 1) % 2)
    return points if window <= order else np.asarray(savgol_filter(points, window, order, axis=0))
