"""Faces followed along a clip."""

from __future__ import annotations

import numpy as np
from faceloom.models.faces import Face, Faces
from faceloom.models.select.track import Tracker, assign_tracks, track_runs


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


def follow(tracker: Tracker, *frames, people=None, cuts=()) -> list[list[int]]:
    """The numbers of the faces of each frame. frames: x of every face. people: who they are, whose vectors are orthogonal."""
    numbers = []
    for frame, places in enumerate(frames):
        who = people[frame] if people else None
        embed = (lambda positions, who=who: np.eye(8)[[who[i] for i in positions]]) if who is not None else None
        numbers.append(tracker.follow(frame, [face(frame, x) for x in places], cut=frame in cuts, embed=embed))
    return numbers


def test_a_face_that_is_missed_while_it_moves_is_found_where_it_was_going():
    """It overlaps what it was by less than 0.3, but not what was expected."""
    assert follow(Tracker(gap=3), [10], [20], [30], [40], [], [], [70], [80]) == [[0], [0], [0], [0], [], [], [0], [0]]
    assert follow(Tracker(gap=3), [10], [10], [], [], [70]) == [[0], [0], [], [], [1]]


def test_a_face_that_turns_round_keeps_its_number():
    assert follow(Tracker(), [10], [25], [40], [25], [10]) == [[0], [0], [0], [0], [0]]


def test_two_who_pass_each_other_keep_their_numbers():
    left, right = [0, 16, 32, 48, 64, 80, 96], [96, 80, 64, 48, 32, 16, 0]
    numbers = follow(Tracker(), *zip(left, right))
    assert numbers == [[0, 1]] * 7


def test_two_who_meet_and_turn_round_are_told_apart_by_their_embeddings():
    """By their way they would have passed each other."""
    left, right = [20, 24, 28, 32, 28, 24, 20], [60, 56, 52, 48, 52, 56, 60]
    assert follow(Tracker(), *zip(left, right), people=[(0, 1)] * 7) == [[0, 1]] * 7
    assert follow(Tracker(), *zip(left, right), people=[(0, 1)] * 4 + [(1, 0)] * 3) == [[0, 1]] * 4 + [[1, 0]] * 3


def test_a_person_is_found_again_after_a_cut_and_after_an_absence_by_the_embedding():
    frames, people = [[0, 200], [0, 200], [180, 10], [180], [], [], [10, 100]], [(0, 1), (0, 1), (0, 1), (0,), (), (), (2, 1)]
    assert follow(Tracker(gap=1), *frames, people=people, cuts=[2]) == [[0, 1], [0, 1], [0, 1], [0], [], [], [2, 1]]
    assert follow(Tracker(gap=1), *frames, cuts=[2]) == [[0, 1], [0, 1], [2, 3], [2], [], [], [4, 5]]


def test_somebody_else_in_the_same_place_after_a_miss_is_another_track():
    assert follow(Tracker(gap=2), [10], [], [10], people=[(0,), (), (1,)]) == [[0], [], [1]]
    assert follow(Tracker(gap=2), [10], [], [10], people=[(0,), (), (0,)]) == [[0], [], [0]]


def test_one_person_alone_is_embedded_seldom():
    """An embedding costs more than a detection; who is alone needs none to be followed."""
    asked = []
    tracker = Tracker()
    for frame in range(60):
        tracker.follow(frame, [face(frame, 10 + frame)], embed=lambda positions: asked.append(positions) or np.eye(4)[[0]])
    assert asked == [[0], [0]]


def test_no_track_goes_on_across_a_cut():
    faces = Faces((face(0, 10), face(1, 10), face(2, 10)), 3, 200, 400, cuts=frozenset({1}))
    assert tracks(assign_tracks(faces)) == [0, 1, 1]
    same = Faces(tuple(face(i, 10, track=3) for i in range(3)), 3, 200, 400, cuts=frozenset({1}))
    assert track_runs(same) == [[0], [1, 2]]
