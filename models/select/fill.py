"""Puts in the faces that a detector missed for a moment."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from ..faces import Face, Faces, unit_square
from ..pixels.affine import invert, transform
from .points import all_points, kinds_of_points, with_points
from .track import assign_tracks

FILLED_SCORE = 0.0  # what tells a face that was put in from one that was found


def fill_gaps(faces: Faces, most: int) -> Faces:
    """Return the faces, with ``track``, and in addition those that are missing between two sightings of one track.

    most: how many frames in a row may be missing. Position, size, turn and shape are interpolated between the two sightings; sex, age,
    embeddings and identity are those of the nearer one, the score is 0. Nothing is put in across a cut (``faces.cuts``).
    """
    if most <= 0 or not len(faces):
        return faces
    tracked = assign_tracks(faces, gap=most)
    filled: list[Face] = []
    for positions in _by_track(tracked).values():
        for first, last in pairwise(positions):
            filled += _between(tracked[first], tracked[last], most, tracked.cuts)
    if not filled:
        return tracked
    return replace(tracked, items=tuple(sorted([*tracked, *filled], key=lambda face: face.frame)))


def _by_track(faces: Faces) -> dict[int | None, list[int]]:
    """Return the positions of the faces of each track, in time."""
    tracks: dict[int | None, list[int]] = {}
    for i in sorted(range(len(faces)), key=lambda i: faces[i].frame):
        tracks.setdefault(faces[i].track, []).append(i)
    return tracks


def _between(first: Face, last: Face, most: int, cuts: frozenset[int]) -> list[Face]:
    """Interpolate the faces of the frames between two sightings; none where there are more than ``most``, or a cut."""
    missing = range(first.frame + 1, last.frame)
    if len(missing) > most or any(frame in cuts for frame in range(first.frame + 1, last.frame + 1)):
        return []
    first_known, last_known = _with_common_kinds(first, last)
    return [_interpolate(first_known, last_known, frame) for frame in missing]


def _with_common_kinds(first: Face, last: Face) -> tuple[Face, Face]:
    """Return both faces without the kinds of points that only one of them has."""
    names = [name for name, *known in zip(("points68", "mesh", "square"), kinds_of_points(first), kinds_of_points(last)) if not all(known)]
    return replace(first, **dict.fromkeys(names)), replace(last, **dict.fromkeys(names))


def _interpolate(first: Face, last: Face, frame: int) -> Face:
    """Return the face of a frame between two sightings of the same kinds of points.

    The upright shapes are mixed, and the similarity that puts them into the frame: its turn and the logarithm of its size evenly in time.
    Mixing the points themselves would shrink a face that turns.
    """
    part = (frame - first.frame) / (last.frame - first.frame)
    upright = [_move(all_points(face), unit_square(face)) for face in (first, last)]
    start, end = (invert(unit_square(face)) for face in (first, last))
    turns = [complex(matrix[0, 0], matrix[1, 0]) for matrix in (start, end)]
    turn = turns[0] * (turns[1] / turns[0]) ** part
    middle = np.array([.5, .5])
    center = sum(weight * transform(middle[None], matrix)[0] for weight, matrix in ((1 - part, start), (part, end)))
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    there = np.concatenate([linear, (center - linear @ middle)[:, None]], 1)
    nearer = first if part <= .5 else last
    face = replace(nearer, frame=frame, score=FILLED_SCORE, track=first.track)
    face = with_points(face, _move((1 - part) * upright[0] + part * upright[1], there))
    return replace(face, box=(1 - part) * first.box + part * last.box)  # a box stands upright in the frame, not in the face


def _move(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply a similarity ``[2, 3]`` to points ``[P, 3]``; z takes its scale."""
    scale = np.hypot(matrix[0, 0], matrix[1, 0])
    return np.concatenate([transform(points[:, :2], matrix), points[:, 2:] * scale], 1)
