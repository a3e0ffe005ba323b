"""Rasterizing a mesh: drawing values of its vertices into a square map."""

from __future__ import annotations

import numpy as np


def rasterize(points: np.ndarray, triangles: np.ndarray, attributes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate the vertices' attributes over the triangles that face the viewer, the nearest in front.

    points: ``[V, 3]``, x and y in map pixels, and depth. triangles: ``[T, 3]`` vertex indices. attributes: ``[V, A]``. Returns values
    ``[size, size, A]`` float32 (0 where no triangle is) and the coverage ``[size, size]`` bool. Triangles are painted from far to near,
    which is exact enough for a face, whose triangles are small.
    """
    corner = points[triangles]
    x, y = corner[..., 0], corner[..., 1]
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    order = np.argsort(-corner[..., 2].mean(1), kind="stable")
    order = order[area[order] < -1e-9]
    x, y, area, triangles = x[order], y[order], area[order], triangles[order]
    left, right = _pixel_range(x, size)
    top, bottom = _pixel_range(y, size)
    width, height = np.maximum(right - left, 0), np.maximum(bottom - top, 0)
    count = width * height
    which = np.repeat(np.arange(len(count)), count)  # the triangle of each pixel of the triangles' bounding boxes
    step = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    px, py = left[which] + step % width[which], top[which] + step // width[which]
    # barycentric coordinates are affine in the pixel: one small solve per triangle, not per pixel
    gx = np.stack([y[:, 1] - y[:, 2], y[:, 2] - y[:, 0], y[:, 0] - y[:, 1]], 1) / area[:, None]
    gy = np.stack([x[:, 2] - x[:, 1], x[:, 0] - x[:, 2], x[:, 1] - x[:, 0]], 1) / area[:, None]
    start = np.array([1.0, 0, 0]) - gx * x[:, :1] - gy * y[:, :1]
    weight = start[which] + gx[which] * px[:, None] + gy[which] * py[:, None]
    inside = (weight >= -1e-6).all(1)
    px, py, which, weight = px[inside], py[inside], which[inside], weight[inside]
    values = np.zeros((size, size, attributes.shape[1]), np.float32)
    covered = np.zeros((size, size), bool)
    values[py, px] = np.einsum("pk,pka->pa", weight, attributes[triangles[which]])
    covered[py, px] = True
    return values, covered


def _pixel_range(values: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the first pixel, and the one after the last, between the least and the largest of ``[T, 3]`` positions."""
    low = np.clip(np.ceil(values.min(1)), 0, size).astype(int)
    high = np.clip(np.floor(values.max(1)) + 1, 0, size).astype(int)
    return low, high


def vertex_normals(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Compute unit normals ``[V, 3]`` that point out of the face (negative z is towards the viewer), weighted by area."""
    a, b, c = (points[triangles[:, i]] for i in range(3))
    face = np.cross(b - a, c - a)
    normals = np.zeros_like(points)
    for i in range(3):
        np.add.at(normals, triangles[:, i], face)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
