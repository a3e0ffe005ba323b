"""FaceDancer (Rosberg et al., WACV 2023) from its authors' Keras files, any configuration, without TensorFlow."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from ..errors import FaceLoomError
from ..faces import Faces
from ..geometry import template_matrix
from ..networks.keras_graph import KerasNet
from ..weights import DeviceManager, TorchModel
from .torch_engine import TorchEngine, sampled

TEMPLATE = "arcface_112_v2"
RECTANGLE = (slice(77, 240), slice(32, 224))  # rows and columns of 256; the published video program has rows from 100 on
SIGMA = 7


@cache
def rectangle_mask(rows: slice = RECTANGLE[0]) -> torch.Tensor:
    """``[256, 256]``: the fixed soft rectangle faces are pasted with."""
    mask = np.zeros((256, 256), np.float32)
    mask[rows, RECTANGLE[1]] = 1
    return torch.from_numpy(ndimage.gaussian_filter(mask, SIGMA))


class FaceDancerNets(nn.Module):
    """The networks, as one thing that moves between devices."""

    def __init__(self, generator: KerasNet, arcface: KerasNet) -> None:
        super().__init__()
        self.generator, self.arcface = generator, arcface

    def parameters(self, recurse: bool = True):
        """A ``KerasNet``'s weights are buffers."""
        return self.buffers(recurse)


class FaceDancerEngine(TorchEngine):
    """A ``SwapEngine``. rectangle: paste with the published soft rectangle; False takes the face's outline."""

    def __init__(self, name: str, model: TorchModel, *, rectangle: bool = True) -> None:
        super().__init__(name, model)
        self.rectangle = rectangle

    def alignment(self, keypoints: np.ndarray) -> np.ndarray:
        return template_matrix(keypoints, TEMPLATE, self.size)

    @torch.inference_mode()
    def of_photos(self, images: torch.Tensor, faces: Faces) -> torch.Tensor:
        """``[N, 512]``: the identity network's vectors as they are."""
        (pictures,) = self.moved(sampled(images, faces, template_matrix(faces.keypoints, TEMPLATE, 112), 112))
        return self.model.net.arcface(pictures).float().cpu().clone()

    def answer(self, targets: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        pictures = (self.model.net.generator(targets * 2 - 1, sources) + 1) / 2
        mask = rectangle_mask().to(targets).expand(len(targets), -1, -1) if self.rectangle else None
        return pictures, mask


def facedancer_engine(generator: KerasNet, arcface: KerasNet, *, name: str = "facedancer", devices: DeviceManager | None = None,
                      dtype: torch.dtype = torch.float32, **options) -> FaceDancerEngine:
    """The engine for two graphs of ``networks.keras_graph.read_keras``; see ``FaceDancerEngine``."""
    for net, inputs, what in ((generator, 2, "FaceDancer generator"), (arcface, 1, "ArcFace network")):
        if len(net.graph["input_layers"]) != inputs:
            raise FaceLoomError(f"The {what} must take {inputs} input(s); this Keras file takes {len(net.graph['input_layers'])}.")
    return FaceDancerEngine(name, TorchModel(name, FaceDancerNets(generator, arcface).to(dtype), devices), **options)
