"""dlib's face network, asked where dlib's HOG detector is in doubt.

It knows half-profiles, glasses, hats and side light, and faces tilted by up to 45 degrees, from about 75 pixels on. A pixel costs it
several times as much as HOG, so it sees small copies of a frame only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from .dlib_many_starts import ConsensusFitter
from .dlib_mmod import MmodNetwork
from .dlib_points import brightening

# How the network's confidence is put on the scale of HOG's margins.
_CONFIDENCE_AT_MARGIN_0 = 0.4
_MARGIN_PER_CONFIDENCE = 1.25


@dataclass(frozen=True)
class NetworkFace:
    """A face that the network found. margin: on HOG's scale. points: ``[68, 2]`` in image pixels."""

    margin: float
    points: np.ndarray


def rgb_uint8(image: torch.Tensor, scale: float) -> np.ndarray:
    """Convert ``[H, W, 3]`` 0..1 to uint8 of ``scale`` times the size; dark images are brightened (``brightening``)."""
    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    step = max(1, int(0.5 / scale))  # beyond two source pixels per pixel the rest is left to Pillow's filter
    small = image[::step, ::step].detach().to("cpu", torch.float32).numpy()
    picture = Image.fromarray(np.rint(np.clip(small * brightening(small[::4, ::4]), 0, 255)).astype(np.uint8))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BILINEAR))


class FaceNetwork:
    """Finds faces with dlib's network and fits their points."""

    def __init__(self, network: MmodNetwork, fitter: ConsensusFitter) -> None:
        self._network, self._fitter = network, fitter

    def find_faces(self, image: torch.Tensor, gray: np.ndarray, min_margin: float, *, edge: int, border: float = 0.0) -> list[NetworkFace]:
        """Find the faces of ``image`` ``[H, W, 3]`` 0..1 that reach ``min_margin``.

        gray: the image's luma ``[H, W]`` uint8, in which the points are fitted. edge: longest edge of the copy that the network sees,
        pixels. border: by how much of that edge the copy is extended on all sides, repeating its rim.
        """
        scale = min(4.0, edge / max(gray.shape))
        picture = rgb_uint8(image, scale)
        rim = round(border * edge)
        picture = np.pad(picture, ((rim, rim), (rim, rim), (0, 0)), mode="edge")
        faces = []
        for hit in self._network.find(picture):
            margin = _MARGIN_PER_CONFIDENCE * (hit.confidence - _CONFIDENCE_AT_MARGIN_0)
            if margin >= min_margin:
                box = (hit.box + np.array([0, 0, 1, 1]) - rim) / scale - 0.5
                faces.append(NetworkFace(margin, self._fitter.fit(gray, box)))
        return faces
