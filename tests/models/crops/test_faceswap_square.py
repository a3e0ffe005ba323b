"""faceswap's squares: what holds for any face, beside the reference vector's one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from faceloom.models.crops.faceswap_square import (
    HEAD,
    HEAD_POINTS,
    MEAN_51,
    MIDDLE,
    RATIO,
    _fit_pose,
    _project,
    centred_matrix,
    padding,
    square_matrix,
)
from faceloom.models.parse.landmarks import mean_points68
from faceloom.models.pixels.affine import invert, transform
from scipy.spatial.transform import Rotation

GOLDEN = Path(os.environ.get("FACELOOM_GOLDEN", Path(__file__).parents[4] / "shared" / "golden")) / "faceswap_align_masks.json"
FACE = mean_points68() * 180 + (90, 40)


@pytest.mark.skipif(not GOLDEN.is_file(), reason=f"no {GOLDEN}")
def test_unit_squares_paddings_and_shifts_are_the_published_ones():
    points = np.load(GOLDEN.with_suffix(".npz"))["landmarks"].astype(np.float64)
    for name, said in json.loads(GOLDEN.read_text())["per_centering"].items():
        centering, coverage = name.split("_")
        matrix = centred_matrix(points, centering)
        np.testing.assert_allclose(matrix, said["matrix"], atol=2e-6)
        np.testing.assert_allclose(centred_matrix(points, "legacy")[:, 2] - matrix[:, 2], said["offset"], atol=2e-6)
        assert padding(centering, 256, int(coverage) / 1000) == said["padding"]


def test_the_mean_face_fills_its_own_square():
    inner = np.concatenate([np.zeros((17, 2)), MEAN_51 * 300 + 20])
    np.testing.assert_allclose(centred_matrix(inner, "legacy"), [[1 / 300, 0, -20 / 300], [0, 1 / 300, -20 / 300]], atol=1e-12)


@pytest.mark.parametrize("centering", RATIO)
def test_squares_move_turn_and_grow_with_the_face(centering):
    base = square_matrix(FACE, centering, 128)
    angle = .4
    turn = np.array([[np.cos(angle), -np.sin(angle), 35], [np.sin(angle), np.cos(angle), -12]]) * [[1.7, 1.7, 1]]
    moved = square_matrix(transform(FACE, turn), centering, 128)
    np.testing.assert_allclose(transform(transform(FACE, turn), moved), transform(FACE, base), atol=1e-3)


def test_a_smaller_coverage_is_the_middle_of_the_square():
    whole, part = (square_matrix(FACE, "face", 512, coverage) for coverage in (1, .75))
    corners = np.array([[0, 0], [512, 0], [0, 512], [512, 512]], np.float64)
    shown = transform(transform(corners, invert(part)), whole)
    np.testing.assert_allclose(shown, (corners - 256) * .75 + 256, atol=1.5)  # paddings are whole pixels


@pytest.mark.parametrize("turn", [(0, 0, 0), (.3, -.5, .1), (-.2, .8, -.3)])
def test_poses_are_found_again(turn):
    pose = np.array([*turn, .5, 4, -58])
    points = np.zeros((68, 2))
    points[list(HEAD_POINTS)] = _project(pose, HEAD)
    found = _fit_pose(points)
    np.testing.assert_allclose(Rotation.from_rotvec(found[:3]).as_matrix(), Rotation.from_rotvec(turn).as_matrix(), atol=1e-5)
    np.testing.assert_allclose(found[3:], pose[3:], atol=1e-3)


def test_poses_are_opencvs():
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(0)
    camera = np.array([[4, 0, .5], [0, 4, .5], [0, 0, 1.0]])
    for _ in range(40):
        turn = Rotation.from_euler("yxz", random.uniform((-80, -40, -20), (80, 40, 20)), degrees=True).as_rotvec()
        points = np.zeros((68, 2))
        points[list(HEAD_POINTS)] = _project(np.array([*turn, 0, 4, -55]), HEAD) + random.normal(0, .01, (26, 2))
        _, rotation, place = cv2.solvePnP(HEAD, points[list(HEAD_POINTS)], camera, None, flags=cv2.SOLVEPNP_ITERATIVE)
        for middle in MIDDLE.values():
            seen = cv2.projectPoints(np.array([middle], np.float64), rotation, place, camera, None)[0].ravel()
            np.testing.assert_allclose(_project(_fit_pose(points), middle)[0], seen, atol=1e-4)
