"""DiffSwap (Zhao et al., CVPR 2023): latent diffusion paints a new face inside a mask, from the source's identity and organs and from the
landmarks that the face is to have.

``prepare`` makes everything the denoiser is conditioned on. ``DiffSwap`` samples with it in this process; in ComfyUI, DiffSwap Sampler
does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..crops.crop import crop_faces, crop_matrices
from ..crops.squares import align_faces
from ..diffusion.ddim import TRAINING_STEPS, DdimStep, ddim_schedule, scaled_linear_alphas
from ..diffusion.noise import noise_source
from ..errors import FaceLoomError
from ..face3d.expression import nearest_pose, reference_fits, transfer_shape
from ..face3d.fit import fit_face, points68_of_head
from ..face3d.mask3d import landmark_mask
from ..faces import Face, Faces, Identity
from ..files.catalogue import row_by_name
from ..files.checkpoints import load_weights
from ..files.contents import Contents
from ..files.find import find_companion, how_to_get
from ..identity.photos import reference_photos
from ..networks.diffswap import FaceEmbedder, VqCodec, load_embedder, load_vq, organ_means, unet_form, unet_weights
from ..networks.ldm import Denoiser, load_unet
from ..parse.landmarks import points68_of
from ..paste import check_crops
from ..pixels.affine import transform
from ..pixels.masks import feather_mask, fit_mask
from ..pixels.opencv_like import fill_hull
from ..pixels.resize import resize_bicubic
from ..progress import Progress, silent
from ..runtime.devices import DeviceManager, TorchModel
from ..runtime.memory import run_chunks
from ..runtime.method import Loading, Method, is_row
from ..runtime.options import Value
from .diffswap_picture import identity_view, latent_mask, organ_masks
from .engine import SystemEngine, engine_method
from .options import ORGAN_SOURCES, SHAPES, DiffSwapOptions

ALIGNMENT = "FFHQ quad"
SIZE, LATENT_SIZE = 256, 64  # edges of a crop and of its latents
ALPHAS = scaled_linear_alphas(0.0015, 0.0195)
# How softly the edge of what is pasted fades, as a fraction of the crop's edge.
EDGE = 0.02
# Bytes that a crop takes in the conditioner, in the autoencoder and in the UNet, besides their weights.
_CONDITIONER_BYTES, _CODEC_BYTES, _UNET_BYTES = 200 << 20, 1 << 30, 1 << 30
# How many faces go through the UNet together.
CHUNK = 4

Encode = Callable[[Tensor], Tensor]  # crops [N, 256, 256, 3] 0..1 to latents [N, 3, 64, 64]
Denoise = Callable[[Tensor, DdimStep], Tensor]  # noisy latents and the step they are at to the noise in them
DrawNoise = Callable[[], Tensor]
# Is given the number of a step, the clean latents it predicts, and the latents it began with.
Watch = Callable[[int, Tensor, Tensor], None]


@dataclass(frozen=True)
class ConditioningSettings:
    """What the denoiser is conditioned on. organ_source, shape: one of ``ORGAN_SOURCES`` and of ``SHAPES``."""

    organ_source: str = ORGAN_SOURCES[0]
    shape: str = SHAPES[0]

    def check(self) -> None:
        """Raise where a word is not one of those above."""
        if self.organ_source not in ORGAN_SOURCES or self.shape not in SHAPES:
            raise FaceLoomError(f"organ_source must be one of {', '.join(ORGAN_SOURCES)}, and shape one of {', '.join(SHAPES)}.")


@dataclass(frozen=True)
class Settings:
    """The numbers of one sampling; the defaults are those of the authors' program.

    steps: of the 1000. target_guidance: how much every step drifts to the target. seed: of the first face's noise; the next faces take the
    numbers that follow.
    """

    steps: int = 200
    target_guidance: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class Prepared:
    """What the denoiser is conditioned on, for N faces.

    tokens: ``[N, 5, width]``. targets: the crops ``[N, 256, 256, 3]`` 0..1. latents: theirs, ``[N, 3, 64, 64]``. swapped:
    ``[N, 256, 256]``, where the new face comes.
    """

    tokens: Tensor
    targets: Tensor
    latents: Tensor
    swapped: Tensor

    @property
    def replaced(self) -> Tensor:
        """``[N, 1, 64, 64]`` of 0 and 1: where the new face comes in the latents."""
        return latent_mask(self.swapped, self.latents.shape[-1])


class DiffSwapConditioner:
    """DiffSwap's conditioning network and the manager that moves it between devices."""

    def __init__(self, name: str, net: FaceEmbedder, devices: DeviceManager | None = None) -> None:
        self.name = name
        self.model = TorchModel(name, net, devices)

    @torch.inference_mode()
    def identity(self, portraits: Tensor, views: Tensor) -> Tensor:
        """Return identity features ``[K, 512]`` on the CPU, of ``[K, S, S, 3]`` 0..1. views: ``[K, 2, 3]``, see ``identity_view``."""
        net, device = self.model.ready(_CONDITIONER_BYTES * len(portraits))
        return net.identity((portraits.movedim(-1, 1) * 2 - 1).to(device), views.to(device)).cpu().clone()

    @torch.inference_mode()
    def tokens(self, points: Tensor, identity: Tensor, organs: Tensor) -> Tensor:
        """Return tokens ``[N, 5, width]`` on the CPU; for the arguments see ``FaceEmbedder.forward``."""
        net, device = self.model.ready(0)
        return net(points.to(device), identity.to(device), organs.to(device)).cpu().clone()

    @property
    def width(self) -> int:
        """How many numbers a token has."""
        return self.model.net.organ_norm.normalized_shape[0]


