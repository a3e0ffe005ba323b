"""Tracking faces along a clip."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np

from ..detect.boxes import overlaps
from ..errors import check_number
from ..faces import Face, Faces

LEAST_OVERLAP = .3  # of the boxes of one face in two frames, intersection over union, as in SORT (Bewley et al. 2016)


def assign_tracks(faces: Faces, gap: int = 0) -> Faces:
    """Return the same faces, each with a ``track``: the same number for those that overlap most from one frame to the next.

    All faces of a frame are assigned together. Where every face has a track already, all keep theirs. gap: frames a face may be missing
    from and still be the same.
    """
    check_number("Gap", gap, 0, 1_000_000, whole=True)
    if all(face.track is not None for face in faces):
        return faces
    numbers: dict[int, int] = {}
    last: dict[int, int] = {}  # track → position of its latest face, while it may come back
    new_tracks = count()
    frames: dict[int, list[int]] = {}
    for i, face in enumerate(faces):
        frames.setdefault(face.frame, []).append(i)
    for frame, members in sorted(frames.items()):
        last = {track: i for track, i in last.items() if faces[i].frame >= frame - 1 - gap}
        known = list(last)
        matches = _match_by_overlap([faces[last[track]] for track in known], [faces[i] for i in members])
        for position, i in enumerate(members):
            numbers[i] = known[matches[position]] if position in matches else next(new_tracks)
        last |= {numbers[i]: i for i in members}
    return replace(faces, items=tuple(replace(face, track=numbers[i]) for i, face in enumerate(faces)))


def track_runs(faces: Faces) -> list[list[int]]:
    """Return the positions of the faces of one track in consecutive frames, run by run; every face is in one run."""
    found: list[list[int]] = []
    open_runs: dict[int | None, list[int]] = {}
    for i in sorted(range(len(faces)), key=lambda i: faces[i].frame):
        run = open_runs.get(faces[i].track)
        if run and faces[run[-1]].frame == faces[i].frame - 1:
            run.append(i)
        else:
            open_runs[faces[i].track] = [i]
            found.append(open_runs[faces[i].track])
    return found


def _match_by_overlap(before: list[Face], after: list[Face]) -> dict[int, int]:
    """Match positions in ``after`` to positions in ``before``, by the assignment with the largest sum of overlaps; faces that overlap less
    than ``LEAST_OVERLAP`` have no match."""
    from scipy.optimize import linear_sum_assignment

    boxes = np.array([old.box for old in before]).reshape(-1, 4)
    shared = np.stack([overlaps(new.box, boxes)[0] for new in after])
    pairs = zip(*linear_sum_assignment(shared, maximize=True))
    return {int(new): int(old) for new, old in pairs if shared[new, old] >= LEAST_OVERLAP}
