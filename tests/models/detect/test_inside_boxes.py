"""Boxes of other nodes are places to look in, or, where that is said, the faces themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face
from faceloom.models.options.detect import DetectSettings

AS_FACES = DetectSettings(bbox_use="box is the face")


def box_of(x0, y0, x1, y1, score=0.9):
    return {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "score": score}


class Seeing:
    """A detector that says how large a picture it saw, and finds a face in its middle."""

    name = "seeing"

    def __init__(self, score=0.8):
        self.shapes, self.score = [], score

    def detect(self, images, threshold, progress=lambda done, total: None):
        self.shapes.append(tuple(images.shape))
        height, width = images.shape[1:3]
        points = np.array([[-1, -1], [1, -1], [0, 0], [-.8, 1], [.8, 1]]) * 5 + (width / 2, height / 2)
        box = np.array([width / 2 - 9, height / 2 - 9, width / 2 + 9, height / 2 + 9])
        return [[Face(0, box, points, self.score, mesh=np.zeros((478, 3)))] if self.score >= threshold else []]


def told(images, bboxes, detector=None, settings=None):
    notices = []
    return detect_faces(images, detector, settings, bboxes=bboxes, notice=notices.append), notices


@pytest.mark.parametrize("box", [(10, 10, 360, 360), (0, 0, 512, 512), (60, 0, 460, 512), (-5000, -5000, 10000, 10000),
                                 (-1e9, -1e9, 1e9, 1e9)], ids=str)
def test_a_person_box_gives_the_face_in_it(collins, box):
    alone, = detect_faces(collins)
    faces, notices = told(collins, [[box_of(*box)]])
    assert len(faces) == 1
    assert np.abs(faces[0].keypoints - alone.keypoints).max() < 0.08 * alone.eye_distance
    assert faces[0].frame == 0
    assert notices == []


EMPTY_BOXES = [(300, 300, 500, 500), (600, 600, 700, 700), (-300, 10, -20, 200), (100, 100, 100, 300), (200, 200, 100, 100),
               (10, 10, 10.4, 10.4), (1e9, 1e9, 2e9, 2e9)]


@pytest.mark.parametrize("box", EMPTY_BOXES, ids=str)
def test_a_box_without_a_face_gives_none_and_is_counted(collins, box):
    faces, notices = told(collins, [[box_of(*box)]])
    assert len(faces) == 0
    assert notices == ["1 box without a face"]
    faces, notices = told(collins, [[box_of(*box), box_of(100, 20, 360, 320), box_of(*box)]])
    assert len(faces) == 1
    assert notices == ["2 boxes without a face"]


def test_boxes_that_overlap_give_a_face_once(collins):
    assert len(told(collins, [[box_of(100, 20, 360, 320), box_of(60, 0, 460, 512), box_of(150, 60, 300, 220)]])[0]) == 1


def test_a_neighbour_outside_the_box_is_not_taken(collins):
    pair = torch.cat([collins, collins.flip(2)], 2)
    left, right = sorted(detect_faces(pair), key=lambda face: face.center[0])
    for face in (left, right):
        found, = told(pair, [[box_of(*face.box)]])[0]
        assert found.center == pytest.approx(face.center, abs=5)


def test_the_connected_detector_looks_with_its_threshold():
    picture = torch.zeros(2, 400, 600, 3)
    detector = Seeing(0.8)
    faces, notices = told(picture, [[box_of(100, 50, 200, 150)], []], detector, DetectSettings(threshold=0.7))
    assert detector.shapes == [(1, 200, 200, 3)]
    assert [(face.frame, face.center.tolist(), face.score) for face in faces] == [(0, [150, 100], pytest.approx(0.8))]
    assert faces[0].keypoints[2].tolist() == [150, 100]
    assert faces[0].mesh[0].tolist() == [50, 0, 0]
    faces, notices = told(picture, [[box_of(100, 50, 200, 150)], []], detector, DetectSettings(threshold=0.9))
    assert len(faces) == 0
    assert notices == ["1 box without a face"]


@pytest.mark.parametrize("box", [(600, 600, 700, 700), (100, 100, 100, 300), (200, 200, 100, 100), (-5000, -5000, 10000, 10000),
                                 (-1e9, -1e9, 1e9, 1e9), (500, 500, 700, 700)], ids=str)
def test_impossible_boxes_are_no_faces_either(collins, box):
    faces, notices = told(collins, [[box_of(*box), box_of(100, 20, 360, 320)]], settings=AS_FACES)
    assert [face.score for face in faces] == [pytest.approx(0.9)]
    assert notices == ["1 box without a face"]


@pytest.mark.parametrize("use", ["look inside", "box is the face"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None, "wide", [1], 10**400])
@pytest.mark.parametrize("key", ["x", "width", "score"])
def test_numbers_that_are_none(use, value, key):
    if key == "score" and value is None:
        return  # some nodes have no score
    bad = box_of(1, 1, 20, 20) | {key: value}
    with pytest.raises(FaceLoomError, match=r"^A bounding box must have (finite )?numbers") as error:
        told(torch.zeros(1, 40, 40, 3), [[bad]], Seeing(), DetectSettings(bbox_use=use))
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("bboxes", [3, "boxes", [None], [[None]], torch.zeros(1, 4), [[[1, 2, 3, 4]]], object(), {"x": {}}])
def test_what_is_no_box_at_all(bboxes):
    with pytest.raises(FaceLoomError):
        detect_faces(torch.zeros(1, 40, 40, 3), Seeing(), bboxes=bboxes)


@pytest.mark.parametrize("bboxes", [[], [[]], [{}][:0]])
def test_no_boxes(bboxes):
    assert len(detect_faces(torch.zeros(1, 40, 40, 3), Seeing(), bboxes=bboxes)) == 0
