"""The people of a clip chosen by their numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import FFHQ_TEMPLATE, Face, Faces
from faceloom.models.select.rules import SelectionRule, select_faces

FACES = Faces(tuple(Face(frame, (0, 0, 9, 9), FFHQ_TEMPLATE * 9 + 20 * track, track=track)
                    for frame, track in ((0, 1), (0, 0), (1, 2), (2, 1), (2, 2))), 3, 90, 90)


@pytest.mark.parametrize("words, tracks", [("1", {1}), ("0,2", {0, 2}), ("-1", {2}), ("first", {0}), ("all", {0, 1, 2}), ("7", set())])
def test_a_person_is_chosen_in_all_frames(words, tracks):
    chosen, rest = select_faces(FACES, SelectionRule("person", person=words))
    assert [face.track for face in chosen] == [face.track for face in FACES if face.track in tracks]
    assert [face.track for face in rest] == [face.track for face in FACES if face.track not in tracks]


def test_faces_of_a_picture_are_nobodys():
    nobodys = replace(FACES, items=(replace(FACES[0], track=None), *FACES.items[1:]))
    with pytest.raises(FaceLoomError, match="not numbered by person"):
        select_faces(nobodys, SelectionRule("person"))
