"""MediaPipe's mesh on real faces, beside dlib's points."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from faceloom.models.detect import detect_faces
from faceloom.models.detect.mediapipe import MediaPipeDetector
from faceloom.models.errors import FaceLoomError
from faceloom.models.face3d.topology import FACE_OVAL, INNER_LIPS, LEFT_BROW, LEFT_EYE, LEFT_IRIS, OUTER_LIPS, RIGHT_EYE
from faceloom.models.options.detect import DetectSettings
from PIL import Image


@pytest.fixture(scope="module")
def detector(shared):
    pytest.importorskip("mediapipe")
    return MediaPipeDetector(shared / "models" / "face_landmarker.task")


@pytest.mark.parametrize("who", ["collins", "hopper"])
def test_agrees_with_dlib(detector, request, who):
    image = request.getfixturevalue(who)
    mesh, points = detect_faces(image, detector)[0], detect_faces(image)[0]
    away = np.linalg.norm(mesh.points68 - points.points68, axis=1) / points.eye_distance
    assert np.median(away[17:]) < 0.05
    assert np.median(away[:17]) < 0.12
    assert mesh.mesh.shape == (478, 3)
    assert mesh.score == points.score
    # Depth: the nose tip is nearer to the camera than the ears, by a good part of the face's width.
    depth = (mesh.mesh[[234, 454], 2].mean() - mesh.mesh[4, 2]) / (mesh.mesh[454, 0] - mesh.mesh[234, 0])
    assert 0.3 < depth < 0.9


def signed_area(points):
    x, y = points.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def test_rings_are_where_they_say(detector, hopper):
    face, = detect_faces(hopper, detector)
    flat = face.mesh[:, :2]
    for ring in (FACE_OVAL, OUTER_LIPS, INNER_LIPS, LEFT_EYE, RIGHT_EYE, LEFT_BROW):
        assert signed_area(flat[list(ring)]) > 0  # clockwise with y down
    sizes = [signed_area(flat[list(ring)]) for ring in (FACE_OVAL, OUTER_LIPS, LEFT_EYE)]
    assert sizes[0] > 8 * sizes[1] > 8 * sizes[2]
    assert np.linalg.norm(flat[LEFT_IRIS[0]] - face.keypoints[0]) < 0.15 * face.eye_distance
    assert flat[list(LEFT_BROW), 1].mean() < flat[list(LEFT_EYE), 1].mean()


def test_small_and_upside_down_faces(detector, collins, hopper):
    """A frame on which MediaPipe alone sees nothing of either."""
    canvas = np.full((1080, 1920, 3), 0.4, np.float32)
    half = np.asarray(Image.fromarray((collins[0].numpy() * 255).astype(np.uint8)).resize((512, 512)), np.float32) / 255
    canvas[40:552, 60:572] = half
    canvas[400:1000, 1300:1812] = hopper[0].numpy()[::-1, ::-1]
    image = torch.from_numpy(canvas)[None]
    mesh, points = (detect_faces(image, which, DetectSettings(order="left-right")) for which in (detector, None))
    assert len(mesh) == len(points) == 2
    for a, b in zip(mesh, points, strict=True):
        assert np.linalg.norm(a.keypoints - b.keypoints, axis=1).mean() < 0.08 * b.eye_distance
    straight = detect_faces(hopper, detector)[0].mesh
    turned = mesh[1].mesh - (1300, 400, 0)
    assert np.linalg.norm((511, 599) - turned[:, :2] - straight[:, :2], axis=1).mean() < 0.05 * mesh[1].eye_distance
    assert np.corrcoef(turned[:, 2], straight[:, 2])[0, 1] > 0.97


def test_no_face_and_tiny_frames(detector):
    assert detector.detect(torch.full((2, 64, 64, 3), 0.5), 0.5) == [[], []]
    assert detector.detect(torch.zeros(1, 1, 1, 3), 0.5) == [[]]


def test_missing_file_package_and_broken_file(monkeypatch, tmp_path):
    with pytest.raises(FaceLoomError, match="There is no file"):
        MediaPipeDetector(tmp_path / "no.task")
    broken = tmp_path / "broken.task"
    broken.write_bytes(b"nothing")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "mediapipe.tasks.python", None)
        with pytest.raises(FaceLoomError, match=r"mediapipe is not installed; run `python -m pip install .*mediapipe`"):
            MediaPipeDetector(broken)
    pytest.importorskip("mediapipe")
    with pytest.raises(FaceLoomError, match="cannot be used by MediaPipe"):
        MediaPipeDetector(broken)


def test_getting_it_leaves_an_opencv_alone(monkeypatch):
    from faceloom.models.detect import mediapipe

    monkeypatch.setattr(mediapipe, "find_spec", lambda name: None)
    assert mediapipe.install_commands() == "`python -m pip install mediapipe`"
    monkeypatch.setattr(mediapipe, "find_spec", lambda name: object())
    assert mediapipe.install_commands().startswith("`python -m pip install --no-deps mediapipe`")
