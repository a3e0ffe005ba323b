"""REFace (Baliah et al., WACV 2025): swapping as inpainting of a Stable Diffusion crop under one token of source and target.

``prepare`` makes everything the denoiser is conditioned on. ``REFace`` samples with it in this process; in ComfyUI, KSampler does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..crops.crop import check_crops, crop_faces, crop_matrices, crop_matrix
from ..crops.squares import quad_square
from ..diffusion.ddim import classifier_free_guidance, ddim_schedule, sample_ddim
from ..diffusion.noise import seeded_noise
from ..faces import Faces, Identity
from ..files.checkpoints import load_weights
from ..files.contents import Contents
from ..identity.photos import reference_photos
from ..networks.ldm import Codec, Denoiser, UNetForm, VaeForm, load_unet, load_vae
from ..networks.reface import CLIP_L, Conditioner, load_conditioner, to_clip
from ..options.ranges import MOST_SEED, check_fields
from ..options.swap import SwapSettings
from ..parse import REGIONS, Parser, region_mask
from ..parse.landmarks import points68_of
from ..pixels.affine import transform
from ..pixels.masks import feather_mask
from ..pixels.resize import resize_bicubic
from ..pixels.sampling import sample_crops
from ..progress import Progress, silent
from ..runtime.devices import DeviceManager, TorchModel
from ..runtime.memory import run_chunks
from ..runtime.method import Loading, Method, is_row
from ..runtime.options import Value
from ..swap import open_files
from ..swap.helpers import parser_for
from .engine import SystemEngine, engine_method
from .options import REFaceOptions

ALIGNMENT = "FFHQ quad"
SIZE = 512  # edge of a crop that is painted
PUBLISHED_SIZE = 1024  # edge of the crops that the authors cut
SOURCE_SIZE = CLIP_L["image_size"]  # edge of the source's crop
UNET = UNetForm(in_channels=9)
# The authors' twelve classes; what is not named is background.
CLASSES: Mapping[str, int] = {
    "upper_lip": 1, "lower_lip": 1, "left_brow": 2, "right_brow": 2, "left_eye": 3, "right_eye": 3, "hair": 4, "nose": 5, "skin": 6,
    "left_ear": 7, "right_ear": 7, "neck": 8, "mouth": 9, "glasses": 10, "earring": 11,
}  # fmt: skip
# Lips, brows, eyes, nose, skin, ears, mouth.
SWAPPED_CLASSES = (1, 2, 3, 5, 6, 7, 9)
# Over how many of a crop's pixels the edge of what is pasted fades.
EDGE = 4
# Bytes that a crop takes in the conditioner, in the VAE and (twice, for guidance) in the UNet, besides their weights.
_CONDITIONER_BYTES, _VAE_BYTES, _UNET_BYTES = 200 << 20, 3 << 30, 2 << 30
# How many faces go through the networks together.
CHUNK = 4


@dataclass(frozen=True)
class Prepared:
    """What the denoiser is conditioned on, for N faces.

    tokens: ``[N, 1, width]``. unconditional: ``[1, 1, width]``, the token of no condition. targets: the crops ``[N, 512, 512, 3]`` 0..1.
    keep: ``[N, 512, 512]``, 1 where the target stays.
    """

    tokens: Tensor
    unconditional: Tensor
    targets: Tensor
    keep: Tensor

    @property
    def masked_targets(self) -> Tensor:
        """The crops ``[N, 512, 512, 3]`` with mid grey where the new face comes."""
        keep = self.keep[..., None]
        return self.targets * keep + (1 - keep) / 2

    @property
    def swapped(self) -> Tensor:
        """``[N, 512, 512]``: 1 where the new face comes, for pasting."""
        return 1 - self.keep


class REFaceConditioner:
    """REFace's conditioning network and the manager that moves it between devices."""

    def __init__(self, name: str, net: Conditioner, devices: DeviceManager | None = None) -> None:
        self.name = name
        self.model = TorchModel(name, net, devices)

    @torch.inference_mode()
    def tokens(self, source: Tensor, targets: Tensor, points: Tensor, progress: Progress = silent) -> Tensor:
        """Return the tokens ``[N, 1, width]`` of N targets on the CPU; for the arguments see ``Conditioner.forward``."""

        def condition_chunk(span: range) -> Tensor:
            net, device = self.model.ready(_CONDITIONER_BYTES * len(span))
            rows = slice(span.start, span.stop)
            return net(source.to(device), targets[rows].to(device), points[rows].to(device)).cpu()

        return torch.cat(run_chunks(condition_chunk, range(len(targets)), CHUNK, progress))

    def unconditional(self) -> Tensor:
        """Return the token of no condition, ``[1, 1, width]`` on the CPU."""
        return self.model.net.learnable_vector.detach().cpu().clone()


