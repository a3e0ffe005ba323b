"""DiffSwap (Zhao et al., CVPR 2023): a face painted anew by latent diffusion inside a mask, from the source's identity and organs and the
landmarks it is to have.

``prepare`` makes everything the denoiser is told; ``DiffSwap`` samples with it in this process, DiffSwap Sampler on the canvas.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..crops.crop import crop_faces, crop_matrices
from ..crops.quad_as_published import draw_squares, quad_of
from ..crops.squares import align_faces
from ..diffusion.ddim import TRAINING_STEPS, DdimStep, ddim_schedule, scaled_linear_alphas
from ..errors import FaceLoomError
from ..face3d.expression import nearest_pose, reference_fits, transfer_shape
from ..face3d.fit import fit_face, landmarks_of
from ..face3d.mask3d import landmark_mask
from ..faces import Face, Faces, Identity
from ..files.catalogue import row_by_name
from ..files.checkpoints import load_weights
from ..files.find import find_companion, how_to_get
from ..networks.diffswap import FaceEmbedder, VqCodec, load_embedder, load_vq, organ_means, unet_form, unet_weights
from ..networks.ldm import Denoiser, load_unet
from ..parse.landmarks import points_68
from ..paste import check_crops, paste
from ..pixels.affine import transform
from ..pixels.masks import fit_mask
from ..pixels.opencv_like import fill_hull
from ..pixels.resize import resize_bicubic
from ..pixels.tensors import as_images, to_uint8
from ..progress import Progress, silent
from ..runtime.devices import DeviceManager, TorchModel
from ..runtime.memory import run_chunks
from .diffswap_picture import cut, identity_view, join, latent_mask, organ_masks, put_back

ALIGNMENT = "FFHQ quad"
CROP, LATENT = 256, 64  # edges of a crop and of its latents
ALPHAS = scaled_linear_alphas(0.0015, 0.0195)
# Where the organs' features come from: the source, as the paper says, or the target, as the released program does by mistake.
ORGAN_SOURCES = ("source", "released")
# Whose outline is repainted and whose landmarks are painted: the target's in two dimensions as released, or in three as in the paper:
# landmarks of the source's face in the target's pose, inside the outline of that face or of both.
SHAPES = ("2-D release", "3-D source", "3-D union")
# Bytes that a picture takes in the conditioner, in the autoencoder and in the UNet, besides their weights.
_LOOKING, _CODING, _PAINTING = 200 << 20, 1 << 30, 1 << 30
CHUNK = 4

Encode = Callable[[Tensor], Tensor]  # pictures [N, 256, 256, 3] 0..1 to latents [N, 3, 64, 64]
Denoise = Callable[[Tensor, DdimStep], Tensor]  # noisy latents to the noise in them
Draw = Callable[[], Tensor]
# What is to be seen of a step: its number, the picture it predicts, and the latents it began with.
Watch = Callable[[int, Tensor, Tensor], None]


@dataclass(frozen=True)
class Settings:
    """steps of the 1000, how much every step drifts to the target (target_guidance), and the seed, as in the authors' program."""

    steps: int = 200
    target_guidance: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class Prepared:
    """What the denoiser is told of every face.

    tokens: ``[N, 5, width]``. targets: ``[N, 256, 256, 3]`` 0..1, the crops. latents: ``[N, 3, 64, 64]``, theirs. swapped:
    ``[N, 256, 256]``, where the new face comes.
    """

    tokens: Tensor
    targets: Tensor
    latents: Tensor
    swapped: Tensor

    @property
    def replaced(self) -> Tensor:
        """``[N, 1, 64, 64]`` 0 or 1: the same for the latents."""
        return latent_mask(self.swapped, self.latents.shape[-1])


