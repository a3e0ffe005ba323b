"""faceswap's masks beside OpenCV, whose lines and hulls they are made of, and beside what follows from their description."""

from __future__ import annotations

import numpy as np
import pytest
from faceloom.models.parse.landmarks import mean_points68
from faceloom.models.swap.research.deepfakes_mask import HULLS, blur_mask, finish_mask, landmark_mask, square_fade

POINTS = mean_points68() * 100 + 12


@pytest.mark.parametrize("size", [64, 96, 128])
def test_hulls_are_opencvs_but_for_where_lines_meet(size):
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(1)
    for _ in range(5):
        points = POINTS * size / 128 + random.normal(0, 1.5, POINTS.shape)
        wanted = np.zeros((size, size), np.uint8)
        for group in HULLS:
            cv2.fillConvexPoly(wanted, cv2.convexHull(np.rint(points[list(group)]).astype(np.int32)), 255, cv2.LINE_AA)
        off = np.abs(landmark_mask(points, size) * 255 - wanted)
        assert off.max() < 2.5 and (off > .5).sum() < 10


@pytest.mark.parametrize("edge", [1, 3, 5, 9, 15])
def test_blurs_are_opencvs(edge):
    cv2 = pytest.importorskip("cv2")
    mask = landmark_mask(POINTS, 128)
    np.testing.assert_allclose(blur_mask(mask, "gaussian", edge, 1), cv2.GaussianBlur(mask, (edge, edge), 0), atol=1e-5)
    np.testing.assert_allclose(blur_mask(mask, "normalized", edge, 1), cv2.blur(mask, (edge, edge)), atol=1e-5)


def test_masks_show_a_face_beyond_the_square():
    mask = landmark_mask(POINTS - (60, 0), 128)
    assert mask[64, 0] == 1 and mask[64, 100] == 0
    assert landmark_mask(POINTS + 500, 128).max() == 0


def test_extended_masks_take_in_half_of_what_is_between_brows_and_eyes():
    plain, extended = landmark_mask(POINTS, 128), landmark_mask(POINTS, 128, True)
    gained = plain[:, 64].argmax(), extended[:, 64].argmax()
    assert (extended < plain - .1).sum() < 12 and extended.sum() > plain.sum()  # brows' ends move a little to the side
    brow, eye = POINTS[19, 1], POINTS[37, 1]
    assert abs((gained[0] - gained[1]) - (eye - brow) / 2) < 3


def test_finished_masks_are_0_and_1_but_for_a_narrow_border():
    mask = finish_mask(landmark_mask(POINTS, 128))
    assert mask.dtype == np.float32 and mask[70, 64] == 1 and mask[2, 2] == 0
    between = (mask > 0) & (mask < 1)
    assert mask[between].min() >= .04 and mask[between].max() <= .96
    rows = between[70, :64]
    assert 4 <= rows.sum() <= 12  # four boxes of three pixels over a smoothed line


@pytest.mark.parametrize("erode", [10, -10, 30])
def test_erosion_is_a_share_of_the_masks_radius(erode):
    away = np.arange(200) - 99.5
    disc = (np.hypot(away, away[:, None]) < 50).astype(np.float32)
    radius = np.sqrt(finish_mask(disc, erode).sum() / np.pi)
    assert abs(50 - radius - int(abs(erode) / 100 * np.sqrt(disc.sum()) / 2) * np.sign(erode)) < 1


def test_the_squares_border_fades():
    fade = square_fade(256)
    assert fade[0].max() < .05 and fade[128, 40] > .999 and abs(fade[128, 7] + fade[128, 8] - 1) < 1e-6
    assert finish_mask(np.ones((256, 256), np.float32))[128, 128] == 1
    np.testing.assert_allclose(finish_mask(np.ones((256, 256), np.float32)), fade, atol=1e-6)
