"""What face detectors answer, as boxes, scores and keypoints in the pixels of the picture they saw.

Every function takes the outputs for ``count`` pictures and gives one ``Found`` per picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import FaceLoomError

UNREADABLE = ("This detector does not answer with scores, boxes and five keypoints as SCRFD, YOLOv8-face and YuNet do; use one of those "
              "(of SCRFD a file whose name ends in bnkps or kps).")


class Detections(NamedTuple):
    """boxes ``[K, 4]`` x0 y0 x1 y1, scores ``[K]``, points ``[K, 5, 2]``; not yet thinned out."""

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray


def decode_scrfd(outputs: Sequence[np.ndarray], count: int, edge: int, threshold: float) -> list[Detections]:
    """SCRFD and RetinaFace-10G (Guo et al. 2022): distances from anchor points to the sides, in strides; two anchors per cell."""
    parts = []
    for rows, group in _by_cells(outputs, count, [1, 4, 10]).items():
        scores, sides, points = (values for _, values in group)
        centers, stride = _centers(rows, edge, anchors=2)
        parts.append((scores[..., 0], _box(centers - sides[..., :2] * stride, centers + sides[..., 2:] * stride),
                      centers[:, None] + points.reshape(count, rows, 5, 2) * stride))
    return _thresholded(parts, count, threshold)


def decode_yunet(outputs: Sequence[np.ndarray], count: int, edge: int, threshold: float) -> list[Detections]:
    """YuNet (Wu et al. 2023): per cell a class and an object score, centre offset and log size in strides, keypoint offsets."""
    parts = []
    for rows, group in _by_cells(outputs, count, [1, 1, 4, 10]).items():
        (_, first), (_, second), (_, sizes), (_, points) = group
        corners, stride = _centers(rows, edge, anchors=1)
        middle = corners + sizes[..., :2] * stride
        half = np.exp(sizes[..., 2:]) * stride / 2
        scores = np.clip(first[..., 0], 0, 1) * np.clip(second[..., 0], 0, 1)
        parts.append((scores, _box(middle - half, middle + half), corners[:, None] + points.reshape(count, rows, 5, 2) * stride))
    return _thresholded(parts, count, threshold)


def decode_yolov8(outputs: Sequence[np.ndarray], count: int, edge: int, threshold: float) -> list[Detections]:
    """YOLOv8-face: per candidate centre, size, score, and five times x, y and visibility, in pixels."""
    if len(outputs) != 1 or 20 not in outputs[0].shape[1:]:
        raise FaceLoomError(UNREADABLE)
    values = outputs[0].transpose(0, 2, 1) if outputs[0].shape[1] == 20 else outputs[0]
    middle, half = values[..., :2], values[..., 2:4] / 2
    points = values[..., 5:20].reshape(count, -1, 5, 3)[..., :2]
    return _thresholded([(values[..., 4], _box(middle - half, middle + half), points)], count, threshold)


DECODERS: dict[str, Callable[[Sequence[np.ndarray], int, int, float], list[Detections]]] = {
    "scrfd": decode_scrfd, "yunet": decode_yunet, "yolov8": decode_yolov8,
}


def _by_cells(outputs: Sequence[np.ndarray], count: int, widths: list[int]) -> dict[int, list[tuple[int, np.ndarray]]]:
    """Outputs ``[count, rows, width]`` (or with picture and row in one dimension) grouped by rows, which is by stride, narrow first.
    Every group must have these ``widths``."""
    groups: dict[int, list[tuple[int, np.ndarray]]] = {}
    for output in outputs:
        width = output.shape[-1]
        values = output.reshape(count, -1, width)
        groups.setdefault(values.shape[1], []).append((width, values))
    if any(sorted(width for width, _ in group) != widths for group in groups.values()):
        raise FaceLoomError(UNREADABLE)
    return {rows: sorted(group, key=lambda pair: pair[0]) for rows, group in groups.items()}


def _centers(rows: int, edge: int, anchors: int) -> tuple[np.ndarray, float]:
    """Anchor points ``[rows, 2]`` of a square grid, cell by cell, and the stride."""
    side = round((rows / anchors) ** 0.5)
    stride = edge / side
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) * stride
    return np.repeat(grid, anchors, 0), stride


def _box(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.concatenate([low, high], -1)


def _thresholded(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], count: int, threshold: float) -> list[Detections]:
    scores, boxes, points = (np.concatenate(same, 1) for same in zip(*parts, strict=True))
    return [Detections(boxes[i][keep], scores[i][keep], points[i][keep]) for i in range(count) for keep in [scores[i] >= threshold]]
