"""The 3-D fit against poses and shapes that are known because the test made them."""

from __future__ import annotations

import numpy as np
import pytest
from faceloom.models.face3d.expression import distance_to_ring, mouth_opening, nearest_pose, reference_fits, transfer_shape
from faceloom.models.face3d.fit import Fit, fit_face, five_points, mean_face, points68_of_head, spread_moves
from faceloom.models.face3d.topology import FACE_OVAL, INNER_LIPS
from faceloom.models.faces import Face, keypoints_from_68


def rotation(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Head → camera by the documented signs, written out separately from the code under test."""
    y, p, r = np.radians([yaw, pitch, roll])
    turn = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    nod = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    tilt = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return turn @ nod @ tilt


def seen(yaw=0.0, pitch=0.0, roll=0.0, scale=12.0, head=None) -> tuple[Face, Fit]:
    """A face as a camera sees it, and the truth about it."""
    fit = Fit(mean_face().vertices if head is None else head, rotation(yaw, pitch, roll), scale, np.array([250.0, 300.0]))
    points = fit.project(points68_of_head(fit.head, fit.rotation))[:, :2]
    return Face(0, [*points.min(0), *points.max(0)], keypoints_from_68(points), points68=points), fit


@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(0, 0, 0), (25, 0, 0), (-40, 5, 0), (10, -15, 30), (-20, 12, -100), (55, 0, 15)])
def test_pose_of_a_known_head_is_found(yaw, pitch, roll):
    face, _ = seen(yaw, pitch, roll)
    assert fit_face(face).angles == pytest.approx([yaw, pitch, roll], abs=0.6)


def test_yaw_is_towards_the_viewers_right_and_pitch_up():
    right, _ = seen(30, 0)
    up, _ = seen(0, 20)
    front, _ = seen()
    assert right.keypoints[2, 0] > front.keypoints[2, 0] + 20
    assert up.keypoints[2, 1] < front.keypoints[2, 1] - 10


def test_projected_landmarks_lie_on_the_photographs():
    rng = np.random.default_rng(0)
    face, _ = seen(15, 5, 10)
    points = face.points68 + rng.normal(0, 4, (68, 2)).astype(np.float32)
    moved = Face(0, face.box, keypoints_from_68(points), points68=points)
    fit = fit_face(moved)
    away = np.linalg.norm(fit.project(points68_of_head(fit.head, fit.rotation))[:, :2] - points, axis=1)
    assert np.median(away) < 1.5  # lightly smoothed, noise of 4 px stays mostly
    assert away[17:].max() < 8
    assert away.max() < 20  # two jaw points may share one place on the horizon


def test_mesh_points_are_kept_exactly():
    face, truth = seen(20, -8, 5)
    mesh = np.zeros((478, 3), np.float32)
    mesh[:468] = truth.project()[:468]
    fit = fit_face(Face(0, face.box, face.keypoints, mesh=mesh))
    assert fit.project()[:468] == pytest.approx(mesh[:468], abs=1e-2)
    assert fit.angles == pytest.approx([20, -8, 5], abs=0.05)


def test_five_keypoints_give_the_pose_of_a_mean_face():
    _, truth = seen(20, 0, 15)
    keypoints = five_points(truth.project())[:, :2]
    fit = fit_face(Face(0, [0, 0, 1, 1], keypoints))
    assert fit.angles == pytest.approx([20, 0, 15], abs=0.5)
    assert fit.scale == pytest.approx(12, rel=0.01)


def test_far_jaw_points_slide_onto_the_cheeks_horizon():
    head, turned = mean_face().vertices, rotation(35)
    plain, moved = points68_of_head(head), points68_of_head(head, turned)
    changed = np.linalg.norm(moved - plain, axis=1) > 1e-9
    assert changed[9:17].sum() >= 4 and not changed[:9].any() and not changed[17:].any()  # turned right: the viewer's right is far
    assert ((moved @ turned[0])[changed] > (plain @ turned[0])[changed]).all()
    assert np.abs(points68_of_head(head, np.eye(3)) - plain).max() < 1.0  # hardly any from the front


def test_mesh_is_a_symmetric_disc_that_faces_the_viewer():
    mesh = mean_face()
    mirrored = mesh.vertices * [-1, 1, 1]
    assert np.linalg.norm(mesh.vertices[:, None] - mirrored[None], axis=-1).min(1).max() < 1e-3
    edges = np.sort(np.concatenate([mesh.triangles[:, [0, 1]], mesh.triangles[:, [1, 2]], mesh.triangles[:, [2, 0]]]), 1)
    _, count = np.unique(edges, axis=0, return_counts=True)
    assert count.max() == 2
    assert (count == 1).sum() < 50  # one rim, no holes at eyes and mouth
    a, b, c = (mesh.vertices[mesh.triangles[:, i]] for i in range(3))
    assert (np.cross(b - a, c - a)[:, 2] < 0).mean() > 0.97
    top = mesh.vertices[468:, 1].min()
    assert top == pytest.approx(mesh.vertices[10, 1] - 3.0, abs=0.1)


def test_spread_reproduces_an_affine_move_everywhere():
    mean = mean_face().vertices
    linear = np.array([[0.1, 0.02, 0], [-0.03, 0.05, 0.01], [0, 0, 0.2]])
    moves = mean[list(FACE_OVAL)] @ linear.T + [1, -2, 0.5]
    assert spread_moves(mean[list(FACE_OVAL)], moves, mean) == pytest.approx(mean @ linear.T + [1, -2, 0.5], abs=0.02)


def test_transfer_of_a_person_to_themselves_changes_nothing():
    face, _ = seen(10, 5, 3)
    fit = fit_face(face)
    assert np.abs(transfer_shape(fit, fit) - fit.head).max() < 1e-6


def test_transfer_keeps_the_targets_mouth_and_keypoints_and_takes_the_sources_proportions():
    mean = mean_face().vertices
    wide = mean * [1.15, 1, 1]
    laughing = mean.copy()
    lower = list(INNER_LIPS[11:])
    laughing[lower, 1] += 1.5
    source, target = Fit(wide, np.eye(3), 10.0, np.zeros(2)), Fit(laughing, np.eye(3), 10.0, np.zeros(2))
    head = transfer_shape(source, target)
    assert mouth_opening(head) == pytest.approx(mouth_opening(laughing), abs=0.06)
    drift = np.linalg.norm((five_points(head) - five_points(laughing))[:, :2], axis=1)
    assert (drift <= 0.075 * 6.3).all()
    nose_width = np.linalg.norm(head[129] - head[358])
    assert nose_width > 1.03 * np.linalg.norm(mean[129] - mean[358])


def test_the_reference_turned_like_the_target_is_chosen():
    from faceloom.models.faces import Identity

    faces = [seen(yaw)[0] for yaw in (0, 35, -35)]
    identity = Identity({}, np.zeros((3, 8, 8, 3), np.float32), tuple(faces))
    references = reference_fits(identity)
    assert [nearest_pose(references, fit_face(seen(yaw)[0])) for yaw in (-30, 3, 28)] == [2, 0, 1]


def test_distance_is_to_the_nearest_of_a_ring():
    square = np.array([[0., 0, 0], [3, 0, 0], [0, 4, 0], [3, 4, 12]])
    assert distance_to_ring(square, (0, 1)).tolist() == [0, 0, 4, np.hypot(4, 12)]
