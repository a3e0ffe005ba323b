"""insightface's 106 landmarks (2d106det) of crops, as GHOST finds them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..pixels.affine import transform
from ..pixels.sampling import sample_crops
from ..runtime.method import Method, any_file
from ..runtime.onnx import OnnxModel, open_session

# Crops [N, 3, S, S] 0..1 RGB → [N, 106, 2] points in their pixels, in insightface's order.
Landmarker = Callable[[torch.Tensor], np.ndarray]

INPUT_SIZE = 192  # pixels of the network's input
REFERENCE_SIZE = 224  # pixels of the crop that the two matrices below are for
# The crop fills the middle two thirds of the input.
REFERENCE_TO_INPUT = np.array([[4 / 7, 0, 32], [0, 4 / 7, 32]])
INPUT_TO_REFERENCE = np.array([[1.75, 0, -56], [0, 1.75, -56]])


class Points106:
    """Finds the 106 points ``[N, 106, 2]``, in pixels, of crops ``[N, 3, S, S]`` 0..1 RGB. Points 0 to 32 run along the jaw."""

    def __init__(self, model: OnnxModel) -> None:
        self.model = model

    def __call__(self, crops: torch.Tensor) -> np.ndarray:
        scale = REFERENCE_SIZE / crops.shape[-1]
        # A crop of another size is scaled to the reference's, edges on edges.
        to_input = REFERENCE_TO_INPUT.copy()
        to_input[:, :2] *= scale
        to_input[:, 2] += REFERENCE_TO_INPUT[:, :2] @ np.full(2, (scale - 1) / 2)
        inputs = sample_crops(crops.permute(0, 2, 3, 1), range(len(crops)), np.repeat(to_input[None], len(crops), 0), INPUT_SIZE)
        values = (inputs.clamp(0, 1) * 255).permute(0, 3, 1, 2).contiguous().numpy()
        (output, *_) = self.model.run({self.model.inputs[0].name: values})
        points = transform((output.reshape(len(crops), -1, 2)[:, -106:] + 1) * (INPUT_SIZE / 2), INPUT_TO_REFERENCE)
        return (points + .5) / scale - .5


METHOD = Method("2d106det", kind="landmarker", families=("insightface106",), suffixes=(".onnx",), recognizes=any_file,
                open=lambda file, loading: Points106(open_session(file.path, providers=loading.providers, kind="landmarker")))
