"""Faces made steady over a clip."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from faceloom.models.crops.crop import crop_matrices
from faceloom.models.crops.squares import align_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces, keypoints_from_68
from faceloom.models.select.filters import kalman, running_mean, savitzky_golay
from faceloom.models.select.smooth import METHODS, smooth_faces

SHAPE = np.random.default_rng(3).uniform(-20, 20, (68, 2))


def face(frame, middle, has_mesh=False) -> Face:
    middle = np.asarray(middle, float)
    points = SHAPE + middle
    mesh = np.concatenate([np.repeat(points, 8, 0)[:478], np.full((478, 1), middle[0] / 10)], 1) if has_mesh else None
    return Face(frame, np.concatenate([middle - 30, middle + 30]), keypoints_from_68(points), points68=points, mesh=mesh)


def clip(middles, **more) -> Faces:
    return Faces(tuple(face(i, middle, **more) for i, middle in enumerate(middles)), len(middles), 400, 600, crop_size=64)


@pytest.fixture
def shaky() -> Faces:
    random = np.random.default_rng(0)
    return clip([np.array([200 + 2 * i, 150]) + random.normal(0, 1.5, 2) for i in range(40)])


@pytest.mark.parametrize("method, numbers, direct", [
    ("running mean", {"reach": 2, "jump": 0.}, lambda line: np.stack(running_mean(list(line), 2, np.inf))),
    ("kalman", {"process": .03, "measure": .01}, lambda line: kalman(line, .03, .01)),
    ("savitzky-golay", {"window": 9, "order": 2}, lambda line: savitzky_golay(line, 9, 2)),
])
def test_all_of_a_face_moves_as_its_smoothed_points(shaky, method, numbers, direct):
    smooth = smooth_faces(shaky, method, **numbers)
    right = direct(np.stack([item.points68 for item in shaky]).astype(np.float64))
    assert np.allclose([item.points68 for item in smooth], right, atol=1e-3)
    assert np.allclose(smooth.keypoints, keypoints_from_68(right), atol=1e-3)
    boxes = np.stack([item.box for item in smooth])
    assert np.allclose(boxes[:, 2:] - boxes[:, :2], 60, atol=1e-3)
    assert {item.track for item in smooth} == {0} and shaky[0].track is None
    trembling = [np.abs(np.diff(faces.keypoints[:, 2], 2, axis=0)).mean() for faces in (shaky, smooth)]
    assert trembling[1] < .8 * trembling[0]


def test_two_people_are_not_mixed_however_they_are_listed():
    line = [(100 + i, 100) for i in range(6)]
    other = [(400 - i, 200) for i in range(6)]
    items = [face(i, middle) for i in range(6) for middle in ((line[i], other[i]) if i % 2 else (other[i], line[i]))]
    smooth = smooth_faces(Faces(tuple(items), 6, 400, 600))
    assert np.allclose(smooth.keypoints, np.stack([item.keypoints for item in items]), atol=1e-3)  # means of a line lie on it
    assert [item.frame for item in smooth] == [item.frame for item in items]
    assert len({item.track for item in smooth}) == 2


def test_a_jump_a_gap_and_other_landmarks_break_a_run():
    wave = [0., 3, 0, 3, 0, 3]
    middles = [(200 + x, 150) for x in wave]
    jumped = smooth_faces(clip(middles), jump=2.)
    assert np.allclose(jumped.keypoints, clip(middles).keypoints, atol=1e-4)
    whole = clip(middles)
    missing = replace(whole, items=(*whole.items[:3], *whole.items[4:]))
    smooth = smooth_faces(missing, gap=1)
    assert {item.track for item in smooth} == {0}
    assert smooth.keypoints[1, 2, 0] - whole.keypoints[0, 2, 0] == pytest.approx(1, abs=1e-3)  # of 0, 3, 0
    assert np.allclose(smooth.keypoints[[2, 3]], missing.keypoints[[2, 3]], atol=1e-4)
    mixed = replace(whole, items=(*whole.items[:3], *(replace(item, points68=None) for item in whole.items[3:])))
    assert [item.points68 is None for item in smooth_faces(mixed)] == [False] * 3 + [True] * 3


def test_the_mesh_keeps_its_depth_and_another_square_goes_along(shaky):
    deep = clip([(200 + 2 * i, 150) for i in range(7)], has_mesh=True)
    smooth = smooth_faces(deep, reach=2, jump=0.)
    assert np.allclose(smooth[3].mesh, deep[3].mesh, atol=1e-3) and np.allclose(smooth[0].mesh[:, 2], 20, atol=1e-4)
    boxed = align_faces(shaky, "box", 64)
    for method in METHODS:
        steady = smooth_faces(boxed, method)
        right = align_faces(smooth_faces(shaky, method), "box", 64)  # a box's square follows from the box
        assert np.allclose(crop_matrices(steady, 64), crop_matrices(right, 64), atol=.05)


def test_mistakes_are_told(shaky):
    with pytest.raises(FaceLoomError, match="running mean, kalman, savitzky-golay"):
        smooth_faces(shaky, "median")
    with pytest.raises(FaceLoomError, match="window of 3 frames must be longer than the order 5"):
        smooth_faces(shaky, "savitzky-golay", window=3, order=5)
    assert len(smooth_faces(Faces((), 3, 10, 10))) == 0
