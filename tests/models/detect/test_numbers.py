"""Every number is checked before any work, NaN included."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_faces, crop_matrices, crop_matrix, face_windows
from faceloom.models.crops.faceswap_square import padding
from faceloom.models.crops.squares import align_faces
from faceloom.models.crops.templates import template_matrix
from faceloom.models.detect import detect_faces, kept_positions
from faceloom.models.detect.dlib import DlibDetector
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces
from faceloom.models.options.detect import DetectSettings

NAN, INFINITE = float("nan"), float("inf")
BAD = {
    "threshold": (NAN, -0.1, 1.1, 1e9, INFINITE, None, "0.5"),
    "framing": (0, NAN, 1e9, 0.0001, -1, INFINITE, None, "1"),
    "crop_size": (0, -512, NAN, 63, 4097, 10**9, 512.5, INFINITE, None),
    "min_size": (NAN, -1, 1e9, INFINITE, None),
    "order": ("random", None, 3), "no_face": ("skip", None), "bbox_use": ("believe", None),
    "keep": ("one", "0;1", "1e9", "-", "9" * 5000, "²"),
}


class Untouched:
    """A detector that must not be asked."""

    name = "untouched"

    def detect(self, images, threshold, progress=lambda done, total: None):
        raise AssertionError("work began before the numbers were checked")


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values], ids=lambda v: repr(v)[:20])
def test_settings(name, value):
    with pytest.raises(FaceLoomError):
        detect_faces(torch.zeros(1, 40, 40, 3), Untouched(), replace(DetectSettings(), **{name: value}))


@pytest.mark.parametrize("value", BAD["threshold"])
def test_detectors_themselves(value):
    with pytest.raises(FaceLoomError, match="Threshold must be"):
        DlibDetector().detect(torch.zeros(1, 40, 40, 3), value)


@pytest.mark.parametrize(("keep", "positions"), [("-999999999-5", [0, 1, 2, 3]), ("0-999999999", [0, 1, 2, 3]), ("999999999", [])])
def test_far_numbers_cost_nothing(keep, positions):
    assert kept_positions(keep, 4) == positions


FACE = Face(0, np.array([10, 10, 30, 30]), np.array([[15, 17], [25, 17], [20, 21], [16, 25], [24, 25]]))
FACES = Faces((FACE,), 1, 40, 40)
BAD_SIZES, BAD_FRAMINGS = (0, -1, NAN, 10**9, INFINITE), (0, NAN, 1e9, 0.0001, -1, INFINITE)


@pytest.mark.parametrize("framing", BAD_FRAMINGS)
def test_framing_of_crops(framing):
    image, faces = torch.zeros(1, 40, 40, 3), replace(FACES, framing=framing)
    for work in (lambda: crop_matrix(FACE, 64, framing), lambda: crop_matrices(faces), lambda: crop_faces(image, faces),
                 lambda: face_windows(faces), lambda: align_faces(FACES, "box", 64, framing)):
        with pytest.raises(FaceLoomError, match="Framing must be"):
            work()


@pytest.mark.parametrize("size", BAD_SIZES)
def test_size_of_crops(size):
    image = torch.zeros(1, 40, 40, 3)
    for work in (lambda: crop_matrix(FACE, size), lambda: crop_matrices(FACES, size), lambda: crop_faces(image, FACES, size),
                 lambda: crop_faces(image, replace(FACES, crop_size=size)), lambda: align_faces(FACES, "box", size or -1),
                 lambda: template_matrix(FACE.keypoints, "ffhq_512", size), lambda: padding("face", size)):
        with pytest.raises(FaceLoomError, match="edge"):
            work()


@pytest.mark.parametrize("scale", [NAN, 0, -1, 1e9, INFINITE])
def test_other_numbers_of_crops(scale):
    with pytest.raises(FaceLoomError, match="scale"):
        face_windows(FACES, scale)
    with pytest.raises(FaceLoomError, match="Coverage"):
        padding("face", 64, scale)
