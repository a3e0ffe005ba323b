"""GHOST (Groshev et al., IEEE Access 2022) from its authors' own files: generator, ArcFace and, if wanted, super-resolution.

As published but for plain slips: pictures are not truncated to 8 bits, and every clip and target keeps its own parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..errors import FaceLoomError
from ..faces import Faces
from ..geometry import similarity, transform
from ..networks import build
from ..networks.aei import AEINet
from ..networks.iresnet import IResNet, depth_of
from ..weights import DeviceManager, TorchModel
from .ghost_mask import MaskParameters, blend_mask
from .ghost_sr import SuperResolutionNet
from .torch_engine import TorchEngine, sampled

CROP = 224  # the crop all of GHOST's numbers are about
TEMPLATES = 2 * np.array([  # a face seen from its left side to its right side, in 112 pixels
    [(51.642, 50.115), (57.617, 49.990), (35.740, 69.007), (51.157, 89.050), (57.025, 89.702)],
    [(45.031, 50.118), (65.568, 50.872), (39.677, 68.111), (45.177, 86.190), (64.246, 86.758)],
    [(39.730, 51.138), (72.270, 51.138), (56.000, 68.493), (42.463, 87.010), (69.537, 87.010)],
    [(46.845, 50.872), (67.382, 50.118), (72.737, 68.111), (48.167, 86.758), (67.236, 86.190)],
    [(54.796, 49.990), (60.771, 50.115), (76.673, 69.007), (55.388, 89.702), (61.257, 89.050)],
])
Weights = Mapping[str, torch.Tensor]
# [N, 3, 224, 224] 0..1 → [N, 106, 2] in those pixels, in insightface's order.
Landmarker = Callable[[torch.Tensor], np.ndarray]


def nearest_template(keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``[N, 5, 2]`` keypoints to image → 224 crop ``[N, 2, 3]``, by the one of the five templates they fit best, and its number ``[N]``."""
    keypoints = np.asarray(keypoints, np.float64)
    matrices = similarity(keypoints[:, None], TEMPLATES)
    misfit = np.linalg.norm(transform(keypoints[:, None], matrices) - TEMPLATES, axis=-1).sum(-1)
    best = misfit.argmin(1)
    return matrices[np.arange(len(best)), best], best


def resized(matrices: np.ndarray, scale: float) -> np.ndarray:
    """Image → crop matrices for a crop of ``scale`` times as many pixels that shows the same square."""
    out = np.asarray(matrices, np.float64) * scale
    out[..., 2] += (scale - 1) / 2
    return out


class GhostNets(nn.Module):
    """The networks, as one thing that moves between devices."""

    def __init__(self, generator: nn.Module, arcface: nn.Module, enhancer: nn.Module | None) -> None:
        super().__init__()
        self.generator, self.arcface, self.enhancer = generator, arcface, enhancer


class GhostEngine(TorchEngine):
    """A ``SwapEngine``. enhance: ``off``, ``eval`` (the super-resolution network's stored statistics) or ``as published`` (those of the
    picture itself, one at a time). landmarker: 106 points of crops, for GHOST's own mask; without it the mask is the face's outline.
    parameters: the mask's, to be the same over a clip; None chooses them for each face.
    """

    def __init__(self, name: str, model: TorchModel, *, enhance: str = "off", landmarker: Landmarker | None = None,
                 parameters: MaskParameters | None = None) -> None:
        super().__init__(name, model)
        if enhance not in ("off", "eval", "as published"):
            raise FaceLoomError(f'GHOST\'s super-resolution must be "off", "eval" or "as published", not "{enhance}".')
        if enhance != "off" and model.net.enhancer is None:
            raise FaceLoomError("GHOST's super-resolution network (10_net_G.pth) is not loaded; load it, or set the option to off.")
        self.enhance, self.landmarker, self.parameters = enhance, landmarker, parameters

    def alignment(self, keypoints: np.ndarray) -> np.ndarray:
        return resized(nearest_template(keypoints)[0], self.size / CROP)

    @torch.inference_mode()
    def of_photos(self, images: torch.Tensor, faces: Faces) -> torch.Tensor:
        """``[N, 512]``: ArcFace's vectors at their own lengths (about 20)."""
        return self.embed(sampled(images, faces, nearest_template(faces.keypoints)[0], CROP))

    @torch.inference_mode()
    def embed(self, crops: torch.Tensor) -> torch.Tensor:
        """``[N, 3, 224, 224]`` 0..1 RGB to ``[N, 512]``."""
        (pictures,) = self.moved(crops * 2 - 1)
        half = functional.interpolate(pictures, scale_factor=.5, mode="bilinear", align_corners=True)
        return self.model.net.arcface(half).float().cpu().clone()

    def answer(self, targets: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        pictures = self.model.net.generator(targets * 2 - 1, sources)[0].mul(.5).add_(.5)
        if self.enhance == "eval":
            pictures = self.model.net.enhancer(pictures)
        elif self.enhance == "as published":
            pictures = torch.cat([self.model.net.enhancer(picture[None], as_published=True) for picture in pictures])
        return pictures, self.own_masks(pictures, targets) if self.landmarker else None

    def own_masks(self, pictures: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """``[n, 256, 256]``: GHOST's mask for swapped pictures and the targets they came from."""
        points = [self.landmarker(_to(side.float().cpu().clamp(0, 1), CROP)) for side in (pictures, targets)]
        masks = [torch.from_numpy(blend_mask(swapped, target, CROP, self.parameters)) for swapped, target in zip(*points)]
        return _to(torch.stack(masks)[:, None], self.size)[:, 0]


def _to(pictures: torch.Tensor, size: int) -> torch.Tensor:
    return functional.interpolate(pictures, size=(size, size), mode="bilinear", align_corners=False)


def match_targets(wanted: np.ndarray, found: np.ndarray, least: float = .15) -> list[int | None]:
    """For every wanted person ``[P, D]`` the face of a frame ``[N, D]`` that is most like them (cosine), None where none is by more than
    ``least``. GHOST embeds both sides alike, in BGR; any embedding will do here."""
    if not len(found):
        return [None] * len(wanted)
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (wanted, found)]
    likeness = unit[0] @ unit[1].T
    return [int(row.argmax()) if row.max() > least else None for row in likeness]


def ghost_engine(generator: Weights, arcface: Weights, enhancer: Weights | None = None, *, name: str = "ghost",
                 devices: DeviceManager | None = None, dtype: torch.dtype = torch.float32, **options) -> GhostEngine:
    """The engine for the weights of ``G_unet_*.pth``, ArcFace's ``backbone.pth`` and, if wanted, ``10_net_G.pth``; see ``GhostEngine``."""
    nets = GhostNets(
        build(lambda: AEINet(*variant(generator)), generator, name, dtype=dtype),
        build(lambda: IResNet(depth_of(arcface)), arcface, f"{name}'s ArcFace", dtype=dtype),
        build(SuperResolutionNet, enhancer, f"{name}'s super-resolution", dtype=dtype) if enhancer else None,
    )
    return GhostEngine(name, TorchModel(name, nets, devices), **options)


def variant(weights: Weights) -> tuple[str, int]:
    """The backbone and the number of blocks of a generator with these weights."""
    steps = [key for key in weights if re.fullmatch(r"generator\.AADBlk1\.add_blocks\.\d+\.weight", key)]
    second = weights.get("encoder.deconv2.deconv.weight")
    if second is None:
        return "resnet", len(steps)
    return ("unet" if len(second) == 2048 else "linknet"), len(steps)
