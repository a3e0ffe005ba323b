"""Looks for faces that are expected in a frame of a clip, without searching all of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..crops.transformed import transform_face
from ..detect import Detector, FollowsFaces
from ..detect.boxes import overlaps, surroundings
from ..faces import Face


def look_for(detector: Detector, image: torch.Tensor, expected: Sequence[Face], threshold: float) -> list[Face | None]:
    """Find each of the ``expected`` faces in a frame ``[H, W, 3]`` float32 0..1; None where one is not where it is expected.

    A detector that follows faces is asked for that first; the surroundings of those that it does not find, or of all, are searched. Two
    expected faces are never found in the same place: the one that is nearer to where it is expected has it.
    """
    found: list[Face | None] = [None] * len(expected)
    if isinstance(detector, FollowsFaces):
        found = _apart(expected, detector.follow(image, expected, threshold))
    missing = [i for i, face in enumerate(found) if face is None]
    if missing:
        there = [face for face in found if face is not None]
        for i, face in zip(missing, _search_around(detector, image, [expected[i] for i in missing], there, threshold), strict=True):
            found[i] = face
    return found


def _search_around(detector: Detector, image: torch.Tensor, expected: Sequence[Face], known: Sequence[Face], threshold: float
                   ) -> list[Face | None]:
    """Search the surroundings of every expected face, and match what is found there and not ``known`` to them."""
    candidates: list[Face] = []
    for x0, y0, x1, y1 in _merged([surroundings(face.box, image.shape) for face in expected]):
        (inside,) = detector.detect(image[None, y0:y1, x0:x1], threshold)
        candidates += [transform_face(face, np.array([[1.0, 0, x0], [0, 1, y0]])) for face in inside]
    candidates = [face for face in candidates if not _covered(face, known)]
    return _nearest(expected, candidates)


def _nearest(expected: Sequence[Face], candidates: Sequence[Face]) -> list[Face | None]:
    """Match each expected face to one candidate by the assignment with the largest overlap in all; None where nothing overlaps."""
    from scipy.optimize import linear_sum_assignment

    found: list[Face | None] = [None] * len(expected)
    if not candidates:
        return found
    boxes = np.stack([face.box for face in candidates])
    scores = np.stack([overlaps(face.box, boxes)[0] for face in expected])
    for row, column in zip(*linear_sum_assignment(scores, maximize=True)):
        if scores[row, column] > 0:
            found[int(row)] = candidates[int(column)]
    return found


def _apart(expected: Sequence[Face], found: Sequence[Face | None]) -> list[Face | None]:
    """Leave of several faces that were found in one place the one that moved least."""
    def moved(i: int) -> float:
        face = found[i]
        return 0.0 if face is None else float(np.linalg.norm(face.center - expected[i].center)) / max(face.size, 1.0)

    kept: list[Face | None] = [None] * len(found)
    for i in sorted(range(len(found)), key=moved):
        face = found[i]
        if face is not None and not _covered(face, [other for other in kept if other is not None]):
            kept[i] = face
    return kept


def _covered(face: Face, others: Sequence[Face], most: float = .4) -> bool:
    """Tell whether a face lies where another one is."""
    return bool(others) and bool((overlaps(face.box, np.stack([other.box for other in others]))[0] > most).any())


def _merged(windows: Sequence[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Join windows that overlap, so that no face is found twice."""
    joined: list[tuple[int, int, int, int]] = []
    for window in windows:
        while True:
            other = next((w for w in joined if w[0] < window[2] and window[0] < w[2] and w[1] < window[3] and window[1] < w[3]), None)
            if other is None:
                break
            joined.remove(other)
            window = (min(window[0], other[0]), min(window[1], other[1]), max(window[2], other[2]), max(window[3], other[3]))
        joined.append(window)
    return joined
