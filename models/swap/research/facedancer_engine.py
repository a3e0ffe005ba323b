"""FaceDancer (Rosberg et al., WACV 2023) as an engine: its authors' Keras graphs, any configuration, without TensorFlow."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from ...crops.templates import template_matrix
from ...errors import FaceLoomError
from ...faces import Faces
from ...networks.keras_net import KerasNet
from ...runtime.devices import DeviceManager, TorchModel
from ...runtime.options import Value
from ..torch_engine import TorchEngine, sample_squares
from .facedancer import FaceDancerOptions
from .words import OUTLINE

TEMPLATE = "arcface_112_v2"
COLUMNS = slice(32, 224)  # of 256
ROWS = {"rectangle": slice(77, 240), "low rectangle": slice(100, 240)}  # the second is the older video program's
SIGMA = 7


@cache
def rectangle_mask(kind: str = "rectangle") -> torch.Tensor:
    """Returns the fixed soft rectangle ``[256, 256]`` that faces are pasted with. kind: a key of ``ROWS``."""
    mask = np.zeros((256, 256), np.float32)
    mask[ROWS[kind], COLUMNS] = 1
    return torch.from_numpy(ndimage.gaussian_filter(mask, SIGMA))


class FaceDancerNets(nn.Module):
    """The networks, as one thing that moves between devices."""

    def __init__(self, generator: KerasNet, arcface: KerasNet) -> None:
        super().__init__()
        self.generator, self.arcface = generator, arcface

    def parameters(self, recurse: bool = True):
        """Yields the weights, which a ``KerasNet`` keeps as buffers."""
        return self.buffers(recurse)


class FaceDancerEngine(TorchEngine[FaceDancerNets, FaceDancerOptions]):
    """A ``SwapEngine``; its options are ``FaceDancerOptions``."""

    options = FaceDancerOptions()

    def alignment(self, keypoints: np.ndarray) -> np.ndarray:
        return template_matrix(keypoints, TEMPLATE, self.size)

    @torch.inference_mode()
    def encode_faces(self, images: torch.Tensor, faces: Faces) -> torch.Tensor:
        """Returns the identity network's vectors ``[N, 512]`` as they are."""
        (pictures,) = self.to_network(sample_squares(images, faces, template_matrix(faces.keypoints, TEMPLATE, 112), 112))
        return self.model.net.arcface(pictures).float().cpu().clone()

    def generate(self, targets: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        pictures = (self.model.net.generator(targets * 2 - 1, sources) + 1) / 2
        kind = self.options.mask
        return pictures, None if kind == OUTLINE else rectangle_mask(kind).to(targets).expand(len(targets), -1, -1)


def facedancer_engine(generator: KerasNet, arcface: KerasNet, *, name: str = "facedancer", devices: DeviceManager | None = None,
                      dtype: torch.dtype = torch.float32, **options: Value) -> FaceDancerEngine:
    """Makes the engine of two graphs of ``networks.keras_net.load_keras``. options: ``FaceDancerOptions``."""
    for net, inputs, what in ((generator, 2, "FaceDancer generator"), (arcface, 1, "ArcFace network")):
        if len(net.graph["input_layers"]) != inputs:
            raise FaceLoomError(f"The {what} must take {inputs} input(s); this Keras file takes {len(net.graph['input_layers'])}.")
    return FaceDancerEngine(name, TorchModel(name, FaceDancerNets(generator, arcface).to(dtype), devices), **options)
