"""Landmarks of a clip that neither tremble nor lag."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from faceloom.models.clip.steady import Steadier
from faceloom.models.crops.transformed import transform_face
from faceloom.models.detect.dlib import DlibDetector

FRAMES = 14


@pytest.fixture(scope="module")
def still(collins):
    """A picture ``[H, W, 3]`` and its face, with landmarks."""
    image = collins[0, :320, 60:380]
    (face,) = DlibDetector().detect(image[None])[0]
    return image, replace(face, track=0)


def trembling(face, frame: int, shift: float, amount: float = .01):
    """The face in a frame: moved by ``shift`` pixels, every landmark off by a hundredth of the face."""
    moved = transform_face(face, np.array([[1.0, 0, -shift], [0, 1, 0]]), frame)
    off = np.random.default_rng(frame).normal(0, amount * face.size, (68, 2)).astype(np.float32)
    return replace(moved, points68=moved.points68 + off, keypoints=moved.keypoints + off[:5] * .5)


def second_difference(points: np.ndarray) -> float:
    return float(np.linalg.norm(points[2:] - 2 * points[1:-1] + points[:-2], axis=-1).mean())


def test_they_tremble_less_and_stay_with_a_face_that_moves(still):
    image, face = still
    steadier, raw, steady = Steadier(), [], []
    for frame in range(FRAMES):
        here = trembling(face, frame, 3 * frame)
        raw.append(here.points68)
        steady.append(steadier.steady(image[:, 3 * frame : 3 * frame + 240], here, False).points68)
    raw, steady = np.array(raw), np.array(steady)
    truth = np.array([transform_face(face, np.array([[1.0, 0, -3.0 * i], [0, 1, 0]])).points68 for i in range(FRAMES)])
    assert second_difference(steady) < .35 * second_difference(raw)
    assert np.linalg.norm(steady[-1] - truth[-1], axis=1).mean() < 1.2 * np.linalg.norm(raw - truth, axis=2).mean()
    assert abs(float((steady - truth)[4:].mean((0, 1))[0])) < .01 * face.size  # no lag


def test_a_mouth_that_opens_is_followed(still):
    image, face = still
    steadier = Steadier()
    steadier.steady(image, replace(face, frame=0), False)
    points = face.points68.copy()
    points[55:60, 1] += .12 * face.size
    opened = steadier.steady(image, replace(face, frame=1, points68=points), False)
    assert (opened.points68[55:60, 1] - face.points68[55:60, 1] > .09 * face.size).all()


@pytest.mark.parametrize("case", ["first", "cut", "missed", "another face", "other points"])
def test_where_nothing_is_known_the_detector_is_right(still, case):
    image, face = still
    steadier = Steadier()
    if case != "first":
        steadier.steady(image, replace(face, frame=0), False)
    here = trembling(face, 2 if case == "missed" else 1, 0)
    shown = torch.rand_like(image) if case == "another face" else image
    if case == "other points":
        here = replace(here, points68=None)
    steady = steadier.steady(shown, here, case == "cut")
    np.testing.assert_allclose(steady.keypoints, here.keypoints, atol=1e-4)
    if here.points68 is not None:
        np.testing.assert_allclose(steady.points68, here.points68, atol=1e-4)
