"""MegaFS (Zhu et al., CVPR 2021) as an engine: faces swapped among StyleGAN2's latents, at 1024 pixels."""

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
from ...networks.megafs import HierarchicalEncoder, swapper_for
from ...networks.stylegan2 import StyleGAN2
from ...options.swap import SwapSettings
from ...parse import Parser
from ...runtime.devices import DeviceManager, TorchModel
from ...runtime.options import Value
from .. import open_files
from ..torch_engine import sample_squares
from .megafs import MegaFSOptions
from .parser_engine import ParserEngine
from .regions import FACE, kept_mask
from .words import OUTLINE

Weights = Mapping[str, torch.Tensor]
INPUT_EDGE = 256  # of the picture the encoder sees


class MegaFSNets(nn.Module):
    """The networks, as one thing that moves between devices."""

    def __init__(self, encoder: nn.Module, swapper: nn.Module, generator: nn.Module) -> None:
        super().__init__()
        self.encoder, self.swapper, self.generator = encoder, swapper, generator


class MegaFSEngine(ParserEngine[MegaFSNets, MegaFSOptions]):
    """A ``SwapEngine`` of 1024 pixels.

    parser: with one, the mask is the published one (parsed face and mouth, eroded softly), else the face's outline. Its options are
    ``MegaFSOptions``.
    """

    options = MegaFSOptions()

    chunk = 1
    mixes = False

    def check(self) -> None:
        if self.options.refine and self.parser is None:
            raise FaceLoomError("MegaFS refines the pasted face and needs a face parser for it; connect one to Load Swap Model, or set "
                                "refine to off.")

    def alignment(self, keypoints: np.ndarray) -> np.ndarray:
        return template_matrix(keypoints, "ffhq_512", self.size)

    @torch.inference_mode()
    def open_helpers(self, settings: SwapSettings) -> None:
        """See ``OpensLate``."""
        open_files(self.parser)  # which it asks for every mask

    def encode_faces(self, images: torch.Tensor, faces: Faces) -> torch.Tensor:
        """Returns the faces' latents ``[N, 18, 512]``."""
        matrices = template_matrix(faces.keypoints, "ffhq_512", INPUT_EDGE)
        (pictures,) = self.to_network(sample_squares(images, faces, matrices, INPUT_EDGE) * 2 - 1)
        return self.model.net.encoder(pictures)[0].float().cpu().clone()

    def generate(self, targets: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        mask = None if self.parser is None else kept_mask(self.parser, targets, FACE, 1024).to(targets.dtype)
        targets, sources = self.to_network(targets, sources)  # the parser may have needed the room
        latents, structure = self._encode(targets)
        latents = self.model.net.swapper(sources, latents)
        picture = self._as_picture(self.model.net.generator(latents, structure)[0])
        if self.options.refine and mask is not None:  # ``check`` sees to it that there is a parser
            pasted = torch.lerp(targets, picture, mask[:, None])
            latents, structure = self._encode(pasted)
            picture = self._as_picture(self.model.net.generator(latents, structure)[0])
        return picture, None if self.options.mask == OUTLINE else mask

    def _encode(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents ``[n, 18, 512]`` and structure of pictures ``[n, 3, size, size]`` 0..1."""
        small = functional.interpolate(pictures, size=(INPUT_EDGE, INPUT_EDGE), mode="bilinear", align_corners=False)
        return self.model.net.encoder(small * 2 - 1)

    def _as_picture(self, pictures: torch.Tensor) -> torch.Tensor:
        """Converts the generator's pictures to 0..1: from -1..1, or with the option ``stretch`` from each one's own range."""
        if not self.options.stretch:
            return (pictures + 1) / 2
        low, high = pictures.amin((1, 2, 3), keepdim=True), pictures.amax((1, 2, 3), keepdim=True)
        return (pictures - low) / (high - low).clamp(min=1e-6)


def megafs_engine(encoder: Weights, swapper: Weights, generator: Weights, *, name: str = "megafs",
                  parser: Parser | None = None, devices: DeviceManager | None = None, dtype: torch.dtype = torch.float32,
                  **options: Value) -> MegaFSEngine:
    """Makes the engine of the entries ``e`` and ``s`` of ``*_final.pth`` and ``g_ema`` of the generator's file; options: ``MegaFSOptions``.

    Entries of the generator's file that are not the generator's are left out, as in the published program.
    """
    edge = max(value.shape[-1] for key, value in generator.items() if key.startswith("noises."))
    with torch.device("meta"):
        wanted = StyleGAN2(edge).state_dict()
    generator = {key: value for key, value in generator.items() if key in wanted}
    nets = MegaFSNets(build(HierarchicalEncoder, encoder, f"{name}'s encoder", dtype=dtype),
                      build(lambda: swapper_for(swapper), swapper, f"{name}'s swapper", dtype=dtype),
                      build(lambda: StyleGAN2(edge), generator, f"{name}'s generator", dtype=dtype))
    return MegaFSEngine(name, TorchModel(name, nets, devices), edge, parser, **options)
