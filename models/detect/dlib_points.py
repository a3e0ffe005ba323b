"""The 68-point fit: the predictor runs on an upright crop of one scale, whatever the face's size and tilt in the frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ..faces import keypoints_from_68
from ..pixels.affine import invert, scale_of, transform

# dlib's square around a face, in terms of the 51 inner points (brows, eyes, nose, mouth): edge over their root-mean-square
# radius, and how far below their mean its middle lies, in edges. Measured on the detector's own boxes.
_EDGE_PER_RADIUS = 3.3
_BELOW_MEAN = 0.06
_BOX = 160  # edge of the face square inside the upright crop, pixels
_CROP = 320


def luma_uint8(image: torch.Tensor) -> np.ndarray:
    """``[H, W, 3]`` 0..1 as luma ``[H, W]`` uint8. A dark frame is stretched before it is rounded, or its gradients would be lost."""
    red, green, blue = image.detach().to("cpu", torch.float32).numpy().transpose(2, 0, 1)
    gray = 0.299 * red + 0.587 * green + 0.114 * blue
    sample = gray[::8, ::8]
    brightest = max(float(np.quantile(sample, 0.995)), 1 / 255)
    return np.rint(np.clip(gray * (255 / brightest if brightest < 0.5 else 255), 0, 255)).astype(np.uint8)


def upright_crop(gray: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """``[size, size]`` uint8 of ``gray`` ``[H, W]`` uint8 through image → crop ``matrix``, the edge repeated outside.

    Shrinking averages whole pixels first. (Pillow rather than torch: dozens of calls this small per frame spend their time in
    torch's thread pool.)
    """
    back = invert(matrix)
    corners = transform(np.array([[-1, -1], [size, -1], [-1, size], [size, size]]), back)
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
    linear = back[:, :2] / factor
    # Pillow counts from the pixel's corner.
    shift = (back[:, 2] + 0.5 - inner_low) / factor + np.maximum(before, 0) - linear @ (0.5, 0.5)
    data = (*linear[0], shift[0], *linear[1], shift[1])
    return np.asarray(Image.fromarray(padded).transform((size, size), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR))


def upright_matrix(center: np.ndarray, edge: float, angle: float) -> np.ndarray:
    """Image → upright crop in which the square around ``center`` with this edge, turned by ``angle`` (radians, the direction
    of the face's left-to-right axis in the image), is the middle ``_BOX`` pixels."""
    scale = _BOX / max(edge, 1e-3)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])
    middle = (_CROP - 1) / 2
    return np.concatenate([linear, (middle - linear @ np.asarray(center, np.float64))[:, None]], 1)


def dlib_square(points: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Centre, edge and angle of the square dlib's detector would draw around ``[68, 2]`` points."""
    inner = points[17:].astype(np.float64)
    mean = inner.mean(0)
    edge = _EDGE_PER_RADIUS * float(np.sqrt(((inner - mean) ** 2).sum(1).mean()))
    angle = face_roll(points)
    down = np.array([-np.sin(angle), np.cos(angle)])
    return mean + _BELOW_MEAN * edge * down, edge, angle


def face_roll(points: np.ndarray) -> float:
    """Roll of ``[68, 2]`` points in radians: the mean of the eye line and the normal of the line from eyes to mouth."""
    eye0, eye1, _, mouth0, mouth1 = keypoints_from_68(points).astype(np.float64)
    across = (eye1 - eye0) + (mouth1 - mouth0)
    down = (mouth0 + mouth1 - eye0 - eye1) / 2
    direction = across / 2 + np.array([down[1], -down[0]])
    return float(np.arctan2(direction[1], direction[0]))


class PointFitter:
    """dlib's 68-point predictor, run on upright crops and averaged over slightly different squares."""

    crop, box = _CROP, _BOX  # edge of the upright crops and of the face square in their middle, pixels
    # Shift in edges and scale of the squares that one fit averages.
    _JITTER = ((0, 0, 1), (0.04, 0.03, 0.95), (-0.04, 0.03, 1.05), (0.03, -0.04, 1.06), (-0.03, -0.04, 0.94))

    def __init__(self, predictor) -> None:
        import dlib

        self._predict = predictor
        self._rectangle = dlib.rectangle

    def fit_once(self, gray: np.ndarray, center: np.ndarray, edge: float, angle: float,
                 jitter: int = len(_JITTER)) -> tuple[np.ndarray, float]:
        """``[68, 2]`` points and their scatter over the first ``jitter`` squares (root mean square, in edges)."""
        matrix = upright_matrix(center, edge, angle)
        crop = upright_crop(gray, matrix, _CROP)
        shapes = self.shapes(crop, self._JITTER[:jitter])
        points = shapes.mean(0)
        scatter = float(np.sqrt(((shapes - points) ** 2).sum(-1).mean())) / _BOX
        return transform(points, invert(matrix)).astype(np.float32), scatter

    def settle(self, gray: np.ndarray, points: np.ndarray) -> np.ndarray:
        """The points ``[68, 2]`` once more from the square that they describe, seen directly and in a mirror, so that a face and
        its mirror image get mirrored points."""
        matrix = upright_matrix(*dlib_square(points))
        crop = upright_crop(gray, matrix, _CROP)
        return transform(self.shapes(crop, self._JITTER[:3], MIRROR_68).mean(0), invert(matrix)).astype(np.float32)

    def shapes(self, crop: np.ndarray, squares: Sequence[tuple[float, float, float]], mirror: Sequence[int] | None = None,
               predictor=None) -> np.ndarray:
        """``[K, P, 2]`` crop pixels: the predictor's (None: the 68-point one's) answer from every square (shift in edges, scale).
        With ``mirror``, the point that each becomes there, also the answers in the mirrored crop, from the mirrored squares."""
        answers = [self._shape(crop, *square, predictor) for square in squares]
        if mirror is not None:
            mirrored = np.ascontiguousarray(crop[:, ::-1])
            for dx, dy, scale in squares:
                flipped = self._shape(mirrored, -dx, dy, scale, predictor)[mirror]
                flipped[:, 0] = _CROP - 1 - flipped[:, 0]
                answers.append(flipped)
        return np.stack(answers)

    def fit_box(self, gray: np.ndarray, box: np.ndarray) -> np.ndarray:
        """``[68, 2]`` points in another detector's box (forehead to chin)."""
        x0, y0, x1, y1 = box
        edge = 0.9 * float(np.sqrt(max(x1 - x0, 1.0) * max(y1 - y0, 1.0)))
        points, _ = self.fit_once(gray, np.array([(x0 + x1) / 2, y0 + 0.56 * (y1 - y0)]), edge, 0.0)
        points, _ = self.fit_once(gray, *dlib_square(points), jitter=1)
        return self.settle(gray, points)

    def _shape(self, crop: np.ndarray, dx: float, dy: float, scale: float, predictor=None) -> np.ndarray:
        half = _BOX * scale / 2
        x, y = (_CROP - 1) / 2 + _BOX * dx, (_CROP - 1) / 2 + _BOX * dy
        rectangle = self._rectangle(round(x - half), round(y - half), round(x + half), round(y + half))
        return np.array([(p.x, p.y) for p in (predictor or self._predict)(crop, rectangle).parts()], np.float64)