class DiffSwapConditioner:
    """DiffSwap's conditioner, wherever it lives."""

    def __init__(self, name: str, net: FaceEmbedder, devices: DeviceManager | None = None) -> None:
        self.name = name
        self.model = TorchModel(name, net, devices)

    @torch.inference_mode()
    def identity(self, portraits: Tensor, views: Tensor) -> Tensor:
        """``[K, 512]`` on the CPU of ``[K, S, S, 3]`` 0..1 and where to look ``[K, 2, 3]``."""
        net, device = self.model.ready(_LOOKING * len(portraits))
        return net.identity((portraits.movedim(-1, 1) * 2 - 1).to(device), views.to(device)).cpu().clone()

    @torch.inference_mode()
    def tokens(self, points: Tensor, identity: Tensor, organs: Tensor) -> Tensor:
        """``[N, 5, width]`` on the CPU; for the arguments see ``FaceEmbedder.forward``."""
        net, device = self.model.ready(0)
        return net(points.to(device), identity.to(device), organs.to(device)).cpu().clone()

    @property
    def width(self) -> int:
        """Of a token."""
        return self.model.net.organ_norm.normalized_shape[0]


def prepare(conditioner: DiffSwapConditioner, encode: Encode, crops: Tensor, faces: Faces, identity: Identity, *,
            organ_source: str = "source", shape: str = "2-D release", mask: Tensor | None = None,
            progress: Progress = silent) -> Prepared:
    """Crops ``[N, S, S, 3]`` of ``faces``, best aligned by ``ALIGNMENT``, and who they become.

    organ_source, shape: one of ``ORGAN_SOURCES`` and ``SHAPES``. mask: ``[N, H, W]`` to repaint instead of the shape's own. Several
    photos of an identity count alike. Without faces nothing is swapped.
    """
    if organ_source not in ORGAN_SOURCES or shape not in SHAPES:
        raise FaceLoomError(f"organ_source must be one of {', '.join(ORGAN_SOURCES)}, and shape one of {', '.join(SHAPES)}.")
    if not len(faces):
        pictures = resize_bicubic(as_images(crops, "crops"), CROP)
        return Prepared(torch.zeros(len(pictures), 5, conditioner.width), pictures, encode(pictures).float(),
                        torch.zeros(pictures.shape[:3]))
    pictures = resize_bicubic(check_crops(crops, len(faces)), CROP)
    portraits, sources = source_pictures(identity)
    latents = encode(pictures).float()
    who, organs = source_features(conditioner, portraits, sources, latents if organ_source == "released" else None, encode)
    points = np.stack([points_68(face) if shape == SHAPES[0] else source_points(face, identity) for face in faces])
    points = transform(points, crop_matrices(faces, CROP))
    swapped = swapped_mask(faces, identity, shape, points) if mask is None else fit_mask(mask, len(faces), CROP, CROP)
    progress(1, 1)
    told = torch.from_numpy((points / CROP).astype(np.float32)), who.expand(len(faces), -1), organs.expand(len(faces), -1, -1).cpu()
    return Prepared(conditioner.tokens(*told), pictures, latents, swapped.to(pictures.device))


def source_pictures(identity: Identity) -> tuple[Tensor, Faces]:
    """``[K, 256, 256, 3]``: the reference photos cut as DiffSwap wants them, and the faces in them."""
    if not len(identity.crops):
        raise FaceLoomError("DiffSwap looks at a photo of the source, and this identity has none; make it with ArcFace Embed.")
    photos = torch.from_numpy(np.array(identity.crops))
    items = tuple(replace(face, frame=number) for number, face in enumerate(identity.faces))
    faces = align_faces(Faces(items, len(photos), *photos.shape[1:3]), ALIGNMENT, CROP)
    return crop_faces(photos, faces), faces


def source_features(conditioner: DiffSwapConditioner, portraits: Tensor, sources: Faces, targets: Tensor | None,
                    encode: Encode) -> tuple[Tensor, Tensor]:
    """``[1, 512]`` identity and ``[1 or N, 3, 3]`` organs, the mean over the source's photos. targets: latents ``[N, 3, 64, 64]`` to take
    the organs' features from, where the source has its organs."""
    matrices = crop_matrices(sources, CROP)
    views = torch.from_numpy(identity_view(transform(sources.keypoints, matrices), CROP).astype(np.float32))
    points = [transform(points_68(face), matrix) for face, matrix in zip(sources, matrices, strict=True)]
    masks = torch.from_numpy(np.stack([organ_masks(each, CROP) for each in points]))
    who = conditioner.identity(portraits, views).mean(0, keepdim=True)
    if targets is None:
        latents = encode(portraits).float()
        return who, organ_means(latents, masks.to(latents.device)).mean(0, keepdim=True)
    masks = masks.to(targets.device)
    return who, torch.stack([organ_means(latent.expand(len(masks), -1, -1, -1), masks).mean(0) for latent in targets])


