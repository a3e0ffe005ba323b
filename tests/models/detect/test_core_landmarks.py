"""Core's FACE_LANDMARKS payload and the 478 → 68 map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.detect import detect_faces
from faceloom.models.detect.core_landmarks import faces_from_core
from faceloom.models.errors import FaceLoomError
from faceloom.models.face3d.topology import FACE_OVAL, INNER_LIPS, LEFT_EYE, OUTER_LIPS, RIGHT_EYE, WEIGHTS_68, points68_from_mesh
from faceloom.models.options.detect import DetectSettings


def payload(turn=0.4, scale=1.5, frames=1):
    """A made-up mesh in crop units, and the same in the image."""
    solid = np.random.default_rng(3).uniform(20, 170, (478, 3))
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    face = {"landmarks_xy": solid[:, :2] @ linear.T + (30, 10), "landmarks_3d": solid, "score": 0.8, "presence": 3.0}
    return {"frames": [[face]] + [[] for _ in range(frames - 1)], "image_size": (300, 400), "connection_sets": {}}


def test_depth_is_in_image_pixels():
    data = payload(scale=1.5, frames=2)
    (face,), none = faces_from_core(data, 2, 300, 400)
    assert none == []
    source = data["frames"][0][0]
    assert face.mesh[:, :2] == pytest.approx(source["landmarks_xy"], abs=1e-3)
    assert face.mesh[:, 2] == pytest.approx(source["landmarks_3d"][:, 2] * 1.5, rel=1e-4)
    assert face.points68 == pytest.approx(points68_from_mesh(face.mesh[:, :2]), abs=1e-3)
    assert face.score == 0.8


def test_detect_faces_takes_them_instead_of_detecting():
    faces = detect_faces(torch.zeros(2, 300, 400, 3), settings=DetectSettings(threshold=0.9), face_landmarks=payload(frames=2))
    assert faces.frame_indices.tolist() == [0]
    assert faces[0].mesh is not None


def test_wrong_payloads():
    with pytest.raises(FaceLoomError, match="first output"):
        faces_from_core({"faces": []}, 1, 10, 10)
    with pytest.raises(FaceLoomError, match=r"for 1 image.*400×300, but 2 of 400×300"):
        faces_from_core(payload(), 2, 300, 400)
    with pytest.raises(FaceLoomError, match="same image"):
        faces_from_core(payload(), 1, 301, 400)
    with pytest.raises(FaceLoomError, match="has no landmarks"):
        faces_from_core({"frames": [[{"bbox": 1}]], "image_size": (9, 9)}, 1, 9, 9)
    with pytest.raises(FaceLoomError, match="478 points"):
        faces_from_core({"frames": [[{"landmarks_xy": np.zeros((5, 2)), "landmarks_3d": np.zeros((5, 3))}]], "image_size": (9, 9)}, 1, 9, 9)


def test_map_is_a_weighted_choice():
    assert WEIGHTS_68.shape == (68, 478)
    assert WEIGHTS_68.sum(1) == pytest.approx(np.ones(68))
    assert (WEIGHTS_68 > 0).sum(1).max() == 2
    constant = np.full((3, 478, 2), 7.0)
    assert points68_from_mesh(constant) == pytest.approx(np.full((3, 68, 2), 7.0))
    for ring in (FACE_OVAL, OUTER_LIPS, INNER_LIPS, LEFT_EYE, RIGHT_EYE):
        assert len(set(ring)) == len(ring)
