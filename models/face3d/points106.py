"""insightface's 106 landmarks (2d106det) of crops, as GHOST reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..pixels.affine import transform
from ..pixels.sampling import sample_crops
from ..runtime.onnx import OnnxModel, open_session

# Crops [N, 3, S, S] 0..1 RGB → [N, 106, 2] points in their pixels, in insightface's order.
Landmarker = Callable[[torch.Tensor], np.ndarray]

SIZE = 192  # of the network's picture
CROP = 224  # of the crop the offsets below are about
# Crop → the network's picture: the middle of it, with a margin of a sixth on every side.
TO_PICTURE = np.array([[4 / 7, 0, 32], [0, 4 / 7, 32]])
BACK = np.array([[1.75, 0, -56], [0, 1.75, -56]])


class Points106:
    """Crops ``[N, 3, S, S]`` 0..1 RGB to ``[N, 106, 2]`` points in their pixels. Points 0–32 run along the jaw."""

    def __init__(self, model: OnnxModel) -> None:
        self.model = model

    def __call__(self, crops: torch.Tensor) -> np.ndarray:
        scale = CROP / crops.shape[-1]
        # Pixels of a crop of another size, as pixels of the 224 crop: edges meet edges.
        to_picture = TO_PICTURE.copy()
        to_picture[:, :2] *= scale
        to_picture[:, 2] += TO_PICTURE[:, :2] @ np.full(2, (scale - 1) / 2)
        pictures = sample_crops(crops.permute(0, 2, 3, 1), range(len(crops)), np.repeat(to_picture[None], len(crops), 0), SIZE)
        values = (pictures.clamp(0, 1) * 255).permute(0, 3, 1, 2).contiguous().numpy()
        (answer, *_) = self.model.run({self.model.inputs[0].name: values})
        points = transform((answer.reshape(len(crops), -1, 2)[:, -106:] + 1) * (SIZE / 2), BACK)
        return (points + .5) / scale - .5


def load_points106(path, providers: str | Sequence[str] = "auto") -> Points106:
    """The network of ``2d106det.onnx``."""
    return Points106(open_session(path, providers=providers, kind="landmarker"))