def source_points(face: Face, identity: Identity) -> np.ndarray:
    """``[68, 2]`` image pixels: the source's landmarks in the target's pose and expression."""
    target = fit_face(face)
    references = reference_fits(identity)
    head = transfer_shape(references[nearest_pose(references, target)], target)
    return target.project(landmarks_of(head, target.rotation))[:, :2]


def swapped_mask(faces: Faces, identity: Identity, shape: str, points: np.ndarray) -> Tensor:
    """``[N, 256, 256]``: the hull of the ``points`` ``[N, 68, 2]`` without forehead, or the outline of the 3-D face with it."""
    if shape == SHAPES[0]:
        return torch.from_numpy(np.stack([fill_hull(each, CROP) for each in points])).float()
    return landmark_mask(faces, CROP, shape.removeprefix("3-D "), identity)[0]


def draws(seeds: list[int], shape: tuple[int, ...]) -> Draw:
    """Normal noise ``[N, *shape]``, new at every call; every row follows from its seed alone, on every machine."""
    generators = [torch.Generator().manual_seed(seed % (1 << 64)) for seed in seeds]
    return lambda: torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def begins_with_noise(steps: tuple[DdimStep, ...]) -> bool:
    """Whether a step of the same width before the first would lie beyond the trained ones: then nothing of a picture is left there."""
    width = steps[0].timestep - steps[1].timestep if len(steps) > 1 else TRAINING_STEPS
    return steps[0].timestep + width >= TRAINING_STEPS


def masked_ddim(denoise: Denoise, x: Tensor, target: Tensor, replaced: Tensor, steps: tuple[DdimStep, ...], draw: Draw, guidance: float,
                watch: Watch | None = None) -> Tensor:
    """From noise ``x`` ``[N, 3, h, w]`` to latents along ``steps``.

    Before every step all but ``replaced`` ``[N, 1, h, w]`` is the ``target`` latent under new noise; in every step the noise is bent by
    ``guidance`` so that the whole picture drifts towards the target.
    """
    for number, step in enumerate(steps):
        x = step.noised(target, draw().to(x)) * (1 - replaced) + x * replaced
        noise = denoise(x, step)
        picture = step.clean(x, noise)
        if watch is not None:
            watch(number, picture, x)
        x = step.next(picture, noise - guidance * step.alpha**0.5 * (picture - target))
    return x


