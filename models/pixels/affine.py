"""Affine matrices ``[..., 2, 3]`` float64 between pixel coordinates, integers being pixel centres."""

from __future__ import annotations

import numpy as np

from ..errors import FaceLoomError


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fit rotation, uniform scale and translation from ``[..., K, 2]`` source points to target points by least squares: ``[..., 2, 3]``.

    Closed form (Umeyama 1991, without reflection; in two dimensions it is one complex division). FaceLoomError where the points determine
    no similarity: all in one place, not numbers, or without any resemblance to the target's layout.
    """
    a, b = (np.ascontiguousarray(points, np.float64).view(np.complex128)[..., 0] for points in (source, target))
    a_mean, b_mean = (c.sum(-1, keepdims=True) / c.shape[-1] for c in (a, b))
    a, b = a - a_mean, b - b_mean
    energy, target_energy = ((c.real**2 + c.imag**2).sum(-1) for c in (a, b))
    overlap = (a.conj() * b).sum(-1)
    if not np.all((energy > 1e-6) & (np.abs(overlap) > 1e-3 * np.sqrt(energy * target_energy))):
        raise FaceLoomError("A face's keypoints lie in one place or in no order a face can have; remove that face with Face Select.")
    turn = overlap / energy
    shift = b_mean[..., 0] - turn * a_mean[..., 0]
    return np.stack([turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag], -1).reshape(*turn.shape, 2, 3)


def bounds(matrix: np.ndarray, left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
    """Return x0, y0, x1, y1 of the upright rectangle around a rectangle that went through ``matrix`` ``[2, 3]``."""
    # Plain numbers: arrays of four points take many times as long, and this is called many times for each face.
    (a, b, x), (c, d, y) = matrix.tolist()
    across, down = (left + right) / 2, (top + bottom) / 2
    x, y = a * across + b * down + x, c * across + d * down + y
    half, tall = (right - left) / 2, (bottom - top) / 2
    width, height = abs(a) * half + abs(b) * tall, abs(c) * half + abs(d) * tall
    return x - width, y - height, x + width, y + height


def invert(matrix: np.ndarray) -> np.ndarray:
    """Return the inverse of affine matrices ``[..., 2, 3]``, float64."""
    a, b, x, c, d, y = (matrix[..., i, j] for i in (0, 1) for j in (0, 1, 2))
    determinant = a * d - b * c
    out = np.empty(matrix.shape, np.float64)
    out[..., 0, 0], out[..., 0, 1], out[..., 0, 2] = d, -b, b * y - d * x
    out[..., 1, 0], out[..., 1, 1], out[..., 1, 2] = -c, a, c * x - a * y
    return out / determinant[..., None, None]


def compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the affine matrix ``[..., 2, 3]`` that applies ``first``, then ``second``."""
    linear = second[..., :2] @ first[..., :2]
    return np.concatenate([linear, second[..., :2] @ first[..., 2:] + second[..., 2:]], -1)


def transform(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply a matrix ``[..., 2, 3]`` to points ``[..., K, 2]``, float64."""
    return np.asarray(points, np.float64) @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]


def scale_of(matrix: np.ndarray) -> np.ndarray:
    """Return how many target pixels one source pixel spans, ``[...]``, for matrices ``[..., 2, 3]``: crop pixels per image pixel."""
    return np.sqrt(np.abs(matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]))
