"""Faces followed along a clip."""

from __future__ import annotations

import numpy as np
from faceloom.models.faces import Face, Faces
from faceloom.models.select.track import assign_tracks, track_runs


def face(frame, x, y=0.0, edge=40.0, track=None) -> Face:
    box = np.array([x, y, x + edge, y + edge])
    points = box[:2] + edge * np.array([[.3, .4], [.7, .4], [.5, .6], [.35, .8], [.65, .8]])
    return Face(frame, box, points, track=track)


def clip(*items, frames=None) -> Faces:
    return Faces(tuple(items), frames or max(item.frame for item in items) + 1, 200, 400)


def tracks(faces: Faces) -> list[int | None]:
    return [item.track for item in faces]


def test_two_people_who_change_places_in_the_list_keep_their_numbers():
    faces = clip(face(0, 10), face(0, 200), face(1, 205), face(1, 15), face(2, 20), face(2, 210))
    assert tracks(assign_tracks(faces)) == [0, 1, 1, 0, 0, 1]


def test_all_faces_of_a_frame_are_assigned_together():
    """The first overlaps both, most the one that nobody else overlaps; taken one after another the second would get nobody."""
    faces = clip(face(0, 100), face(0, 118), face(1, 112), face(1, 138))
    assert tracks(assign_tracks(faces)) == [0, 1, 0, 1]


def test_a_gap_begins_a_new_track_unless_it_is_allowed():
    faces = clip(face(0, 10), face(2, 12), face(5, 14))
    assert tracks(assign_tracks(faces)) == [0, 1, 2]
    assert tracks(assign_tracks(faces, gap=1)) == [0, 0, 1]
    assert track_runs(assign_tracks(faces, gap=1)) == [[0], [1], [2]]


def test_a_cut_to_another_place_begins_a_new_one_and_given_tracks_stay():
    assert tracks(assign_tracks(clip(face(0, 10), face(1, 50)))) == [0, 1]
    assert tracks(assign_tracks(clip(face(0, 10, track=7), face(1, 300, track=7)))) == [7, 7]
    assert len(assign_tracks(clip(frames=3))) == 0


def test_runs_are_frames_that_follow_each_other():
    faces = assign_tracks(clip(face(0, 10), face(0, 200), face(1, 12), face(2, 14), face(2, 200), face(3, 16)))
    assert track_runs(faces) == [[0, 2, 3, 5], [1], [4]]
    assert sorted(i for run in track_runs(faces) for i in run) == list(range(6))
