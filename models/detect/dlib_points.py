"""dlib's 68-point predictor, run on an upright crop of one scale, whatever the face's size and tilt in the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..faces import MIRROR_68, keypoints_from_68
from ..pixels.affine import invert, scale_of, transform

# dlib's square around a face, in terms of the 51 inner points (brows, eyes, nose, mouth): its edge over their root-mean-square
# radius, and how far below their mean its middle lies, in edges. Measured on the detector's own boxes.
_EDGE_PER_RADIUS = 3.3
_BELOW_MEAN = 0.06
# Edges in pixels of the upright crop and of the face's square in its middle.
_CROP_EDGE = 320
_SQUARE_EDGE = 160


def brightening(values: np.ndarray) -> float:
    """Return the factor that brings grey or colour values 0..1 to 0..255: 255, or more where the image is dark (its 99.5th
    percentile below 0.5), because rounding to 8 bits would otherwise lose the gradients that HOG reads."""
    brightest = max(float(np.quantile(values, 0.995)), 1 / 255)
    return 255 / brightest if brightest < 0.5 else 255


def luma_uint8(image: torch.Tensor) -> np.ndarray:
    """Convert ``[H, W, 3]`` 0..1 to luma ``[H, W]`` uint8; dark images are brightened (``brightening``)."""
    red, green, blue = image.detach().to("cpu", torch.float32).numpy().transpose(2, 0, 1)
    gray = 0.299 * red + 0.587 * green + 0.114 * blue
    return np.rint(np.clip(gray * brightening(gray[::8, ::8]), 0, 255)).astype(np.uint8)


def upright_crop(gray: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Cut ``[size, size]`` uint8 from ``gray`` ``[H, W]`` uint8 through the image → crop ``matrix`` ``[2, 3]``, repeating the edge
    outside.

    Shrinking averages whole pixels first. (Pillow rather than torch: dozens of calls this small per frame spend their time in
    torch's thread pool.)
    """
    to_image = invert(matrix)
    corners = transform(np.array([[-1, -1], [size, -1], [-1, size], [size, size]]), to_image)
    factor = max(1, int(1 / float(scale_of(matrix))))
    low = np.floor(corners.min(0)).astype(int) - 2 * factor
    high = np.ceil(corners.max(0)).astype(int) + 2 * factor
    limit = np.array(gray.shape[::-1])
    inner_low, inner_high = np.clip(low, 0, limit - 1), np.clip(high, 1, limit)
    inner_high = np.maximum(inner_high, inner_low + 1)
    region = Image.fromarray(gray[inner_low[1]:inner_high[1], inner_low[0]:inner_high[0]])
    region = region.reduce(factor) if factor > 1 else region
    before, after = -(-(inner_low - low) // factor), -(-(high - inner_high) // factor)
    padded = np.pad(np.asarray(region), ((max(before[1], 0), max(after[1], 0)), (max(before[0], 0), max(after[0], 0))), mode="edge")
    linear = to_image[:, :2] / factor
    # Pillow counts from the pixel's corner.
    shift = (to_image[:, 2] + 0.5 - inner_low) / factor + np.maximum(before, 0) - linear @ (0.5, 0.5)
    coefficients = (*linear[0], shift[0], *linear[1], shift[1])
    return np.asarray(Image.fromarray(padded).transform((size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR))


def upright_matrix(center: np.ndarray, edge: float, angle: float) -> np.ndarray:
    """Return ``[2, 3]`` image → upright crop, in whose middle the square around ``center`` ``[2]`` takes up ``_SQUARE_EDGE`` pixels.

    edge: the square's, in image pixels. angle: how it is turned, in radians: the direction of the face's left-to-right axis in the image.
    """
    scale = _SQUARE_EDGE / max(edge, 1e-3)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])
    middle = (_CROP_EDGE - 1) / 2
    return np.concatenate([linear, (middle - linear @ np.asarray(center, np.float64))[:, None]], 1)


