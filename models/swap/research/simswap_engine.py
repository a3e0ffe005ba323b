"""SimSwap (Chen et al., ACM MM 2020) as an engine: 224 pixels (``latest_net_G.pth``) and 512 (``550000_net_G.pth``)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...crops.templates import template_matrix
from ...faces import Faces
from ...networks import build
from ...networks.arcface_se import build_arcface
from ...networks.simswap import SimSwapNet, simswap_form
from ...parse import Parser
from ...runtime.devices import DeviceManager, TorchModel
from ...runtime.input import normalize_channels
from ...runtime.options import Value
from ..torch_engine import sample_squares
from .ghost_engine import nearest_template
from .parser_engine import ParserEngine
from .regions import FACE, kept_mask
from .simswap import SimSwapOptions

MEAN, STD = (.485, .456, .406), (.229, .224, .225)


class SimSwapNets(nn.Module):
    """The networks, as one thing that moves between devices."""

    def __init__(self, generator: nn.Module, arcface: nn.Module) -> None:
        super().__init__()
        self.generator, self.arcface = generator, arcface


class SimSwapEngine(ParserEngine[SimSwapNets, SimSwapOptions]):
    """A ``SwapEngine``. At 224 pixels faces are aligned by the best of the old five templates, at 512 as FFHQ's are.

    parser: with one, the mask is the published one (parsed face and mouth, eroded softly), else the face's outline. Its options are
    ``SimSwapOptions``.
    """

    options = SimSwapOptions()

    def alignment(self, keypoints: np.ndarray) -> np.ndarray:
        return nearest_template(keypoints)[0] if self.size == 224 else template_matrix(keypoints, "ffhq_512", self.size)

    @torch.inference_mode()
    def encode_faces(self, images: torch.Tensor, faces: Faces) -> torch.Tensor:
        """Returns vectors ``[N, 512]`` of length 1. As published the source is brought to 112 pixels by leaving pixels out; it was trained
        so."""
        (pictures,) = self.to_network(sample_squares(images, faces, self.alignment(faces.keypoints), self.size))
        small = functional.interpolate(normalize_channels(pictures, MEAN, STD), size=(112, 112))
        return functional.normalize(self.model.net.arcface(small).float()).cpu().clone()

    def generate(self, targets: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        pictures = self.model.net.generator(targets, sources).tanh().add_(1).div_(2)
        parser = self.mask_parser
        return pictures, None if parser is None else kept_mask(parser, targets, FACE, self.size)


def simswap_engine(generator: Mapping[str, torch.Tensor], arcface: Mapping[str, torch.Tensor], *, name: str = "simswap",
                   parser: Parser | None = None, devices: DeviceManager | None = None, dtype: torch.dtype = torch.float32,
                   **options: Value) -> SimSwapEngine:
    """Makes the engine of an official generator and the weights of ``arcface_checkpoint.tar``."""
    form = simswap_form(generator)
    nets = SimSwapNets(build(lambda: SimSwapNet(**form), generator, name, dtype=dtype), build_arcface(arcface, f"{name}'s ArcFace", dtype))
    return SimSwapEngine(name, TorchModel(name, nets, devices), 512 if form["large"] else 224, parser, **options)
