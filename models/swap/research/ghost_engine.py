"""GHOST (Groshev et al., IEEE Access 2022) as an engine: generator, ArcFace and, if wanted, super-resolution.

As published but for plain slips: pictures are not truncated to 8 bits, and every clip and target keeps its own parameters.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...errors import FaceLoomError
from ...face3d.points106 import Landmarker
from ...faces import Faces
from ...files.catalogue import catalogue
from ...networks import build
from ...networks.aei import AEINet
from ...networks.ghost_sr import SuperResolutionNet
from ...networks.iresnet import IResNet, iresnet_depth
from ...options.swap import USUAL, SwapSettings
from ...pixels.affine import similarity, transform
from ...progress import Progress, silent
from ...runtime.devices import DeviceManager, TorchModel
from ...runtime.options import Value
from ...select.track import assign_tracks, track_runs
from .. import open_files
from ..pixel_boost import finer
from ..torch_engine import BYTES_PER_FACE, TorchEngine, sample_squares
from .ghost import GhostOptions
from .ghost_mask import MaskParameters, blend_mask, mask_parameters
from .words import OUTLINE

CROP = 224  # the crop all of GHOST's numbers are about
TEMPLATES = 2 * np.array([  # a face seen from its left side to its right side, in 112 pixels
    [(51.642, 50.115), (57.617, 49.990), (35.740, 69.007), (51.157, 89.050), (57.025, 89.702)],
    [(45.031, 50.118), (65.568, 50.872), (39.677, 68.111), (45.177, 86.190), (64.246, 86.758)],
    [(39.730, 51.138), (72.270, 51.138), (56.000, 68.493), (42.463, 87.010), (69.537, 87.010)],
    [(46.845, 50.872), (67.382, 50.118), (72.737, 68.111), (48.167, 86.758), (67.236, 86.190)],
    [(54.796, 49.990), (60.771, 50.115), (76.673, 69.007), (55.388, 89.702), (61.257, 89.050)],
])
FRONTAL = 2
Weights = Mapping[str, torch.Tensor]


def nearest_template(keypoints: np.ndarray, templates: np.ndarray = TEMPLATES) -> tuple[np.ndarray, np.ndarray]:
    """Aligns keypoints ``[N, 5, 2]`` by the template they fit best. Returns image → 224 crop ``[N, 2, 3]``, and the template's number
    ``[N]``."""
    keypoints = np.asarray(keypoints, np.float64)
    matrices = similarity(keypoints[:, None], templates)
    misfit = np.linalg.norm(transform(keypoints[:, None], matrices) - templates, axis=-1).sum(-1)
    best = misfit.argmin(1)
    return matrices[np.arange(len(best)), best], best


class GhostNets(nn.Module):
    """The networks, as one thing that moves between devices."""

    def __init__(self, generator: nn.Module, arcface: nn.Module) -> None:
        super().__init__()
        self.generator, self.arcface = generator, arcface


class GhostEngine(TorchEngine[GhostNets, GhostOptions]):
    """A ``SwapEngine``; its options are ``GhostOptions``. enhancer: gives the super-resolution network where that is wanted. landmarker:
    106 points of crops, for GHOST's own mask; without it the mask is the face's outline."""

    options = GhostOptions()

    def __init__(self, name: str, model: TorchModel[GhostNets], *, enhancer: Callable[[], TorchModel[SuperResolutionNet]] | None = None,
                 landmarker: Landmarker | None = None, **options: Value) -> None:
        self.enhancer, self.landmarker = enhancer, landmarker
        super().__init__(name, model, **options)

    def check(self) -> None:
        if self.options.enhance != "off":
            self._super_resolution()
        if self.options.mask in ("whole clip", "own numbers") and self.landmarker is None:
            raise FaceLoomError("GHOST's own mask needs 106 landmarks; connect a detector that has them to Load Swap Model, or put "
                                "2d106det.onnx into models/insightface.")

    def open_helpers(self, settings: SwapSettings) -> None:
        """See ``OpensLate``."""
        open_files(self.landmarker if self.options.mask != OUTLINE else None)

    def _super_resolution(self) -> TorchModel[SuperResolutionNet]:
        """Opens the super-resolution network where it was not opened before; FaceLoomError where the engine was made without."""
        if self.enhancer is None:
            raise FaceLoomError("GHOST's super-resolution network (10_net_G.pth) is not loaded; load it, or set the option to off.")
        return self.enhancer()

    @property
    def note(self) -> str:
        missing = "Its mask is the face's outline: 2d106det.onnx, for GHOST's own, is neither connected nor on this machine."
        terms = f"Licence of the super-resolution: {catalogue()['ghost_super_resolution'].terms}"
        return "\n".join([missing] * (self.landmarker is None and self.options.mask != OUTLINE) + [terms] * (self.options.enhance != "off"))

    def swap(self, images: torch.Tensor, faces: Faces, source: torch.Tensor, settings: SwapSettings = USUAL, progress: Progress = silent
             ) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``SwapEngine.swap``. With the mask of a whole clip every face keeps the mask parameters of its first frame while it is in
        every frame."""
        if self.options.mask != "whole clip" or not len(faces) or settings.strength == 0:
            return super().swap(images, faces, source, settings, progress)
        size = settings.edge(faces)
        crops = torch.empty((len(faces), size, size, 3), device=images.device)
        masks = crops.new_empty(crops.shape[:3])
        done = 0
        for run in track_runs(assign_tracks(faces)):
            engine = self._with_parameters(self._first_parameters(images, faces.take(run[:1]), source, settings.strength))
            crops[run], masks[run] = engine.swap(images, faces.take(run), source, settings,
                                                 lambda some, _, before=done: progress(before + some, len(faces)))
            done += len(run)
        return crops, masks

    def _with_parameters(self, parameters: MaskParameters) -> GhostEngine:
        """Returns a copy of the engine whose mask has these parameters."""
        other = copy.copy(self)
        other.options = replace(self.options, mask="own numbers", shrink=parameters.erode, blur_x=parameters.sigma_x,
                                blur_y=parameters.sigma_y)
        return other

    @torch.inference_mode()
    def _first_parameters(self, images: torch.Tensor, faces: Faces, source: torch.Tensor, strength: float) -> MaskParameters:
        """Finds the parameters of the mask of one face, the first that its clip shows."""
        sources = self.mixed_sources(images, faces, source, strength)
        targets, sources = self.to_network(sample_squares(images, faces, self.alignment(faces.keypoints), self.size), sources)
        (swapped,), (target,) = self._points(self._pictures(targets, sources), targets)
        return mask_parameters(swapped, target)

    def alignment(self, keypoints: np.ndarray) -> np.ndarray:
        return finer(self._to_crop(keypoints), self.size / CROP)

    def _to_crop(self, keypoints: np.ndarray) -> np.ndarray:
        return nearest_template(keypoints, TEMPLATES if self.options.templates == "five" else TEMPLATES[FRONTAL:FRONTAL + 1])[0]

    @torch.inference_mode()
    def encode_faces(self, images: torch.Tensor, faces: Faces) -> torch.Tensor:
        """Returns ArcFace's vectors ``[N, 512]`` at their own lengths (about 20)."""
        return self.embed(sample_squares(images, faces, self._to_crop(faces.keypoints), CROP))

    @torch.inference_mode()
    def embed(self, crops: torch.Tensor) -> torch.Tensor:
        """Returns ArcFace's vectors ``[N, 512]`` of crops ``[N, 3, 224, 224]`` 0..1 RGB."""
        (pictures,) = self.to_network(crops * 2 - 1)
        half = functional.interpolate(pictures, scale_factor=.5, mode="bilinear", align_corners=True)
        return self.model.net.arcface(half).float().cpu().clone()

    def generate(self, targets: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        pictures = self._pictures(targets, sources)
        return pictures, None if self.landmarker is None or self.options.mask == OUTLINE else self.own_masks(pictures, targets)

    def _pictures(self, targets: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
        pictures = self.model.net.generator(targets * 2 - 1, sources)[0].mul(.5).add_(.5)
        if self.options.enhance == "off":
            return pictures
        enhancer, device = self._super_resolution().ready(BYTES_PER_FACE * len(pictures))
        pictures = pictures.to(device, next(enhancer.parameters()).dtype)
        if self.options.enhance == "eval":
            return enhancer(pictures)
        return torch.cat([enhancer(picture[None], as_published=True) for picture in pictures])

    def own_masks(self, pictures: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Returns GHOST's masks ``[n, 256, 256]`` for swapped pictures and the targets they came from."""
        chosen = self.options
        parameters = MaskParameters(chosen.shrink, chosen.blur_x, chosen.blur_y) if chosen.mask == "own numbers" else None
        pairs = zip(*self._points(pictures, targets))
        masks = [torch.from_numpy(blend_mask(swapped, target, CROP, parameters)) for swapped, target in pairs]
        return _resize(torch.stack(masks)[:, None], self.size)[:, 0]

    def _points(self, *sides: torch.Tensor) -> list[np.ndarray]:
        """Finds 106 points in each of several batches of pictures ``[N, 3, S, S]``, in crops of 224 pixels."""
        if self.landmarker is None:
            raise FaceLoomError("GHOST's own mask needs 106 landmarks; choose the face outline as its mask.")
        return [np.asarray(self.landmarker(_resize(side.float().cpu().clamp(0, 1), CROP))) for side in sides]


def _resize(pictures: torch.Tensor, size: int) -> torch.Tensor:
    return functional.interpolate(pictures, size=(size, size), mode="bilinear", align_corners=False)


def ghost_engine(generator: Weights, arcface: Weights, enhancer: Callable[[], Weights] | None = None, *,
                 landmarker: Landmarker | None = None, name: str = "ghost", devices: DeviceManager | None = None,
                 dtype: torch.dtype = torch.float32, **options: Value) -> GhostEngine:
    """Makes the engine of the weights of ``G_unet_*.pth`` and ArcFace's ``backbone.pth``. enhancer: reads those of ``10_net_G.pth``, which
    happens when an option asks for them. options: ``GhostOptions``."""
    super_resolution = None
    if enhancer is not None:
        label, read = f"{name}'s super-resolution", enhancer
        super_resolution = cache(lambda: TorchModel(label, build(SuperResolutionNet, read(), label), devices))

    nets = GhostNets(build(lambda: AEINet(*variant(generator)), generator, name, dtype=dtype),
                     build(lambda: IResNet(iresnet_depth(arcface)), arcface, f"{name}'s ArcFace", dtype=dtype))
    return GhostEngine(name, TorchModel(name, nets, devices), enhancer=super_resolution, landmarker=landmarker, **options)


def variant(weights: Weights) -> tuple[str, int]:
    """Returns the backbone and the number of blocks of a generator with these weights."""
    steps = [key for key in weights if re.fullmatch(r"generator\.AADBlk1\.add_blocks\.\d+\.weight", key)]
    second = weights.get("encoder.deconv2.deconv.weight")
    if second is None:
        return "resnet", len(steps)
    return ("unet" if len(second) == 2048 else "linknet"), len(steps)