def prepare(conditioner: DiffSwapConditioner, encode: Encode, crops: Tensor, faces: Faces, identity: Identity,
            settings: ConditioningSettings = ConditioningSettings(), *, mask: Tensor | None = None, progress: Progress = silent
            ) -> Prepared:
    """Make what the denoiser is conditioned on to paint the identity into crops ``[N, S, S, 3]`` 0..1 of ``faces``.

    The faces are best aligned by ``ALIGNMENT``. mask: ``[N, H, W]`` to repaint instead of the shape's own. Several photos of an identity
    count alike. Without faces there are tokens of zeros, and nothing is repainted.
    """
    settings.check()
    if not len(faces):
        targets = resize_bicubic(crops, SIZE)
        return Prepared(torch.zeros(len(targets), 5, conditioner.width), targets, encode(targets).float(), torch.zeros(targets.shape[:3]))
    check_crops(crops, len(faces))
    targets = resize_bicubic(crops, SIZE)
    portraits, sources = source_crops(identity)
    latents = encode(targets).float()
    organ_latents = latents if settings.organ_source == "released" else None
    features, organs = source_features(conditioner, portraits, sources, organ_latents, encode)
    points = np.stack([points68_of(face) if settings.shape == SHAPES[0] else transferred_points(face, identity) for face in faces])
    points = transform(points, crop_matrices(faces, SIZE))
    swapped = make_swap_mask(faces, identity, settings.shape, points) if mask is None else fit_mask(mask, len(faces), SIZE, SIZE)
    progress(1, 1)
    points = torch.from_numpy((points / SIZE).astype(np.float32))
    tokens = conditioner.tokens(points, features.expand(len(faces), -1), organs.expand(len(faces), -1, -1).cpu())
    return Prepared(tokens, targets, latents, swapped.to(targets.device))


def source_crops(identity: Identity) -> tuple[Tensor, Faces]:
    """Cut the identity's photos as DiffSwap sees faces: ``[K, 256, 256, 3]``, and the aligned faces in the photos."""
    photos, faces = reference_photos(identity, "DiffSwap")
    faces = align_faces(faces, ALIGNMENT, SIZE)
    return crop_faces(photos, faces), faces


