"""Swaps that come and go softly."""

from __future__ import annotations

import numpy as np
import pytest
from faceloom.models.faces import FFHQ_TEMPLATE, Face, Faces
from faceloom.models.select.fade import fade_weights


def face(frame: int, track: int = 0, turned: bool = False) -> Face:
    points = FFHQ_TEMPLATE * 40
    if turned:
        points[2, 0] += 12
    return Face(frame, (0, 0, 40, 40), points, track=track)


def clip(frames, cuts=(), length: int = 10, turned=()) -> Faces:
    return Faces(tuple(face(i, turned=i in turned) for i in frames), length, 90, 160, cuts=frozenset(cuts))


@pytest.mark.parametrize("frames, cuts, expected", [
    (range(10), (), [1] * 10),  # there from the first frame to the last
    (range(3, 10), (), [1 / 3, 2 / 3, 1, 1, 1, 1, 1]),
    (range(7), (), [1, 1, 1, 1, 1, 2 / 3, 1 / 3]),
    (range(3, 6), (), [1 / 3, 2 / 3, 1 / 3]),
    (range(3, 10), (3,), [1] * 7),  # the shot begins with it
    (range(7), (7,), [1] * 7),
    ((0, 1, 2, 3, 5, 6, 7, 8, 9), (), [1, 1, 2 / 3, 1 / 3, 1 / 3, 2 / 3, 1, 1, 1]),  # missing for one frame
])
def test_a_swap_fades_where_a_track_begins_or_ends_within_a_shot(frames, cuts, expected):
    np.testing.assert_allclose(fade_weights(clip(frames, cuts), 2), expected)


def test_a_swap_fades_where_the_face_turns_away():
    np.testing.assert_allclose(fade_weights(clip(range(10), turned=(5, 6)), 3), [1, 1, .75, .5, .25, 0, 0, .25, .5, .75])
    np.testing.assert_allclose(fade_weights(clip(range(10), turned=(5, 6)), 0), np.ones(10))


def test_each_track_has_its_own_ends():
    faces = Faces((face(0), face(0, 1), face(1), face(1, 1), face(2), face(3)), 4, 90, 160)
    np.testing.assert_allclose(fade_weights(faces, 1), [1, 1, 1, .5, 1, 1])
