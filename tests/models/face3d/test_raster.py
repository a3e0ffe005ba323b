from __future__ import annotations

import numpy as np
import pytest
from faceloom.models.face3d.raster import rasterize, vertex_normals


def quad(x0, y0, x1, y1, depth):
    """Two triangles wound to face the viewer."""
    points = np.array([[x0, y0, depth], [x1, y0, depth], [x0, y1, depth], [x1, y1, depth]], float)
    return points, np.array([[0, 2, 1], [1, 2, 3]])


def test_attributes_are_interpolated_exactly():
    points, triangles = quad(2, 3, 12, 9, 0)
    values, covered = rasterize(points, triangles, points[:, :2] * [2, -1] + 5, 16)
    ys, xs = np.nonzero(covered)
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (2, 12, 3, 9)
    assert covered.sum() == 11 * 7
    assert values[ys, xs] == pytest.approx(np.stack([2 * xs + 5, 5 - ys], 1), abs=1e-5)
    assert (values[~covered] == 0).all()


def test_the_nearer_surface_is_in_front_whatever_the_order():
    near, t1 = quad(0, 0, 7, 7, -1)
    far, t2 = quad(0, 0, 7, 7, 5)
    for first, second in ((near, far), (far, near)):
        points, triangles = np.concatenate([first, second]), np.concatenate([t1, t2 + 4])
        values, _ = rasterize(points, triangles, points[:, 2:], 8)
        assert (values == -1).all()


def test_back_faces_and_what_lies_outside_are_not_drawn():
    points, triangles = quad(-5, -5, 3, 3, 0)
    _, covered = rasterize(points, triangles[:, ::-1], points, 8)
    assert not covered.any()
    _, covered = rasterize(points, triangles, points, 8)
    assert covered.sum() == 16 and covered[:4, :4].all()


def test_normals_point_at_the_viewer():
    points, triangles = quad(0, 0, 4, 4, 2)
    assert vertex_normals(points, triangles) == pytest.approx(np.tile([0, 0, -1.0], (4, 1)))