def prepare(conditioner: REFaceConditioner, crops: Tensor, faces: Faces, identity: Identity, parser: Parser | None = None,
            progress: Progress = silent) -> Prepared:
    """Make what the denoiser is conditioned on to paint the identity into crops ``[N, S, S, 3]`` 0..1 of ``faces``.

    The faces are best aligned by ``ALIGNMENT``. parser: decides which parts are swapped, and which parts of the source are shown; without
    one the outlines of the landmarks decide, which include no ears. Without faces nothing is swapped.
    """
    if not len(faces):
        unconditional, targets = conditioner.unconditional(), shrink(crops)
        return Prepared(unconditional.expand(len(targets), -1, -1), unconditional, targets, torch.ones(targets.shape[:3]))
    check_crops(crops, faces)
    targets = shrink(crops)
    keep = find_keep_mask(targets, faces, parser, progress)
    points = np.stack([transform(points68_of(face), matrix) for face, matrix in zip(faces, crop_matrices(faces, SIZE), strict=True)])
    points = torch.from_numpy(points.astype(np.float32))
    tokens = conditioner.tokens(source_crop(identity, parser), targets.movedim(-1, 1) * 2 - 1, points, progress)
    return Prepared(tokens, conditioner.unconditional(), targets, keep.to(targets.device))


def source_crop(identity: Identity, parser: Parser | None = None) -> Tensor:
    """Cut the face out of the identity's first photo: ``[1, 3, 224, 224]``, normalized for CLIP, 0 (the mean colour) around the face."""
    photo, (face,) = reference_photos(identity, "REFace", 1)
    face = replace(face, square=quad_square(face))
    crop = sample_crops(photo, [0], crop_matrix(face, PUBLISHED_SIZE)[None], PUBLISHED_SIZE).clamp(0, 1)
    faces = Faces((face,), 1, *photo.shape[1:3], crop_size=SIZE)
    swapped = 1 - find_keep_mask(shrink(crop), faces, parser)
    crop, swapped = (F.interpolate(planes, (SOURCE_SIZE, SOURCE_SIZE), mode="bilinear", align_corners=False)
                     for planes in (crop.movedim(-1, 1), swapped[:, None]))
    return to_clip(crop) * swapped


def find_keep_mask(crops: Tensor, faces: Faces, parser: Parser | None, progress: Progress = silent) -> Tensor:
    """Return ``[N, 512, 512]``: 1 where the target stays, by the parser or by the landmarks' outlines."""
    if parser is None:
        return 1 - (region_mask(("face",), SIZE, faces=faces, progress=progress) >= 0.5).float()
    return keep_mask(published_classes(parser.parse(crops, progress)))


def shrink(crops: Tensor) -> Tensor:
    """Resize crops ``[N, S, S, 3]`` to ``[N, 512, 512, 3]``; from 1024 as the authors do before they parse."""
    return halve(crops.movedim(-1, 1)).clamp(0, 1).movedim(1, -1) if crops.shape[1] == PUBLISHED_SIZE else resize_bicubic(crops, SIZE)


def halve(planes: Tensor) -> Tensor:
    """Shrink ``[N, C, H, W]`` to half the size by a bicubic filter of eight taps (a = -0.5), mirrored at the borders."""
    planes = F.pad(planes, (4, 4, 4, 4), mode="reflect")
    return F.interpolate(planes, scale_factor=0.5, mode="bicubic", align_corners=False, antialias=True)[..., 2:-2, 2:-2]


def class_table(names: Iterable[str]) -> np.ndarray:
    """Return the authors' class of each of a parser's labels, given by name in their order."""
    return np.array([CLASSES.get(name, 0) for name in names], np.uint8)


def published_classes(labels: Tensor) -> Tensor:
    """Turn labels (indices into ``REGIONS``) of any shape into the authors' classes."""
    return torch.from_numpy(class_table(REGIONS)).to(labels.device)[labels.long()]


def keep_mask(classes: Tensor) -> Tensor:
    """Return 1 where the target stays and 0 where the new face comes, in the shape of ``classes``; hard, as published."""
    return 1 - torch.isin(classes, torch.tensor(SWAPPED_CLASSES, dtype=classes.dtype, device=classes.device)).float()


def latent_mask(keep: Tensor) -> Tensor:
    """Shrink ``[N, S, S]`` to ``[N, 1, S/8, S/8]`` for the UNet: bilinear, neither filtered nor rounded, so that mixed cells are grey."""
    return F.interpolate(keep[:, None], scale_factor=1 / 8, mode="bilinear", align_corners=False)


_LIMITS = {"steps": (1, 1000, True), "scale": (0, 1000, False), "seed": (0, MOST_SEED, True)}


@dataclass(frozen=True)
class Settings:
    """The numbers of one sampling; the defaults are those of the authors' program.

    scale: of classifier-free guidance. seed: of the first face's noise; the next faces take the numbers that follow. start_from_target:
    whether sampling begins with the noised target.
    """

    steps: int = 50
    scale: float = 3.5
    seed: int = 0
    start_from_target: bool = False

    def __post_init__(self) -> None:
        check_fields(self, _LIMITS)