class DiffSwap:
    """The whole system without ComfyUI. Make it with ``load_diffswap``."""

    def __init__(self, name: str, embedder: FaceEmbedder, denoiser: Denoiser, codec: VqCodec, devices: DeviceManager | None = None) -> None:
        self.name = name
        self.conditioner = DiffSwapConditioner(name, embedder, devices)
        self.denoiser, self.codec = TorchModel(name, denoiser, devices), TorchModel(name, codec, devices)

    @torch.inference_mode()
    def encode(self, pictures: Tensor) -> Tensor:
        """``[N, 3, 64, 64]`` on the CPU of ``[N, 256, 256, 3]`` 0..1."""
        net, device = self.codec.ready(_CODING)
        return torch.cat([net.encode((one.movedim(-1, 0) * 2 - 1)[None].to(device)).cpu() for one in pictures]).clone()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """``[N, 256, 256, 3]`` 0..1 on the CPU."""
        net, device = self.codec.ready(_CODING)
        pictures = torch.cat([net.decode(one[None].to(device)).cpu() for one in latents])
        return ((pictures + 1) / 2).clamp(0, 1).movedim(1, -1)

    @torch.inference_mode()
    def paint(self, prepared: Prepared, settings: Settings, progress: Progress = silent) -> Tensor:
        """``[N, 256, 256, 3]`` 0..1: the crops with their new faces. Every face has its own noise, of seed + its number."""
        steps, count = ddim_schedule(settings.steps, ALPHAS), len(prepared.targets)

        def part(span: range) -> Tensor:
            rows = slice(span.start, span.stop)
            target, replaced = prepared.latents[rows], prepared.replaced[rows].to(prepared.latents)
            draw = draws([settings.seed + number for number in span], tuple(target.shape[1:]))
            denoise = self._denoise(prepared.tokens[rows])

            def report(number: int, picture: Tensor, x: Tensor) -> None:
                progress(span.start * len(steps) + number * len(span), count * len(steps))

            return self.decode(masked_ddim(denoise, draw(), target, replaced, steps, draw, settings.target_guidance, report))

        painted = torch.cat(run_chunks(part, range(count), CHUNK)).to(prepared.targets.device)
        progress(count * len(steps), count * len(steps))
        return painted

    def _denoise(self, tokens: Tensor) -> Denoise:
        net, device = self.denoiser.ready(_PAINTING * len(tokens))
        kind = next(net.parameters()).dtype
        tokens = tokens.to(device, kind)

        def denoise(x: Tensor, step: DdimStep) -> Tensor:
            return net(x.to(device, kind), torch.full((len(x),), step.timestep, device=device), tokens).float().to(x.device)

        return denoise

    def swap(self, images: Tensor, faces: Faces, identity: Identity, settings: Settings | None = None, *, organ_source: str = "source",
             shape: str = "2-D release", feather: float = 0.02, as_published: bool = False, progress: Progress = silent) -> Tensor:
        """The photographs ``[B, H, W, 3]`` with their faces swapped, in the same shape.

        The new face is pasted band by band, its edge softened by this share of the crop. ``as_published`` cuts the crop, joins new face
        and target in it and draws it over its whole square with PIL, in 8 bits, as the authors do.
        """
        settings = settings or Settings()
        images = as_images(images)
        faces.check_image(images.shape)
        if not len(faces):
            return images
        aligned = align_faces(faces, ALIGNMENT, CROP)
        crops = published_crops(images, faces) if as_published else crop_faces(images, aligned)
        prepared = prepare(self.conditioner, self.encode, crops, aligned, identity, organ_source=organ_source, shape=shape)
        painted = self.paint(prepared, settings, progress)
        if as_published:
            return published_paste(images, faces, prepared, painted)
        return paste(images, aligned, painted, prepared.swapped, blend="multi-band", feather=feather)[0]


def published_crops(images: Tensor, faces: Faces) -> Tensor:
    """``[N, 256, 256, 3]`` 0..1, in steps of a 255th."""
    crops = [cut(to_uint8(images[face.frame]), quad_of(face), CROP) for face in faces]
    return torch.from_numpy(np.stack(crops)).float().div(255).to(images.device)


def published_paste(images: Tensor, faces: Faces, prepared: Prepared, painted: Tensor) -> Tensor:
    """Every face joined with its target and drawn over the photograph, the whole square of it."""
    first, second = ((pictures.cpu() * 255).movedim(-1, 1) for pictures in (painted, prepared.targets))
    joined = join(first.trunc(), second.round(), (prepared.swapped.cpu() > 0.5).float(), whole_numbers=True)
    return draw_squares(images, faces, joined.movedim(1, -1).to(torch.uint8).numpy(), put_back)


def load_diffswap(path: str | os.PathLike, *, dtype: torch.dtype = torch.float32, devices: DeviceManager | None = None) -> DiffSwap:
    """DiffSwap from the authors' ``diffswap.pth``, its shape read from it. dtype: of the UNet."""
    path = Path(path)
    weights = load_weights(path)
    unet = unet_weights(weights)
    denoiser = load_unet(unet, unet_form(unet, path.name), path.name, prefix="", dtype=dtype)
    return DiffSwap(path.name, load_embedder(weights, path.name, face_model(path, weights)), denoiser, load_vq(weights, path.name), devices)


def face_model(path: Path, weights: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """ArcFace's weights from the file beside ``path``, for a checkpoint without them."""
    if any(key.startswith("cond_stage_model.face_model.") for key in weights):
        return None
    row = row_by_name("diffswap_glint360k_r100")
    beside = find_companion(path, row.name, needed=False)
    if beside is None:
        raise FaceLoomError(f"{path.name} has no ArcFace in it and needs {row.file}: {how_to_get(row, path.parent)}.")
    return load_weights(beside)
