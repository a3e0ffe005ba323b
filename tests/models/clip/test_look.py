"""Faces looked for where they are expected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from faceloom.models.clip.look import look_for
from faceloom.models.crops.transformed import transform_face
from faceloom.models.detect.dlib import DlibDetector
from faceloom.models.faces import FFHQ_TEMPLATE, Face


class Counting(DlibDetector):
    """The built-in detector, which counts its searches."""

    searches = 0

    def detect(self, images, threshold=.5, progress=lambda done, total: None):
        self.searches += 1
        return super().detect(images, threshold, progress)


def moved(face: Face, x: float, y: float) -> Face:
    return transform_face(face, np.array([[1.0, 0, x], [0, 1, y]]))


@pytest.fixture(scope="module")
def pair(collins, hopper):
    """Two people side by side in one picture ``[H, W, 3]``, and their faces."""
    height = min(collins.shape[1], hopper.shape[1])
    image = torch.cat([collins[0, :height], hopper[0, :height]], 1)
    return image, sorted(DlibDetector().detect(image[None])[0], key=lambda face: face.center[0])


def test_the_built_in_detector_finds_faces_again_without_a_search(pair):
    image, faces = pair
    assert len(faces) == 2
    detector = Counting()
    expected = [replace(moved(face, .1 * face.size, -.08 * face.size), frame=7) for face in faces]
    found = look_for(detector, image, expected, .5)
    assert detector.searches == 0 and [face.frame for face in found] == [7, 7]
    for one, other in zip(found, faces, strict=True):
        assert np.linalg.norm(one.points68 - other.points68, axis=1).mean() < .012 * other.size
        assert one.score > .8


def test_what_is_gone_is_searched_around_and_not_found(pair):
    image, faces = pair
    detector = Counting()
    blank = image.clone()
    x0, y0, x1, y1 = (int(v) for v in faces[0].box)
    blank[y0 - 60 : y1 + 60, max(0, x0 - 60) : x1 + 60] = .5
    found = look_for(detector, blank, faces, .5)
    assert found[0] is None and found[1] is not None and detector.searches == 1


def test_two_faces_are_never_found_in_one_place(pair):
    image, faces = pair
    twice = [moved(faces[0], .25 * faces[0].size, 0), moved(faces[0], -.02 * faces[0].size, 0)]
    found = look_for(Counting(), image, twice, .5)
    assert found[0] is None and found[1] is not None


class Windows:
    """A detector that cannot follow: finds white squares of ten pixels."""

    name = "windows"

    def detect(self, images, threshold, progress=None):
        white = (images[0, ..., 0] == 1).numpy()
        steps = np.diff(white.any(0).astype(int), prepend=0, append=0)
        top = int(white.any(1).argmax())
        boxes = [np.array([x0, top, x1, top + 10], float) for x0, x1 in zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1))]
        return [[Face(0, box, FFHQ_TEMPLATE * 10 + box[:2]) for box in boxes]]


def test_faces_found_around_are_matched_to_the_nearest_expected():
    image = torch.zeros(40, 90, 3)
    image[10:20, 20:30] = image[10:20, 32:42] = 1
    at = [Face(0, (x, 10, x + 10, 20), FFHQ_TEMPLATE * 10 + (x, 10)) for x in (35, 22, 70)]
    found = look_for(Windows(), image, at, .5)
    assert [None if face is None else float(face.box[0]) for face in found] == [32, 20, None]