class REFace:
    """The whole system in this process, without ComfyUI. Made by ``load_reface``."""

    def __init__(self, name: str, conditioner: Conditioner, denoiser: Denoiser, codec: Codec, devices: DeviceManager | None = None) -> None:
        self.name = name
        self.conditioner = REFaceConditioner(name, conditioner, devices)
        self.denoiser, self.codec = TorchModel(name, denoiser, devices), TorchModel(name, codec, devices)

    @torch.inference_mode()
    def paint(self, prepared: Prepared, settings: Settings, progress: Progress = silent) -> Tensor:
        """Return the crops ``[N, 512, 512, 3]`` 0..1 with their new faces. The noise of face i follows from the seed + i alone."""
        steps, count = ddim_schedule(settings.steps), len(prepared.targets)

        def paint_chunk(span: range) -> Tensor:
            rows = slice(span.start, span.stop)
            masked = self._encode(prepared.masked_targets[rows])
            x = torch.stack([seeded_noise(settings.seed + number, masked.shape[1:]) for number in span])
            if settings.start_from_target:
                x = steps[0].noised(self._encode(prepared.targets[rows]), x)
            extra_channels = torch.cat([masked, latent_mask(prepared.keep[rows]).to(masked)], 1)
            denoise = self._denoise(extra_channels, prepared.tokens[rows], prepared.unconditional, settings.scale)
            x = sample_ddim(denoise, x, steps,
                            lambda done, _: progress(span.start * len(steps) + done * len(span), count * len(steps)))
            return self._decode(x)

        return torch.cat(run_chunks(paint_chunk, range(count), CHUNK)).to(prepared.targets.device)

    def _denoise(self, extra_channels: Tensor, tokens: Tensor, unconditional: Tensor, scale: float) -> Callable[[Tensor, int], Tensor]:
        """Return the UNet under these tokens and five extra channels, with classifier-free guidance."""
        net, device = self.denoiser.ready(_UNET_BYTES * len(extra_channels))
        dtype = next(net.parameters()).dtype
        tokens = torch.cat([unconditional.expand_as(tokens), tokens]).to(device, dtype)

        def denoise(x: Tensor, timestep: int) -> Tensor:
            both = torch.cat([x, extra_channels], 1).repeat(2, 1, 1, 1).to(device, dtype)
            output = net(both, torch.full((len(both),), timestep, device=device), tokens)
            plain, conditioned = output.float().to(x.device).chunk(2)
            return classifier_free_guidance(plain, conditioned, scale)

        return denoise

    def _encode(self, crops: Tensor) -> Tensor:
        net, device = self.codec.ready(_VAE_BYTES)
        planes = (crops.movedim(-1, 1) * 2 - 1).to(device, next(net.parameters()).dtype)
        return torch.cat([net.encode(one[None]) for one in planes]).float().cpu()

    def _decode(self, latents: Tensor) -> Tensor:
        net, device = self.codec.ready(_VAE_BYTES)
        latents = latents.to(device, next(net.parameters()).dtype)
        crops = torch.cat([net.decode(one[None]) for one in latents]).float().cpu()
        return ((crops + 1) / 2).clamp(0, 1).movedim(1, -1)


class REFaceEngine(SystemEngine):
    """REFace as a swap engine. parser: as in ``prepare``."""

    name, alignment, size = "REFace", ALIGNMENT, SIZE

    def __init__(self, system: REFace, settings: Settings = Settings(), parser: Parser | None = None) -> None:
        self.system, self.settings, self.parser = system, settings, parser

    def open_helpers(self, settings: SwapSettings) -> None:
        """See ``OpensLate``."""
        open_files(self.parser)

    def paint_faces(self, images: Tensor, faces: Faces, identity: Identity, progress: Progress) -> tuple[Tensor, Tensor]:
        """Returns painted crops and masks; see ``SystemEngine``."""
        prepared = prepare(self.system.conditioner, crop_faces(images, faces), faces, identity, self.parser)
        return self.system.paint(prepared, self.settings, progress), feather_mask(prepared.swapped, EDGE, "inside")


def load_reface(path: str | os.PathLike, *, dtype: torch.dtype = torch.float32, devices: DeviceManager | None = None,
                unet: UNetForm = UNET, vae: VaeForm | None = None) -> REFace:
    """Open REFace from the authors' ``last.ckpt``. dtype: of the UNet and the VAE; half precision suits a graphics card."""
    path = Path(path)
    weights = load_weights(path)
    return REFace(path.name, load_conditioner(weights, path.name), load_unet(weights, unet, path.name, dtype=dtype),
                  load_vae(weights, path.name, vae, dtype=dtype), devices)


METHOD = Method("REFace", kind="research", recognizes=is_row("reface", lambda file: "learnable_vector" in file.tensors),
                open=lambda file, loading: load_reface(file.path, dtype=torch.float16 if loading.half else torch.float32,
                                                       devices=loading.devices))


def _open_engine(file: Contents, loading: Loading, **options: Value) -> REFaceEngine:
    chosen = REFaceOptions().changed(METHOD.name, **options)
    settings = Settings(chosen.steps, chosen.cfg, chosen.seed, chosen.start_from_target)
    return REFaceEngine(METHOD.open(file, loading), settings, parser_for(loading))


ENGINE = engine_method(METHOD, _open_engine, REFaceOptions)
