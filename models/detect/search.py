"""Where to look for faces: passes over the frame from cheap to expensive."""

from __future__ import annotations

import math

import numpy as np
import torch

from .boxes import suppress
from .fit import PointFitter, face_box, to_bytes

_MINIMUM = 80  # pixels, the smallest face the HOG detector knows


def score_of(margin: float) -> float:
    """HOG margin to 0..1; 0.5 is margin 0."""
    return 1 / (1 + math.exp(-4 * margin))


def margin_of(score: float) -> float:
    """Inverse of ``score_of``."""
    score = min(max(score, 1e-4), 1 - 1e-4)
    return math.log(score / (1 - score)) / 4


def find(gray: torch.Tensor, hog, fitter: PointFitter, threshold: float) -> list[tuple[np.ndarray, float]]:
    """Points ``[68, 2]`` and score 0..1 of every face in ``[H, W, 1]`` luma."""
    height, width = gray.shape[:2]
    if min(height, width) < 8:
        return []
    scale = min(1.0, math.sqrt(1.2e6 / (height * width)))
    pad = round(0.2 * min(height, width) * scale)
    small = _resized(gray, scale, pad)
    rectangles, margins, _ = hog.run(small, 0, margin_of(threshold))
    found = []
    for rectangle, margin in zip(rectangles, margins, strict=True):
        center = (np.array([rectangle.left() + rectangle.right(), rectangle.top() + rectangle.bottom()]) / 2 - pad + 0.5) / scale - 0.5
        found.append((fitter.fit(gray, center, rectangle.width() / scale, 0.0), score_of(margin)))
    keep = suppress(np.array([face_box(p) for p, _ in found]).reshape(-1, 4), np.array([s for _, s in found]))
    return [found[i] for i in keep]


def _resized(gray: torch.Tensor, scale: float, pad: int) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(to_bytes(gray))
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.BILINEAR) if size != picture.size else picture
    return np.pad(np.asarray(picture), pad, mode="edge")
