"""FSLSD (Xu et al., CVPR 2022) as an engine: a face moved to the target's landmarks in StyleGAN2's latents, blended in at 1024 pixels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...crops.templates import template_matrix
from ...face3d.points106 import Landmarker
from ...faces import Faces
from ...networks import build
from ...networks.fslsd import FSLSDNet
from ...networks.psp import StyleEncoder
from ...options.swap import SwapSettings
from ...parse import Parser
from ...runtime.devices import DeviceManager, TorchModel
from ...runtime.options import Value
from .. import open_files
from ..torch_engine import TorchEngine, sample_squares
from .fslsd import FSLSDOptions
from .regions import parsed_mask

PARTS = ("encoder_lmk", "encoder_target", "decoder", "generator", "bald_model")
# The published mask: the face, the mouth and the hair.
SWAPPED = ("skin", "nose", "glasses", "left_eye", "right_eye", "left_brow", "right_brow", "upper_lip", "lower_lip", "mouth", "hair")
INPUT_EDGE = 256  # of the picture pSp sees, in whose pixels landmarks are counted


def heat_maps(points: torch.Tensor, size: int = INPUT_EDGE) -> torch.Tensor:
    """Draws points ``[N, K, 2]`` as maps ``[N, K, size, size]`` with one pixel of 1 each. The published Gaussian of six pixels is cast to
    whole numbers, which leaves that pixel alone, and the network was trained on that."""
    at = points.long().clamp(0, size - 1)
    maps = points.new_zeros(*points.shape[:2], size * size)
    return maps.scatter_(2, (at[..., 1] * size + at[..., 0])[..., None], 1).reshape(*points.shape[:2], size, size)


def grow_masks(masks: torch.Tensor, pixels: int) -> torch.Tensor:
    """Dilates masks ``[N, 1, S, S]`` by a square of ``pixels``, by half of them on every side."""
    half = pixels // 2
    rows = functional.max_pool2d(masks, (2 * half + 1, 1), 1, (half, 0))
    return functional.max_pool2d(rows, (1, 2 * half + 1), 1, (0, half))


class FSLSDNets(nn.Module):
    """The networks, as one thing that moves between devices."""

    def __init__(self, swapper: FSLSDNet, inverter: nn.Module, average: torch.Tensor) -> None:
        super().__init__()
        self.swapper, self.inverter = swapper, inverter
        self.register_buffer("average", average)


class FSLSDEngine(TorchEngine[FSLSDNets, FSLSDOptions]):
    """A ``SwapEngine`` of 1024 pixels. landmarker: 106 points of crops, in the order the network was trained with (H3R's); parser: which
    regions are swapped, the hair among them. Its options are ``FSLSDOptions``."""

    size = 1024
    chunk = 1
    mixes = False
    options = FSLSDOptions()

    def __init__(self, name: str, model: TorchModel[FSLSDNets], landmarker: Landmarker, parser: Parser, **options: Value) -> None:
        self.landmarker, self.parser = landmarker, parser
        super().__init__(name, model, **options)

    def open_helpers(self, settings: SwapSettings) -> None:
        """See ``OpensLate``."""
        open_files(self.landmarker, self.parser)

    def alignment(self, keypoints: np.ndarray) -> np.ndarray:
        return template_matrix(keypoints, "ffhq_512", self.size)

    @torch.inference_mode()
    def encode_faces(self, images: torch.Tensor, faces: Faces) -> torch.Tensor:
        """Returns ``[N, 18 * 512 + 212]``: each face's latents and its landmarks."""
        pictures = sample_squares(images, faces, template_matrix(faces.keypoints, "ffhq_512", INPUT_EDGE), INPUT_EDGE)
        (moved,) = self.to_network(pictures)
        return torch.cat([part.float().cpu().flatten(1) for part in (self._latents(moved), self._points(moved))], 1).clone()

    def _latents(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.model.net.inverter(pictures * 2 - 1) + self.model.net.average

    def _points(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.landmarker(pictures.float().cpu()), np.float32))

    def generate(self, targets: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        small = functional.interpolate(targets, size=(INPUT_EDGE, INPUT_EDGE), mode="bilinear", align_corners=False)
        target_points = self._points(small)
        names = [name for name in SWAPPED if self.options.hair or name != "hair"]
        mask = grow_masks(parsed_mask(self.parser, targets, names)[:, None], self.options.grow).to(targets)
        targets, sources, small = self.to_network(targets, sources, small)  # the landmarks and the parser may have needed the room
        net = self.model.net.swapper
        target_latents = self._latents(small)
        latents, points = sources.split([target_latents[0].numel(), sources.shape[1] - target_latents[0].numel()], 1)
        maps = [heat_maps(side.reshape(len(targets), -1, 2).float()) for side in (points, target_points)]
        picture = net(torch.cat([side.to(targets) for side in maps], 1), latents.reshape(target_latents.shape), target_latents,
                      targets * 2 - 1, mask)
        # The picture is whole: outside the mask the decoder has drawn the target again.
        return picture.clamp(-1, 1).add(1).div(2), torch.ones_like(mask[:, 0])


def fslsd_engine(parts: Mapping[str, Mapping[str, torch.Tensor]], inverter: Mapping[str, torch.Tensor], average: torch.Tensor,
                 landmarker: Landmarker, parser: Parser, *, name: str = "fslsd", devices: DeviceManager | None = None,
                 dtype: torch.dtype = torch.float32, **options: Value) -> FSLSDEngine:
    """Makes the engine of the parts of ``CELEBA-HQ-1024.pt`` and ``psp_ffhq_encode.pt`` (its ``encoder.`` weights and ``latent_avg``).
    options: ``FSLSDOptions``."""
    weights = {f"{part}.{key}": value for part in PARTS for key, value in parts.get(part, {}).items()}
    nets = FSLSDNets(build(FSLSDNet, weights, name, dtype=dtype), build(StyleEncoder, inverter, f"{name}'s pSp encoder", dtype=dtype),
                     average.to(dtype))
    return FSLSDEngine(name, TorchModel(name, nets, devices), landmarker, parser, **options)