def dlib_square(points: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return centre ``[2]``, edge and angle (radians) of the square that dlib's detector would draw around ``[68, 2]`` points."""
    inner = points[17:].astype(np.float64)
    mean = inner.mean(0)
    edge = _EDGE_PER_RADIUS * float(np.sqrt(((inner - mean) ** 2).sum(1).mean()))
    angle = face_roll(points)
    down = np.array([-np.sin(angle), np.cos(angle)])
    return mean + _BELOW_MEAN * edge * down, edge, angle


def face_roll(points: np.ndarray) -> float:
    """Return the roll of ``[68, 2]`` points in radians: the mean of the eye line and the normal of the line from eyes to mouth."""
    eye0, eye1, _, mouth0, mouth1 = keypoints_from_68(points).astype(np.float64)
    across = (eye1 - eye0) + (mouth1 - mouth0)
    down = (mouth0 + mouth1 - eye0 - eye1) / 2
    direction = across / 2 + np.array([down[1], -down[0]])
    return float(np.arctan2(direction[1], direction[0]))


class PointFitter:
    """Fits dlib's 68 points on upright crops, as the mean over slightly different squares."""

    crop_edge, square_edge = _CROP_EDGE, _SQUARE_EDGE
    # Shift in edges and scale of the squares that one fit averages.
    _JITTER = ((0, 0, 1), (0.04, 0.03, 0.95), (-0.04, 0.03, 1.05), (0.03, -0.04, 1.06), (-0.03, -0.04, 0.94))

    def __init__(self, predictor) -> None:
        import dlib

        untyped: Any = dlib
        self._predictor = predictor
        self._rectangle = untyped.rectangle

    def fit_once(self, gray: np.ndarray, center: np.ndarray, edge: float, angle: float,
                 jitter: int = len(_JITTER)) -> tuple[np.ndarray, float]:
        """Fit ``[68, 2]`` float32 image points in one square, and return with them their scatter over its first ``jitter`` variants
        (root mean square, in edges). gray: ``[H, W]`` uint8."""
        matrix = upright_matrix(center, edge, angle)
        crop = upright_crop(gray, matrix, _CROP_EDGE)
        shapes = self.predict(crop, self._JITTER[:jitter])
        points = shapes.mean(0)
        scatter = float(np.sqrt(((shapes - points) ** 2).sum(-1).mean())) / _SQUARE_EDGE
        return transform(points, invert(matrix)).astype(np.float32), scatter

    def refine(self, gray: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Fit ``[68, 2]`` float32 points once more, from the square that ``points`` describe, seen directly and in a mirror, so that a
        face and its mirror image get mirrored points."""
        matrix = upright_matrix(*dlib_square(points))
        crop = upright_crop(gray, matrix, _CROP_EDGE)
        return transform(self.predict(crop, self._JITTER[:3], MIRROR_68).mean(0), invert(matrix)).astype(np.float32)

    def fit_box(self, gray: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Fit ``[68, 2]`` float32 points in another detector's box ``[4]`` (x0, y0, x1, y1, forehead to chin)."""
        x0, y0, x1, y1 = box
        edge = 0.9 * float(np.sqrt(max(x1 - x0, 1.0) * max(y1 - y0, 1.0)))
        points, _ = self.fit_once(gray, np.array([(x0 + x1) / 2, y0 + 0.56 * (y1 - y0)]), edge, 0.0)
        points, _ = self.fit_once(gray, *dlib_square(points), jitter=1)
        return self.refine(gray, points)

    def predict(self, crop: np.ndarray, squares: Sequence[tuple[float, float, float]], mirror: Sequence[int] | None = None,
                predictor=None) -> np.ndarray:
        """Predict the points in every square of an upright crop: ``[K, P, 2]`` float64 crop pixels.

        squares: shift in edges (x, y) and scale of each. predictor: None is the 68-point one. mirror: the index of each point's mirror
        image; with it, the mirrored crop is seen from the mirrored squares too, and the points found there are mirrored back.
        """
        shapes = [self._predict_in_square(crop, *square, predictor) for square in squares]
        if mirror is not None:
            mirrored = np.ascontiguousarray(crop[:, ::-1])
            for dx, dy, scale in squares:
                shape = self._predict_in_square(mirrored, -dx, dy, scale, predictor)[mirror]
                shape[:, 0] = _CROP_EDGE - 1 - shape[:, 0]
                shapes.append(shape)
        return np.stack(shapes)

    def _predict_in_square(self, crop: np.ndarray, dx: float, dy: float, scale: float, predictor=None) -> np.ndarray:
        half = _SQUARE_EDGE * scale / 2
        x, y = (_CROP_EDGE - 1) / 2 + _SQUARE_EDGE * dx, (_CROP_EDGE - 1) / 2 + _SQUARE_EDGE * dy
        rectangle = self._rectangle(round(x - half), round(y - half), round(x + half), round(y + half))
        return np.array([(p.x, p.y) for p in (predictor or self._predictor)(crop, rectangle).parts()], np.float64)
