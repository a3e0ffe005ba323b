"""dlib's face network (max-margin object detection, King 2015, arXiv:1502.00046) as a second opinion beside its HOG detector.

It knows half-profiles, glasses, hats and side light, and faces tilted by up to 45 degrees, from about 75 pixels on. A pixel costs it
some thirty times as much as HOG, so it sees small copies of a frame only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from .dlib_many_starts import ConsensusFitter

_NEUTRAL, _SLOPE = 0.4, 1.25  # confidence that stands for margin 0, and margin per unit of confidence


@dataclass(frozen=True)
class NetworkFace:
    """One face: margin on HOG's scale, points ``[68, 2]`` in frame pixels."""

    margin: float
    points: np.ndarray


def rgb_uint8(image: torch.Tensor, scale: float) -> np.ndarray:
    """``[H, W, 3]`` 0..1 as uint8, scaled; a dark frame is stretched first, as for HOG."""
    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    step = max(1, int(0.5 / scale))  # beyond two source pixels per pixel the rest is left to Pillow's filter
    small = image[::step, ::step].detach().to("cpu", torch.float32).numpy()
    brightest = max(float(np.quantile(small[::4, ::4], 0.995)), 1 / 255)
    gain = 255 / brightest if brightest < 0.5 else 255
    picture = Image.fromarray(np.rint(np.clip(small * gain, 0, 255)).astype(np.uint8))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BILINEAR))


class FaceNetwork:
    """One frame after another through the network."""

    def __init__(self, network, fitter: ConsensusFitter) -> None:
        self._network, self._fitter = network, fitter

    def look(self, image: torch.Tensor, gray: np.ndarray, wanted: float, *, edge: int, border: float = 0.0) -> list[NetworkFace]:
        """Faces of ``image`` ``[H, W, 3]`` 0..1 with a margin of at least ``wanted``, in a copy of longest edge ``edge`` (pixels)
        with its rim repeated over ``border`` (of that edge) on all sides. ``gray``: its luma ``[H, W]`` uint8, for the points."""
        scale = min(4.0, edge / max(gray.shape))
        picture = rgb_uint8(image, scale)
        rim = round(border * edge)
        picture = np.ascontiguousarray(np.pad(picture, ((rim, rim), (rim, rim), (0, 0)), mode="edge"))
        seen = []
        for hit in self._network(picture, 0):
            margin = _SLOPE * (hit.confidence - _NEUTRAL)
            if margin >= wanted:
                box = (np.array([hit.rect.left(), hit.rect.top(), hit.rect.right() + 1, hit.rect.bottom() + 1]) - rim) / scale - 0.5
                seen.append(NetworkFace(margin, self._fitter.fit(gray, box)))
        return seen
