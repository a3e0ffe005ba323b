"""Drawing as OpenCV draws, beside OpenCV where it is installed and beside what follows from the description."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.pixels.opencv_like import convex_hull, draw_smooth_line, fill_hull
from scipy.spatial import Delaunay


def test_smooth_lines_are_opencvs():
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(0)
    for number in range(600):
        start = random.integers(0, 40, 2)
        end = np.clip(start + random.integers(-3, 4, 2), 0, 39) if number % 3 == 0 else random.integers(0, 40, 2)
        wanted, got = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.int64)
        cv2.line(wanted, tuple(map(int, start)), tuple(map(int, end)), 255, 1, cv2.LINE_AA)
        draw_smooth_line(got, start, end)
        np.testing.assert_array_equal(got, wanted, f"{start} {end}")


def test_hulls_leave_out_what_lies_on_edges():
    points = np.array([[0, 0], [4, 0], [2, 0], [8, 0], [8, 8], [4, 4], [0, 8], [0, 8], [3, 8]])
    assert sorted(map(tuple, convex_hull(points))) == [(0, 0), (0, 8), (8, 0), (8, 8)]
    assert convex_hull(np.array([[1, 1], [3, 3], [2, 2]])).tolist() == [[1, 1], [3, 3]]  # a profile's brow may be a line
    assert len(convex_hull(np.array([[0, 0], [2, 0], [4, 0], [4, 4], [0, 4], [2, 2]]))) == 4


@pytest.mark.parametrize("seed", range(5))
def test_a_filled_hull_covers_its_points_and_little_more(seed):
    points = np.random.default_rng(seed).uniform(10, 110, (12, 2))
    mask = fill_hull(points, 120)
    whole = np.trunc(points)
    assert mask[whole[:, 1].astype(int), whole[:, 0].astype(int)].all()
    inside = Delaunay(whole).find_simplex(np.stack(np.mgrid[:120, :120][::-1], -1).reshape(-1, 2)).reshape(120, 120) >= 0
    assert mask[inside].all()
    far = (torch.nn.functional.max_pool2d(torch.from_numpy(inside)[None].float(), 3, 1, 1)[0] == 0).numpy()
    assert not mask[far].any()


def test_a_filled_hull_of_points_on_a_line_is_the_line():
    mask = fill_hull(np.array([[2, 2], [4, 4], [8, 8]]), 12)
    assert mask.sum() == 7 and mask.diagonal()[2:9].all()
    assert fill_hull(np.full((5, 2), 3.7), 8).sum() == 1


def test_a_filled_hull_beyond_the_square_is_cut():
    mask = fill_hull(np.array([[-20, -20], [40, -20], [40, 40], [-20, 40]]), 16)
    assert mask.all()
    assert not fill_hull(np.array([[20, 20], [30, 20], [25, 30]]), 16).any()
