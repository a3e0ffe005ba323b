"""The outputs of face detectors, decoded to boxes, scores and keypoints in pixels of the network's input.

Every decoder takes the outputs for ``count`` inputs of ``edge`` × ``edge`` pixels and returns one ``Detections`` per input, with the
candidates whose score is at least ``threshold``. Outputs of another form raise FaceLoomError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import FaceLoomError

UNREADABLE = ("This detector does not return scores, boxes and five keypoints as SCRFD, YOLOv8-face and YuNet do; use one of those "
              "(of SCRFD a file whose name ends in bnkps or kps).")


class Detections(NamedTuple):
    """Faces in one picture. boxes: ``[K, 4]`` x0, y0, x1, y1. scores: ``[K]``. keypoints: ``[K, 5, 2]``. Decoders return all candidates,
    several for one face."""

    boxes: np.ndarray
    scores: np.ndarray
    keypoints: np.ndarray


def decode_scrfd(outputs: Sequence[np.ndarray], count: int, edge: int, threshold: float) -> list[Detections]:
    """Decode SCRFD and RetinaFace-10G (Guo et al. 2022): distances from anchor points to the sides, in strides; two anchors per cell."""
    levels = []
    for rows, group in _group_by_stride(outputs, count, [1, 4, 10]).items():
        scores, sides, offsets = (values for _, values in group)
        anchors, stride = _anchor_points(rows, edge, per_cell=2)
        levels.append((scores[..., 0], _box(anchors - sides[..., :2] * stride, anchors + sides[..., 2:] * stride),
                       anchors[:, None] + offsets.reshape(count, rows, 5, 2) * stride))
    return _above_threshold(levels, count, threshold)


def decode_yunet(outputs: Sequence[np.ndarray], count: int, edge: int, threshold: float) -> list[Detections]:
    """Decode YuNet (Wu et al. 2023): per cell a class and an object score, centre offset and log size in strides, keypoint offsets."""
    levels = []
    for rows, group in _group_by_stride(outputs, count, [1, 1, 4, 10]).items():
        (_, first), (_, second), (_, sizes), (_, offsets) = group
        anchors, stride = _anchor_points(rows, edge, per_cell=1)
        middle = anchors + sizes[..., :2] * stride
        half = np.exp(sizes[..., 2:]) * stride / 2
        scores = np.clip(first[..., 0], 0, 1) * np.clip(second[..., 0], 0, 1)
        levels.append((scores, _box(middle - half, middle + half), anchors[:, None] + offsets.reshape(count, rows, 5, 2) * stride))
    return _above_threshold(levels, count, threshold)


def decode_yolov8(outputs: Sequence[np.ndarray], count: int, edge: int, threshold: float) -> list[Detections]:
    """Decode YOLOv8-face: per candidate centre, size, score, and five times x, y and visibility, in pixels."""
    if len(outputs) != 1 or 20 not in outputs[0].shape[1:]:
        raise FaceLoomError(UNREADABLE)
    values = outputs[0].transpose(0, 2, 1) if outputs[0].shape[1] == 20 else outputs[0]
    middle, half = values[..., :2], values[..., 2:4] / 2
    keypoints = values[..., 5:20].reshape(count, -1, 5, 3)[..., :2]
    return _above_threshold([(values[..., 4], _box(middle - half, middle + half), keypoints)], count, threshold)


DECODERS: dict[str, Callable[[Sequence[np.ndarray], int, int, float], list[Detections]]] = {
    "scrfd": decode_scrfd, "yunet": decode_yunet, "yolov8": decode_yolov8,
}


def _group_by_stride(outputs: Sequence[np.ndarray], count: int, widths: list[int]) -> dict[int, list[tuple[int, np.ndarray]]]:
    """Group outputs ``[count, rows, width]`` (or with the first two dimensions in one) by their rows, of which each stride has its own
    number: for every group width and values, narrow first. Every group must have these ``widths``."""
    groups: dict[int, list[tuple[int, np.ndarray]]] = {}
    for output in outputs:
        width = output.shape[-1]
        values = output.reshape(count, -1, width)
        groups.setdefault(values.shape[1], []).append((width, values))
    if any(sorted(width for width, _ in group) != widths for group in groups.values()):
        raise FaceLoomError(UNREADABLE)
    return {rows: sorted(group, key=lambda pair: pair[0]) for rows, group in groups.items()}


def _anchor_points(rows: int, edge: int, per_cell: int) -> tuple[np.ndarray, float]:
    """Return the anchor points ``[rows, 2]`` of a square grid over ``edge`` pixels, cell by cell, and the stride in pixels."""
    side = round((rows / per_cell) ** 0.5)
    stride = edge / side
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) * stride
    return np.repeat(grid, per_cell, 0), stride


def _box(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.concatenate([low, high], -1)


def _above_threshold(levels: list[tuple[np.ndarray, np.ndarray, np.ndarray]], count: int, threshold: float) -> list[Detections]:
    """Join scores ``[count, K]``, boxes and keypoints of all strides and keep what reaches the threshold."""
    scores, boxes, keypoints = (np.concatenate(same, 1) for same in zip(*levels, strict=True))
    return [Detections(boxes[i][keep], scores[i][keep], keypoints[i][keep]) for i in range(count) for keep in [scores[i] >= threshold]]
