"""Faces that were missed for a moment are put in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from faceloom.models.faces import FFHQ_TEMPLATE, Face, Faces
from faceloom.models.select.fill import fill_gaps
from faceloom.models.select.smooth import smooth_faces


def face(frame: int, x: float = 100, y: float = 100, edge: float = 80, degrees: float = 0, track: int | None = None, **more) -> Face:
    """A face whose crop has its middle at x, y, this edge, and is turned by so many degrees."""
    turn = edge * np.exp(1j * np.deg2rad(degrees))
    points = (FFHQ_TEMPLATE - .5) @ np.array([[turn.real, turn.imag], [-turn.imag, turn.real]]) + (x, y)
    return Face(frame, (x - edge / 2, y - edge / 2, x + edge / 2, y + edge / 2), points, track=track, score=.9, **more)


def clip(*items: Face, frames: int = 12, cuts=()) -> Faces:
    return Faces(tuple(items), frames, 200, 400, cuts=frozenset(cuts))


def test_a_face_that_moves_grows_and_turns_is_put_in_where_it_was():
    """Half way the turn is half, and the size the geometric mean: points that are mixed would be 3 % too near each other at 30 degrees."""
    filled = fill_gaps(clip(face(0, 100, 90, 64, -30), face(2, 120, 110, 100, 30)), 1)
    assert [item.frame for item in filled] == [0, 1, 2] and [item.track for item in filled] == [0, 0, 0]
    assert [item.score for item in filled] == [.9, 0, .9]
    np.testing.assert_allclose(filled[1].keypoints, face(1, 110, 100, 80, 0).keypoints, atol=1e-3)
    np.testing.assert_allclose(filled[1].box, (110 - 41, 100 - 41, 110 + 41, 100 + 41), atol=1e-3)


def test_every_missing_frame_is_filled_in_order_and_no_more_than_is_asked_for():
    faces = clip(face(0, 100), face(4, 112), face(5, 115), face(9, 127))
    assert [item.frame for item in fill_gaps(faces, 3)] == list(range(10))
    assert [round(float(item.center[0])) for item in fill_gaps(faces, 3)] == [100, 103, 106, 109, 112, 115, 118, 121, 124, 127]
    assert [item.frame for item in fill_gaps(faces, 2)] == [0, 4, 5, 9]
    assert fill_gaps(faces, 0) is faces


@pytest.mark.parametrize("cut, filled", [(1, False), (2, False), (3, False), (0, True), (4, True)])
def test_nothing_is_put_in_across_a_cut(cut, filled):
    """Faces of the same number are those that embeddings found again."""
    faces = clip(face(0, track=4), face(3, track=4), cuts=[cut])
    assert [item.frame for item in fill_gaps(faces, 5)] == ([0, 1, 2, 3] if filled else [0, 3])


def test_each_person_is_filled_from_their_own_sightings():
    faces = clip(face(0, 100, sex="female"), face(0, 300, sex="male"), face(1, 300, sex="male"), face(2, 104, sex="female"),
                 face(3, 300, sex="male"))
    filled = fill_gaps(faces, 1)
    assert [(item.frame, round(float(item.center[0])), item.sex) for item in filled] == [
        (0, 100, "female"), (0, 300, "male"), (1, 300, "male"), (1, 102, "female"), (2, 104, "female"), (2, 300, "male"), (3, 300, "male")]


def test_points_that_only_one_sighting_has_are_left_out_and_common_ones_interpolated():
    points = np.linspace(0, 1, 136).reshape(68, 2) * 40 + 80
    one, other = face(0, points68=points), face(2, 110, points68=points + np.array([10, 0]))
    np.testing.assert_allclose(fill_gaps(clip(one, other), 1)[1].points68, points + np.array([5, 0]), atol=1e-3)
    assert fill_gaps(clip(one, replace(other, points68=None)), 1)[1].points68 is None
    mesh = np.concatenate([np.resize(points, (478, 2)), np.linspace(-5, 5, 478)[:, None]], 1)
    put_in = fill_gaps(clip(face(0, edge=50, mesh=mesh), face(2, edge=200, mesh=mesh * (1, 1, 4))), 1)[1]
    np.testing.assert_allclose(put_in.mesh[:, 2], mesh[:, 2] * 2, atol=1e-3)


def test_the_square_of_another_alignment_is_interpolated():
    square = np.array([[.01, 0, -.5], [0, .01, -.5]])
    moved = np.array([[.01, 0, -.6], [0, .01, -.5]])
    put_in = fill_gaps(clip(face(0, square=square), face(2, 110, square=moved)), 1)[1]
    np.testing.assert_allclose(put_in.square, [[.01, 0, -.55], [0, .01, -.5]], atol=1e-6)


def test_filled_faces_are_smoothed_like_the_others():
    smooth = smooth_faces(fill_gaps(clip(face(0, 100), face(1, 101), face(3, 103), face(4, 104)), 1), jump=0)
    assert len(smooth) == 5 and len({item.track for item in smooth}) == 1
