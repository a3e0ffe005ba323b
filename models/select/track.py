"""Following faces along a clip."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np

from ..detect.boxes import overlaps
from ..faces import Face, Faces

OVERLAP = .3  # of the boxes of one face in two frames, intersection over union, as SORT (Bewley et al. 2016) has it


def follow(faces: Faces, gap: int = 0) -> Faces:
    """The same faces, each with a ``track``: the same number for what overlaps most from one frame to the next, all faces of a frame
    assigned together. Faces that all have one keep theirs. gap: frames a face may be missing from and still be the same."""
    if all(face.track is not None for face in faces):
        return faces
    numbers: dict[int, int] = {}
    last: dict[int, int] = {}  # track → position of the face seen last, while it may come back
    fresh = count()
    frames: dict[int, list[int]] = {}
    for i, face in enumerate(faces):
        frames.setdefault(face.frame, []).append(i)
    for frame, here in sorted(frames.items()):
        last = {track: i for track, i in last.items() if faces[i].frame >= frame - 1 - gap}
        known = list(last)
        matched = _matched([faces[last[track]] for track in known], [faces[i] for i in here])
        for position, i in enumerate(here):
            numbers[i] = known[matched[position]] if position in matched else next(fresh)
        last |= {numbers[i]: i for i in here}
    return replace(faces, items=tuple(replace(face, track=numbers[i]) for i, face in enumerate(faces)))


def runs(faces: Faces) -> list[list[int]]:
    """Positions of the faces of one track in frames that follow each other, run by run; every face is in one."""
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


def _matched(before: list[Face], after: list[Face]) -> dict[int, int]:
    """Which of the faces ``before`` each of those ``after`` is, by position; the assignment with the largest overlap in all."""
    from scipy.optimize import linear_sum_assignment

    boxes = np.array([old.box for old in before]).reshape(-1, 4)
    shared = np.stack([overlaps(new.box, boxes)[0] for new in after])
    pairs = zip(*linear_sum_assignment(shared, maximize=True))
    return {int(new): int(old) for new, old in pairs if shared[new, old] >= OVERLAP}