def source_features(conditioner: DiffSwapConditioner, portraits: Tensor, sources: Faces, target_latents: Tensor | None,
                    encode: Encode) -> tuple[Tensor, Tensor]:
    """Return identity features ``[1, 512]`` and organ features ``[1 or N, 3, 3]``, both the mean over the source's photos.

    portraits, sources: as ``source_crops`` returns them. target_latents: ``[N, 3, 64, 64]`` to take the organs' features from, at the
    places where the source has its organs; None takes them from the source.
    """
    matrices = crop_matrices(sources, SIZE)
    views = torch.from_numpy(identity_view(transform(sources.keypoints, matrices), SIZE).astype(np.float32))
    points = [transform(points68_of(face), matrix) for face, matrix in zip(sources, matrices, strict=True)]
    masks = torch.from_numpy(np.stack([organ_masks(each, SIZE) for each in points]))
    features = conditioner.identity(portraits, views).mean(0, keepdim=True)
    if target_latents is None:
        latents = encode(portraits).float()
        return features, organ_means(latents, masks.to(latents.device)).mean(0, keepdim=True)
    masks = masks.to(target_latents.device)
    return features, torch.stack([organ_means(latent.expand(len(masks), -1, -1, -1), masks).mean(0) for latent in target_latents])


def transferred_points(face: Face, identity: Identity) -> np.ndarray:
    """Return the source's landmarks in the target's pose and expression: ``[68, 2]`` image pixels."""
    target = fit_face(face)
    references = reference_fits(identity)
    head = transfer_shape(references[nearest_pose(references, target)], target)
    return target.project(points68_of_head(head, target.rotation))[:, :2]


def make_swap_mask(faces: Faces, identity: Identity, shape: str, points: np.ndarray) -> Tensor:
    """Return ``[N, 256, 256]``: the hull of the crop points ``[N, 68, 2]``, without forehead, or the outline of the 3-D face with it."""
    if shape == SHAPES[0]:
        return torch.from_numpy(np.stack([fill_hull(each, SIZE) for each in points])).float()
    return landmark_mask(faces, SIZE, shape.removeprefix("3-D "), identity)[0]


def starts_from_noise(steps: tuple[DdimStep, ...]) -> bool:
    """Tell whether a schedule starts where nothing of a picture is left: a step of the same width before its first one would lie beyond
    the training steps."""
    first = steps[0].timestep
    width = first - steps[1].timestep if len(steps) > 1 else TRAINING_STEPS
    return first + width >= TRAINING_STEPS


def masked_ddim(denoise: Denoise, x: Tensor, target: Tensor, replaced: Tensor, steps: tuple[DdimStep, ...], draw: DrawNoise,
                guidance: float, watch: Watch | None = None) -> Tensor:
    """Denoise latents ``x`` ``[N, 3, h, w]`` along ``steps`` where ``replaced`` ``[N, 1, h, w]`` is 1.

    Before every step the latents elsewhere become those of the ``target`` under new noise from ``draw``; in every step the predicted noise
    is changed by ``guidance`` so that all latents drift towards the target.
    """
    for number, step in enumerate(steps):
        x = step.noised(target, draw().to(x)) * (1 - replaced) + x * replaced
        noise = denoise(x, step)
        clean = step.clean(x, noise)
        if watch is not None:
            watch(number, clean, x)
        x = step.next(clean, noise - guidance * step.alpha**0.5 * (clean - target))
    return x


