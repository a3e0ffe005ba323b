"""Finds how a small grey picture moved into the next one, to a fraction of a pixel."""

from __future__ import annotations

import numpy as np

from .affine import transform

_STEPS = 8
_ENOUGH = 0.002  # pixels: a step that moves the corners by less is the last one
_USED = 0.4  # of the pixels that count, those with the steepest slopes; flat ones say nothing about motion
_OUTLIER = 2.5  # median absolute differences beyond which a pixel counts less: what moved by itself, or is hidden


def register_affine(before: np.ndarray, after: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Find the affine matrix ``[2, 3]`` that takes pixels of ``before`` to where they are in ``after``, both ``[H, W]`` float of any range.

    weights: ``[H, W]`` 0..1, what counts. The motion must be a few pixels at most. Also returned is the correlation -1..1 of what counts
    after the motion. Gauss-Newton steps on the squared difference, with a gain and an offset for the light, and weights that fall where the
    difference is unusually large (Lucas & Kanade 1981 as in Baker & Matthews 2004, inverse compositional with a fixed gradient; Huber's
    weights).
    """
    height, width = before.shape
    middle = np.array([width - 1, height - 1]) / 2
    down, across = (np.asarray(slope) for slope in np.gradient(before.astype(np.float64)))
    counts = weights > 0.01
    steep = np.hypot(down, across)
    ys, xs = np.nonzero(counts & (steep >= np.quantile(steep[counts], 1 - _USED)))
    points, base, weight = np.stack([xs, ys], 1).astype(np.float64), before[ys, xs].astype(np.float64), weights[ys, xs].astype(np.float64)
    x, y = ((points - middle) / (max(height, width) / 2)).T
    slope_x, slope_y = across[ys, xs], down[ys, xs]
    steepest = np.stack([slope_x, slope_y, slope_x * x, slope_x * y, slope_y * x, slope_y * y, base, np.ones_like(base)], 1)
    matrix = np.array([[1.0, 0, 0], [0, 1, 0]])
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], np.float64)
    moved = _read(after, points)
    for _ in range(_STEPS):
        difference = moved - base
        spread = 1.4826 * np.median(np.abs(difference - np.median(difference))) + 1e-6
        robust = weight * np.minimum(1, _OUTLIER * spread / np.maximum(np.abs(difference - np.median(difference)), 1e-9))
        weighted = steepest * robust[:, None]
        normal = weighted.T @ steepest
        solved = np.linalg.solve(normal + 1e-6 * np.trace(normal) / 8 * np.eye(8), weighted.T @ difference)
        before_step = transform(corners, matrix)
        matrix = _compose_inverse(matrix, solved[:6], middle, max(height, width) / 2)
        moved = _read(after, transform(points, matrix))
        if np.abs(transform(corners, matrix) - before_step).max() < _ENOUGH:
            break
    return matrix, _correlation(base, moved, weight)


def _compose_inverse(matrix: np.ndarray, step: np.ndarray, middle: np.ndarray, unit: float) -> np.ndarray:
    """Return ``matrix`` after the inverse of a small step, given as shift and linear part about the middle."""
    linear = np.eye(2) + step[2:].reshape(2, 2) / unit
    shift = step[:2] + middle - linear @ middle
    inverse = np.linalg.inv(linear)
    return np.concatenate([matrix[:, :2] @ inverse, (matrix[:, 2] - matrix[:, :2] @ inverse @ shift)[:, None]], 1)


def _read(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Read a picture ``[H, W]`` bilinearly at points ``[K, 2]``; outside its edge continues."""
    height, width = picture.shape
    x, y = np.clip(points[:, 0], 0, width - 1), np.clip(points[:, 1], 0, height - 1)
    x0, y0 = np.minimum(x.astype(np.int64), width - 2), np.minimum(y.astype(np.int64), height - 2)
    right, low = x - x0, y - y0
    flat, at = picture.reshape(-1), y0 * width + x0
    above = flat[at] * (1 - right) + flat[at + 1] * right
    return above * (1 - low) + (flat[at + width] * (1 - right) + flat[at + width + 1] * right) * low


def _correlation(one: np.ndarray, other: np.ndarray, weight: np.ndarray) -> float:
    """Return the weighted correlation of two rows of values."""
    weight = weight / weight.sum()
    one, other = one - weight @ one, other - weight @ other
    return float((weight * one) @ other / max(np.sqrt(((weight * one) @ one) * ((weight * other) @ other)), 1e-12))
