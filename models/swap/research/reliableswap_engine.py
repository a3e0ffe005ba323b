"""ReliableSwap (Yuan et al., 2023) as engines: the FaceShifter and SimSwap generators with FixerNet.

The gradio demo is the reference: sources are moved from FFHQ's to ArcFace's alignment for FaceShifter, and not for SimSwap.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...crops.templates import template_matrix
from ...errors import FaceLoomError
from ...faces import Faces
from ...networks import build
from ...networks.arcface_se import build_arcface
from ...networks.faceshifter import FaceShifterNet, FixerNet, fixer_form, resize_to_112
from ...networks.iresnet import iresnet_depth
from ...networks.simswap import SimSwapNet, simswap_form
from ...parse import Parser
from ...runtime.devices import DeviceManager, Net, TorchModel
from ...runtime.options import Value
from ..torch_engine import sample_squares
from .parser_engine import ParserEngine
from .regions import kept_mask
from .reliableswap import ReliableSwapOptions

FIXER = "mouth_net.backbone."


class FfhqEngine(ParserEngine[Net, ReliableSwapOptions]):
    """An engine that sees FFHQ crops. parser: with one, hair and background stay the target's, as the published programs have it;
    without, the mask is the face's outline. Its options are ``ReliableSwapOptions``."""

    options = ReliableSwapOptions()

    def alignment(self, keypoints: np.ndarray) -> np.ndarray:
        return template_matrix(keypoints, "ffhq_512", self.size)

    def own_masks(self, targets: torch.Tensor) -> torch.Tensor | None:
        """Returns masks ``[n, size, size]``, 0 in hair and background, softly; None where the face's outline is wanted or no parser is
        at hand."""
        parser = self.mask_parser
        return None if parser is None else 1 - kept_mask(parser, targets, ("hair", "background"))

    @torch.inference_mode()
    def encode_faces(self, images: torch.Tensor, faces: Faces) -> torch.Tensor:
        (pictures,) = self.to_network(sample_squares(images, faces, self.alignment(faces.keypoints), self.size) * 2 - 1)
        return self.embed(pictures).float().cpu().clone()

    def embed(self, pictures: torch.Tensor) -> torch.Tensor:
        """Returns what the generator takes of pictures ``[N, 3, size, size]`` in [-1, 1]."""
        raise NotImplementedError

    def draw(self, targets: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Returns the generator's pictures in [-1, 1] for targets in [-1, 1]."""
        raise NotImplementedError

    def generate(self, targets: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.draw(targets * 2 - 1, sources).clamp(-1, 1).mul(.5).add_(.5), self.own_masks(targets)


class FaceShifterEngine(FfhqEngine[FaceShifterNet]):
    """FaceShifter's generator as ReliableSwap trained it."""

    layout = torch.contiguous_format

    def embed(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.model.net.identity(pictures, self.options.align)

    def draw(self, targets: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return self.model.net.G(targets, vectors)[0]


class SimSwapNets(nn.Module):
    """The networks, as one thing that moves between devices."""

    def __init__(self, generator: nn.Module, arcface: nn.Module, mouth: nn.Module | None) -> None:
        super().__init__()
        self.generator, self.arcface, self.mouth = generator, arcface, mouth


class SimSwapEngine(FfhqEngine[SimSwapNets]):
    """SimSwap's generator as ReliableSwap trained it."""

    def check(self) -> None:
        if not self.options.align:
            raise FaceLoomError(f"{self.name} is ReliableSwap's SimSwap form, for which the source is never moved; leave align on.")

    def embed(self, pictures: torch.Tensor) -> torch.Tensor:
        net, small = self.model.net, resize_to_112(pictures)
        vector = functional.normalize(net.arcface(small))
        return vector if net.mouth is None else torch.cat((vector, net.mouth(small)), 1)

    def draw(self, targets: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return self.model.net.generator(targets, vectors)


def faceshifter_engine(weights: Mapping[str, torch.Tensor], *, name: str = "reliableswap_faceshifter", parser: Parser | None = None,
                       devices: DeviceManager | None = None, dtype: torch.dtype = torch.float32, **options: Value) -> FaceShifterEngine:
    """Makes the engine of one of the FaceShifter files, which hold everything. options: ``ReliableSwapOptions``."""
    large = any(key.startswith("G.encoder.conv00.") for key in weights)
    depth = iresnet_depth([key.removeprefix("iresnet.") for key in weights if key.startswith("iresnet.")])
    inside = {key.removeprefix(FIXER): value for key, value in weights.items() if key.startswith(FIXER)}
    net = build(lambda: FaceShifterNet(large, fixer_form(inside) if inside else None, depth), weights, name, dtype=dtype)
    return FaceShifterEngine(name, TorchModel(name, net, devices), 512 if large else 256, parser, **options)


def simswap_engine(generator: Mapping[str, torch.Tensor], arcface: Mapping[str, torch.Tensor],
                   mouth: Mapping[str, torch.Tensor] | None = None, *, name: str = "reliableswap_simswap", parser: Parser | None = None,
                   devices: DeviceManager | None = None, dtype: torch.dtype = torch.float32, **options: Value) -> SimSwapEngine:
    """Makes the engine of a SimSwap file of ReliableSwap's, ArcFace's (SimSwap's own where the generator was trained without FixerNet) and,
    where it was trained with it, FixerNet's."""
    form = simswap_form(generator)
    if form["vector"] > 512 and mouth is None:
        raise FaceLoomError(f"{name} was trained with FixerNet; put mouth_net_28_56_84_112.pth beside it.")
    fixer = None
    if mouth is not None and form["vector"] > 512:
        weights = mouth
        fixer = build(lambda: FixerNet(**fixer_form(weights)), weights, f"{name}'s FixerNet", dtype=dtype)
    nets = SimSwapNets(build(lambda: SimSwapNet(**form), generator, name, dtype=dtype),
                       build_arcface(arcface, f"{name}'s ArcFace", dtype), fixer)
    return SimSwapEngine(name, TorchModel(name, nets, devices), 256, parser, **options)
