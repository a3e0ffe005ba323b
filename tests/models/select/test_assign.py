"""Whom single faces become."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import FFHQ_TEMPLATE, Face, Faces, Identity
from faceloom.models.select.assign import assign_identity, group_by_identity

ANNA, BERT = (Identity({}, np.zeros((0, 8, 8, 3)), (), name=name) for name in ("Anna", "Bert"))
FACES = Faces(tuple(Face(frame, (x, 0, x + 40, 40), FFHQ_TEMPLATE * 40 + (x, 0)) for frame in (0, 1) for x in (0, 100)), 2, 90, 160)


def names(faces: Faces) -> list[str | None]:
    return [face.identity and face.identity.name for face in faces]


def test_chosen_faces_become_the_person_and_the_others_keep_theirs():
    first = assign_identity(FACES, FACES.take([0, 2]), ANNA)
    assert names(first) == ["Anna", None, "Anna", None] and names(FACES) == [None] * 4
    assert names(assign_identity(first, FACES.take([3]), BERT)) == ["Anna", None, "Anna", "Bert"]
    assert names(assign_identity(first, first.take([0]), BERT)) == ["Bert", None, "Anna", None]
    assert names(assign_identity(FACES, FACES.take([]), ANNA)) == [None] * 4


def test_faces_of_another_picture_or_other_faces_are_refused():
    with pytest.raises(FaceLoomError, match="another picture"):
        assign_identity(FACES, replace(FACES, width=161), ANNA)
    moved = replace(FACES, items=(replace(FACES[0], keypoints=FACES[0].keypoints + 1), FACES[1]))
    with pytest.raises(FaceLoomError, match=r"1 of the 2 chosen"):
        assign_identity(FACES, moved, ANNA)


def test_faces_are_grouped_by_whom_they_become():
    assigned = assign_identity(assign_identity(FACES, FACES.take([1, 2]), ANNA), FACES.take([0]), BERT)
    assert group_by_identity(assigned) == [(BERT, [0]), (ANNA, [1, 2]), (None, [3])]
    assert group_by_identity(FACES) == [(None, [0, 1, 2, 3])] and group_by_identity(FACES.take([])) == []