class DiffSwap:
    """The whole system in this process, without ComfyUI. Made by ``load_diffswap``."""

    def __init__(self, name: str, embedder: FaceEmbedder, denoiser: Denoiser, codec: VqCodec, devices: DeviceManager | None = None) -> None:
        self.name = name
        self.conditioner = DiffSwapConditioner(name, embedder, devices)
        self.denoiser, self.codec = TorchModel(name, denoiser, devices), TorchModel(name, codec, devices)

    @torch.inference_mode()
    def encode(self, crops: Tensor) -> Tensor:
        """Return the latents ``[N, 3, 64, 64]`` on the CPU of ``[N, 256, 256, 3]`` 0..1."""
        net, device = self.codec.ready(_CODEC_BYTES)
        return torch.cat([net.encode((one.movedim(-1, 0) * 2 - 1)[None].to(device)).cpu() for one in crops]).clone()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Return crops ``[N, 256, 256, 3]`` 0..1 on the CPU."""
        net, device = self.codec.ready(_CODEC_BYTES)
        crops = torch.cat([net.decode(one[None].to(device)).cpu() for one in latents])
        return ((crops + 1) / 2).clamp(0, 1).movedim(1, -1)

    @torch.inference_mode()
    def paint(self, prepared: Prepared, settings: Settings, progress: Progress = silent) -> Tensor:
        """Return the crops ``[N, 256, 256, 3]`` 0..1 with their new faces. The noise of face i follows from the seed + i alone."""
        steps, count = ddim_schedule(settings.steps, ALPHAS), len(prepared.targets)

        def paint_chunk(span: range) -> Tensor:
            rows = slice(span.start, span.stop)
            target, replaced = prepared.latents[rows], prepared.replaced[rows].to(prepared.latents)
            draw = noise_source([settings.seed + number for number in span], tuple(target.shape[1:]))
            denoise = self._denoise(prepared.tokens[rows])

            def report(number: int, clean: Tensor, x: Tensor) -> None:
                progress(span.start * len(steps) + number * len(span), count * len(steps))

            return self.decode(masked_ddim(denoise, draw(), target, replaced, steps, draw, settings.target_guidance, report))

        painted = torch.cat(run_chunks(paint_chunk, range(count), CHUNK)).to(prepared.targets.device)
        progress(count * len(steps), count * len(steps))
        return painted

    def _denoise(self, tokens: Tensor) -> Denoise:
        """Return the UNet under these tokens ``[n, 5, width]``."""
        net, device = self.denoiser.ready(_UNET_BYTES * len(tokens))
        dtype = next(net.parameters()).dtype
        tokens = tokens.to(device, dtype)

        def denoise(x: Tensor, step: DdimStep) -> Tensor:
            return net(x.to(device, dtype), torch.full((len(x),), step.timestep, device=device), tokens).float().to(x.device)

        return denoise


class DiffSwapEngine(SystemEngine):
    """DiffSwap as a swap engine."""

    name, alignment, size = "DiffSwap", ALIGNMENT, SIZE

    def __init__(self, system: DiffSwap, settings: Settings = Settings(), conditioning: ConditioningSettings = ConditioningSettings()
                 ) -> None:
        self.system, self.settings, self.conditioning = system, settings, conditioning

    def paint_faces(self, images: Tensor, faces: Faces, identity: Identity, progress: Progress) -> tuple[Tensor, Tensor]:
        """Returns painted crops and masks; see ``SystemEngine``."""
        prepared = prepare(self.system.conditioner, self.system.encode, crop_faces(images, faces), faces, identity, self.conditioning)
        return self.system.paint(prepared, self.settings, progress), feather_mask(prepared.swapped, EDGE * SIZE, "inside")


def load_diffswap(path: str | os.PathLike, *, dtype: torch.dtype = torch.float32, devices: DeviceManager | None = None) -> DiffSwap:
    """Open DiffSwap from the authors' ``diffswap.pth``; the networks' sizes are read from it. dtype: of the UNet."""
    path = Path(path)
    weights = load_weights(path)
    unet = unet_weights(weights)
    denoiser = load_unet(unet, unet_form(unet, path.name), path.name, prefix="", dtype=dtype)
    embedder = load_embedder(weights, path.name, recognizer_weights(path, weights))
    return DiffSwap(path.name, embedder, denoiser, load_vq(weights, path.name), devices)


def recognizer_weights(path: Path, weights: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Read ArcFace's weights from its own file beside ``path``; None where the checkpoint has them."""
    if any(key.startswith("cond_stage_model.face_model.") for key in weights):
        return None
    row = row_by_name("diffswap_glint360k_r100")
    companion = find_companion(path, row.name, needed=False)
    if companion is None:
        raise FaceLoomError(f"{path.name} has no ArcFace in it and needs {row.file}: {how_to_get(row, path.parent)}.")
    return load_weights(companion)


METHOD = Method("DiffSwap", kind="research", recognizes=is_row("diffswap", lambda file: "cond_stage_model.id_fc.2.weight" in file.tensors),
                open=lambda file, loading: load_diffswap(file.path, dtype=torch.float16 if loading.half else torch.float32,
                                                         devices=loading.devices))


def _open_engine(file: Contents, loading: Loading, **options: Value) -> DiffSwapEngine:
    chosen = DiffSwapOptions().changed(METHOD.name, **options)
    settings = Settings(chosen.steps, chosen.target_guidance, chosen.seed)
    return DiffSwapEngine(METHOD.open(file, loading), settings, ConditioningSettings(chosen.organ_source, chosen.shape))


ENGINE = engine_method(METHOD, _open_engine, DiffSwapOptions)
