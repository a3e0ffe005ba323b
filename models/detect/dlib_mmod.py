"""dlib's face network (max-margin object detection, King 2015, arXiv:1502.00046), computed by torch.

dlib's own code for it takes some ten times as long, ends the process on pictures that are thin or small, and cannot be called from two
threads. This finds the same boxes with the same confidences, from pictures of any shape. Written from dlib's image_pyramid.h, loss.h and
box_overlap_testing.h (Boost licence).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ..runtime.threads import one_thread
from .dlib_format import DlibFaceNetwork

# A picture and its copies, each 5/6 of the one before, lie in one large picture: the first ones below each other, the others beside them.
_STEP = 6
_GAP, _MARGIN = 10, 11  # black pixels between the copies, and around all
_SMALLEST_HEIGHT = 5  # of a copy, pixels


class Hit(NamedTuple):
    """A face that the network sees. box: ``[4]`` x0, y0, x1, y1, whole pixels, the last ones included."""

    confidence: float
    box: np.ndarray


class MmodNetwork:
    """dlib's face network. weights: as ``read_face_network`` reads them."""

    def __init__(self, weights: DlibFaceNetwork) -> None:
        self._weights = weights
        # Channels last takes a quarter less time.
        self._layers = [(torch.from_numpy(layer.weight).to(memory_format=torch.channels_last), torch.from_numpy(layer.bias), layer)
                        for layer in weights.layers]

    @torch.inference_mode()
    def find(self, picture: np.ndarray) -> list[Hit]:
        """Find the faces of ``[H, W, 3]`` uint8 RGB of a confidence above 0, surest first, every face once."""
        with one_thread():
            return self._find(picture)

    def _find(self, picture: np.ndarray) -> list[Hit]:
        places, height, width = pyramid_places(*picture.shape[:2])
        copies = torch.zeros(1, 3, height, width)
        image = (torch.from_numpy(picture.astype(np.float32) - self._weights.mean) / 256).permute(2, 0, 1)[None]
        for x, y, copy_width, copy_height in places:
            image = image if (copy_height, copy_width) == image.shape[2:] else F.interpolate(
                image, (copy_height, copy_width), mode="bilinear", align_corners=True)
            copies[:, :, y:y + copy_height, x:x + copy_width] = image
        confidences = self._run(copies)
        found = [Hit(float(confidences[row, column]), self._box(row, column, places))
                 for row, column in np.argwhere(confidences > 0).tolist()]
        return self._once(sorted(found, key=lambda hit: -hit.confidence))

    def _run(self, values: torch.Tensor) -> np.ndarray:
        """Compute the confidences ``[h, w]`` of ``[1, 3, H, W]``; none where the picture is smaller than the first layers' windows."""
        values = values.contiguous(memory_format=torch.channels_last)
        for weight, bias, layer in self._layers:
            if min(values.shape[2:]) + 2 * layer.padding < weight.shape[2]:
                return np.zeros((0, 0), np.float32)
            values = F.conv2d(values, weight, bias, layer.stride, layer.padding)
            values = values.relu_() if layer.normalized else values
        return values[0, 0].numpy()

    def _box(self, row: int, column: int, places: list[tuple[int, int, int, int]]) -> np.ndarray:
        """Return the box ``[4]`` in the picture that an output stands for."""
        middle = np.array([column, row], np.float64)
        for layer in reversed(self._weights.layers):
            middle = middle * layer.stride - layer.padding + layer.weight.shape[2] // 2
        corners = np.stack([middle - (self._weights.window - 1) / 2, middle + (self._weights.window - 1) / 2])
        areas = np.array(places)
        away = middle - np.clip(middle, areas[:, :2], areas[:, :2] + areas[:, 2:] - 1)
        level = int((away**2).sum(1).argmin())
        corners = corners - areas[level, :2]
        for _ in range(level):
            corners = corners * (_STEP / (_STEP - 1)) + 0.3
        return (np.sign(corners) * np.floor(np.abs(corners) + 0.5)).ravel()  # halves away from 0, as C rounds

    def _once(self, hits: list[Hit]) -> list[Hit]:
        """Leave out every hit that lies on a surer one: by their intersection over the box around both, or inside it."""
        kept: list[Hit] = []
        for hit in hits:
            if not any(_same(hit.box, other.box, self._weights.overlap) for other in kept):
                kept.append(hit)
        return kept


def _same(one: np.ndarray, other: np.ndarray, overlap: float) -> bool:
    """Whether two boxes show one face."""
    inner = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]) + 1, 0, None).prod()
    around = (np.maximum(one[2:], other[2:]) - np.minimum(one[:2], other[:2]) + 1).prod()
    return bool(inner > overlap * around)


def pyramid_places(height: int, width: int) -> tuple[list[tuple[int, int, int, int]], int, int]:
    """Lay a picture and its smaller copies out in one large picture; return x, y, width and height of each, and that picture's height and
    width."""
    sizes = [(width, height)]
    while True:
        width, height = (math.floor((_STEP - 1) / _STEP * edge) for edge in sizes[-1])
        if width < 1 or height < _SMALLEST_HEIGHT:
            break
        sizes.append((width, height))
    first_width, first_height = sizes[0]
    total = sum(height + _GAP for _, height in sizes) - 2 * _GAP
    column, used, before = 0, 0, 0
    for width, height in sizes:
        if width <= first_width - before - _GAP and 2 * (used - first_height) >= total - first_height:
            break
        column, used, before = column + 1, used + height + _GAP, width
    used -= _GAP
    places, y = [], _MARGIN
    for width, height in sizes[:column]:
        places.append((_MARGIN, y, width, height))
        y += height + _GAP
    y -= _GAP
    for width, height in sizes[column:]:  # upwards again, at the right side
        y -= height
        if y < _MARGIN + first_height:
            break
        places.append((_MARGIN + first_width - width, y, width, height))
        y -= _GAP
    return places, used + 2 * _MARGIN, first_width + 2 * _MARGIN
