"""FaceSelect's rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces, Identity
from faceloom.models.identity import make_identity
from faceloom.models.options.detect import DetectSettings
from faceloom.models.select.rules import RULES, SelectionRule, cosines_to_identity, match_people, select_faces
from hypothesis import given, settings
from hypothesis import strategies as st


def face_at(x, y, size, frame=0, **more):
    points = np.array([[.3, .4], [.7, .4], [.5, .6], [.35, .8], [.65, .8]]) * size + (x, y)
    return Face(frame, np.array([x, y, x + size, y + size]), points, **more)


FACES = Faces((face_at(10, 60, 20, score=0.9, sex="female", age=30), face_at(50, 10, 40, score=0.6, sex="male", age=60),
               face_at(80, 85, 10, score=0.8, sex="male", age=8), face_at(5, 5, 30, 1, score=0.7, sex="female", age=45)), 2, 100, 100)


def chosen(rule, mask=None, **options):
    picked, rest = select_faces(FACES, SelectionRule(rule, **options), mask=mask)
    numbers = [FACES.items.index(face) for face in picked]
    assert sorted(numbers + [FACES.items.index(face) for face in rest]) == [0, 1, 2, 3]
    assert numbers == sorted(numbers)
    return numbers


@pytest.mark.parametrize(("rule", "options", "wanted"), [
    ("index", {"index": "0,-1"}, [0, 2, 3]), ("index", {"index": "1-2"}, [1, 2]), ("largest", {}, [1, 3]), ("smallest", {}, [2, 3]),
    ("largest", {"count": 2}, [0, 1, 3]), ("leftmost", {}, [0, 3]), ("rightmost", {}, [2, 3]), ("topmost", {}, [1, 3]),
    ("bottommost", {}, [2, 3]), ("center-most", {}, [1, 3]), ("best-score", {}, [0, 3]),
    ("size", {"minimum": 15, "maximum": 30}, [0, 3]), ("size", {"minimum": 15}, [0, 1, 3]), ("score", {"minimum": 0.75}, [0, 2]),
    ("sex", {"sex": "male"}, [1, 2]), ("age", {"minimum": 18, "maximum": 50}, [0, 3]), ("age", {"maximum": 18}, [2]),
])
def test_rules(rule, options, wanted):
    assert chosen(rule, **options) == wanted


def test_mask_of_another_size():
    mask = torch.zeros(50, 200)
    mask[:, :80] = 1  # the left 40 % of the frame
    assert chosen("mask", mask=mask) == [0, 3]
    each = torch.zeros(2, 64, 64)
    assert chosen("mask", mask=each) == []
    each[1] = 1
    assert chosen("mask", mask=each) == [3]


def test_mask_errors():
    with pytest.raises(FaceLoomError, match="needs a mask"):
        select_faces(FACES, SelectionRule("mask"))
    with pytest.raises(FaceLoomError, match="has 3 pictures but 2 are needed"):
        select_faces(FACES, SelectionRule("mask"), mask=torch.zeros(3, 9, 9))


def test_unknown_attributes_and_rules():
    plain = Faces((face_at(1, 1, 9),), 1, 20, 20)
    for rule in ("sex", "age"):
        with pytest.raises(FaceLoomError, match=f"The {rule} of these faces is not known"):
            select_faces(plain, SelectionRule(rule))
    with pytest.raises(FaceLoomError, match="female or male"):
        select_faces(FACES, SelectionRule("sex", sex="any"))
    with pytest.raises(FaceLoomError, match="rule must be"):
        select_faces(FACES, SelectionRule("tallest"))
    with pytest.raises(FaceLoomError, match="needs an identity"):
        select_faces(FACES, SelectionRule("same-person"))


BOX = st.tuples(st.floats(0, 90), st.floats(0, 90), st.floats(1, 50), st.integers(0, 2))


@settings(max_examples=50)
@given(st.lists(BOX, max_size=10), st.sampled_from(["index", "largest", "leftmost", "center-most", "size", "score"]), st.integers(1, 3))
def test_every_face_is_in_one_of_the_two(boxes, rule, count):
    faces = Faces(tuple(face_at(x, y, s, f) for x, y, s, f in boxes), 3, 100, 100)
    picked, rest = select_faces(faces, SelectionRule(rule, count=count, minimum=20))
    order = {id(face): i for i, face in enumerate(faces)}
    a, b = [order[id(f)] for f in picked], [order[id(f)] for f in rest]
    assert a == sorted(a)
    assert b == sorted(b)
    assert sorted(a + b) == list(range(len(boxes)))
    if rule == "largest":
        for frame in {face.frame for face in faces}:
            inside = [f.size for f in picked if f.frame == frame]
            outside = [f.size for f in rest if f.frame == frame]
            assert len(inside) == min(count, len(inside) + len(outside))
            assert not outside or min(inside) >= max(outside)
    assert "same-person" in RULES


def test_same_person(collins, hopper):
    both = torch.cat([collins, hopper[:, :512]], 2)
    faces = detect_faces(both, settings=DetectSettings(order="left-right"))
    own = detect_faces(collins.flip(2))
    identity, _ = make_identity(collins.flip(2), own)
    picked, rest = select_faces(faces, SelectionRule("same-person"), identity=identity, images=both)
    assert picked.items == faces.items[:1]
    assert rest.items == faces.items[1:]
    cosines, space = cosines_to_identity(faces, identity, both)
    assert space == "dlib128"
    assert cosines[0] > 0.95 > 0.91 > cosines[1]
    one, _ = select_faces(faces, SelectionRule("same-person", similarity=0.5, one_per_frame=True), identity=identity, images=both)
    assert one.items == faces.items[:1]
    clear = SelectionRule("same-person", similarity=0.5, one_per_frame=True, margin=0.9)
    none, _ = select_faces(faces, clear, identity=identity, images=both)
    assert len(none) == 0
    with pytest.raises(FaceLoomError, match="needs the image"):
        cosines_to_identity(faces, identity)


def test_embeddings_on_the_faces_are_used():
    vectors = np.eye(3, dtype=np.float32)
    faces = Faces(tuple(face_at(1, 1, 9, embeddings={"w600k": v}) for v in vectors), 1, 20, 20)
    identity = Identity({"w600k": np.array([0.6, 0.8, 0], np.float32)}, np.zeros((0, 8, 8, 3)), ())
    picked, _ = select_faces(faces, SelectionRule("same-person"), identity=identity)
    assert picked.items == faces.items[:2]
    assert len(cosines_to_identity(faces.take([]), identity)[0]) == 0
    with pytest.raises(FaceLoomError, match="no dlib128 embedding"):
        cosines_to_identity(Faces((face_at(1, 1, 9),), 1, 20, 20), identity, torch.zeros(1, 20, 20, 3))


def test_the_person_wanted_is_found_again():
    wanted, found = np.array([[1., 0, 0], [0, 0, 2.]]), np.array([[0, 1., 0], [3, 1, 0]])
    assert match_people(wanted, found) == [1, None]
    assert match_people(wanted, np.zeros((0, 3))) == [None, None]


def person(frame, *vector):
    direction = np.array(vector, np.float32)
    return face_at(1, 1, 9, frame, embeddings={"w600k": direction / np.linalg.norm(direction)})


def test_the_first_person_of_a_clip_is_followed_as_ghost_does():
    items = (person(1, 1, 0, 0), person(1, 0, 1, 0),  # the first face of the first frame with one, and another
             person(2, 0, 1, 0),  # alone: taken without a question
             person(3, 0, 1, 0), person(3, .3, 0, 1),  # the second is the likest, at 0.29
             person(4, 0, 1, 0), person(4, .1, 0, 1))  # nobody is like enough
    faces = Faces(items, 6, 20, 20)
    picked, rest = select_faces(faces, SelectionRule("first-person"))
    assert picked.items == (items[0], items[2], items[4]) and rest.items == (items[1], items[3], items[5], items[6])
    assert select_faces(faces, SelectionRule("first-person", similarity=.05))[0].items[-1] is items[6]
    assert select_faces(faces, SelectionRule("first-person", similarity=.5))[0].items == (items[0], items[2])
    alone = faces.take([0, 2])
    assert len(select_faces(alone, SelectionRule("first-person"))[0]) == 2
    assert not len(select_faces(faces.take([]), SelectionRule("first-person"))[0])


def test_the_first_person_is_seen_by_the_recognizer_where_faces_carry_nothing(collins, hopper):
    both = torch.cat([collins, hopper[:, :512]], 2)
    clip = torch.cat([both, both.flip(2)])
    faces = detect_faces(clip, settings=DetectSettings(order="left-right"))
    assert [face.frame for face in faces] == [0, 0, 1, 1]
    picked, _ = select_faces(faces, SelectionRule("first-person"), images=clip)
    assert picked.items == (faces[0], faces[3])
    with pytest.raises(FaceLoomError, match="needs the image"):
        select_faces(faces, SelectionRule("first-person"))
