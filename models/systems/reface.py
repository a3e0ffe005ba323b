"""REFace (Baliah et al., WACV 2025): swapping as inpainting of a Stable Diffusion crop under one token of source and target.

``prepare`` makes everything the denoiser is told; ``REFace`` samples with it in this process, ComfyUI's KSampler on the canvas.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..crops.crop import crop_faces, crop_matrices, crop_matrix
from ..crops.quad_as_published import cut, draw_squares, quad_of
from ..crops.squares import align_faces, quad_square
from ..diffusion.ddim import classifier_free_guidance, ddim_schedule, sample_ddim
from ..errors import FaceLoomError
from ..faces import Faces, Identity
from ..files.checkpoints import load_weights
from ..networks.ldm import Codec, Denoiser, UNetForm, VaeForm, load_unet, load_vae
from ..networks.reface import CLIP_L, Conditioner, load_conditioner, to_clip
from ..parse import REGIONS, Parser, region_mask
from ..parse.landmarks import points_68
from ..paste import check_crops, paste
from ..pixels.affine import transform
from ..pixels.masks import feather_mask
from ..pixels.resize import resize_bicubic
from ..pixels.sampling import sample_crops
from ..pixels.tensors import as_images, to_uint8
from ..progress import Progress, silent
from ..runtime.devices import DeviceManager, TorchModel
from ..runtime.memory import run_chunks

ALIGNMENT = "FFHQ quad"
SIZE, CUT, LOOK = 512, 1024, CLIP_L["image_size"]  # edges of what is painted, of what the authors cut, of the source
UNET = UNetForm(in_channels=9)
# The authors' twelve classes; what is not named is background.
CLASSES: Mapping[str, int] = {
    "upper_lip": 1, "lower_lip": 1, "left_brow": 2, "right_brow": 2, "left_eye": 3, "right_eye": 3, "hair": 4, "nose": 5, "skin": 6,
    "left_ear": 7, "right_ear": 7, "neck": 8, "mouth": 9, "glasses": 10, "earring": 11,
}  # fmt: skip
# Lips, brows, eyes, nose, skin, ears, mouth.
SWAPPED = (1, 2, 3, 5, 6, 7, 9)
# Bytes that a picture takes in the conditioner, in the VAE and (twice, for guidance) in the UNet, besides their weights.
_LOOKING, _CODING, _PAINTING = 200 << 20, 3 << 30, 2 << 30
CHUNK = 4


@dataclass(frozen=True)
class Prepared:
    """What the denoiser is told of every face.

    tokens: ``[N, 1, width]``; nothing: ``[1, 1, width]``, the token of no condition. targets: ``[N, 512, 512, 3]`` 0..1, the crops.
    keep: ``[N, 512, 512]``, 1 where the target stays.
    """

    tokens: Tensor
    nothing: Tensor
    targets: Tensor
    keep: Tensor

    @property
    def hidden(self) -> Tensor:
        """``[N, 512, 512, 3]``: the crops with mid grey where the new face comes."""
        keep = self.keep[..., None]
        return self.targets * keep + (1 - keep) / 2

    @property
    def swapped(self) -> Tensor:
        """``[N, 512, 512]``: where the new face comes, for pasting."""
        return 1 - self.keep


class REFaceConditioner:
    """REFace's conditioner, wherever it lives."""

    def __init__(self, name: str, net: Conditioner, devices: DeviceManager | None = None) -> None:
        self.name = name
        self.model = TorchModel(name, net, devices)

    @torch.inference_mode()
    def tokens(self, source: Tensor, targets: Tensor, points: Tensor, progress: Progress = silent) -> Tensor:
        """The token of every target, on the CPU; for the arguments see ``Conditioner.forward``."""

        def part(span: range) -> Tensor:
            net, device = self.model.ready(_LOOKING * len(span))
            chosen = slice(span.start, span.stop)
            return net(source.to(device), targets[chosen].to(device), points[chosen].to(device)).cpu()

        return torch.cat(run_chunks(part, range(len(targets)), CHUNK, progress))

    def nothing(self) -> Tensor:
        """``[1, 1, width]`` on the CPU: the token of no condition."""
        return self.model.net.learnable_vector.detach().cpu().clone()


def prepare(conditioner: REFaceConditioner, crops: Tensor, faces: Faces, identity: Identity, parser: Parser | None = None,
            progress: Progress = silent) -> Prepared:
    """Crops ``[N, S, S, 3]`` of ``faces``, best aligned by ``ALIGNMENT``, and who they become.

    parser: labels what is swapped, and what of the source is shown; without one the landmarks' outlines do, which know no ears. Without
    faces nothing is swapped.
    """
    if not len(faces):
        nothing, pictures = conditioner.nothing(), shrunk(as_images(crops, "crops"))
        return Prepared(nothing.expand(len(pictures), -1, -1), nothing, pictures, torch.ones(pictures.shape[:3]))
    pictures = shrunk(check_crops(crops, len(faces)))
    keep = kept(pictures, faces, parser, progress)
    points = np.stack([transform(points_68(face), matrix) for face, matrix in zip(faces, crop_matrices(faces, SIZE), strict=True)])
    points = torch.from_numpy(points.astype(np.float32))
    tokens = conditioner.tokens(source_picture(identity, parser), pictures.movedim(-1, 1) * 2 - 1, points, progress)
    return Prepared(tokens, conditioner.nothing(), pictures, keep.to(pictures.device))


def source_picture(identity: Identity, parser: Parser | None = None) -> Tensor:
    """``[1, 3, 224, 224]``, CLIP-normalised: the first reference photo's face, the mean colour around it."""
    if not len(identity.crops):
        raise FaceLoomError("REFace looks at a photo of the source, and this identity has none; make it with ArcFace Embed.")
    face = replace(identity.faces[0], frame=0)
    face = replace(face, square=quad_square(face))
    photo = torch.from_numpy(np.array(identity.crops[:1]))
    picture = sample_crops(photo, [0], crop_matrix(face, CUT)[None], CUT).clamp(0, 1)
    alone = Faces((face,), 1, *photo.shape[1:3], crop_size=SIZE)
    swapped = 1 - kept(shrunk(picture), alone, parser)
    picture, swapped = (F.interpolate(planes, (LOOK, LOOK), mode="bilinear", align_corners=False)
                        for planes in (picture.movedim(-1, 1), swapped[:, None]))
    return to_clip(picture) * swapped


def kept(pictures: Tensor, faces: Faces, parser: Parser | None, progress: Progress = silent) -> Tensor:
    """``[N, 512, 512]``: 1 where the target stays."""
    if parser is None:
        return 1 - (region_mask(("face",), SIZE, faces=faces, progress=progress) >= 0.5).float()
    return keep_mask(classes_of(parser.parse(pictures, progress)))


def shrunk(pictures: Tensor) -> Tensor:
    """``[N, S, S, 3]`` to ``[N, 512, 512, 3]``; from 1024 as the authors do before they parse."""
    return halved(pictures.movedim(-1, 1)).clamp(0, 1).movedim(1, -1) if pictures.shape[1] == CUT else resize_bicubic(pictures, SIZE)


def halved(planes: Tensor) -> Tensor:
    """``[N, C, H, W]`` to half the size by a bicubic filter of eight taps (a = -0.5), mirrored at the borders."""
    planes = F.pad(planes, (4, 4, 4, 4), mode="reflect")
    return F.interpolate(planes, scale_factor=0.5, mode="bicubic", align_corners=False, antialias=True)[..., 2:-2, 2:-2]


def class_table(names: Iterable[str]) -> np.ndarray:
    """A parser's labels, by name in their order, as the authors' classes."""
    return np.array([CLASSES.get(name, 0) for name in names], np.uint8)


def classes_of(labels: Tensor) -> Tensor:
    """Labels of ``REGIONS`` to the authors' classes, of the same shape."""
    return torch.from_numpy(class_table(REGIONS)).to(labels.device)[labels.long()]


def keep_mask(classes: Tensor) -> Tensor:
    """1 where the target stays, 0 where the new face comes; hard, as published."""
    return 1 - torch.isin(classes, torch.tensor(SWAPPED, dtype=classes.dtype, device=classes.device)).float()


def latent_mask(keep: Tensor) -> Tensor:
    """``[N, S, S]`` to ``[N, 1, S/8, S/8]`` for the UNet: grey where cells are mixed, and neither filtered nor rounded."""
    return F.interpolate(keep[:, None], scale_factor=1 / 8, mode="bilinear", align_corners=False)


def noise_of(seed: int, shape: Sequence[int]) -> Tensor:
    """Normal noise that follows from its seed alone, on every machine."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Settings:
    """steps, scale (of classifier-free guidance) and start_from_target (begin with the noised target) as in the authors' program."""

    steps: int = 50
    scale: float = 3.5
    seed: int = 0
    start_from_target: bool = False


class REFace:
    """The whole system without ComfyUI. Make it with ``load_reface``."""

    def __init__(self, name: str, conditioner: Conditioner, denoiser: Denoiser, codec: Codec, devices: DeviceManager | None = None) -> None:
        self.name = name
        self.conditioner = REFaceConditioner(name, conditioner, devices)
        self.denoiser, self.codec = TorchModel(name, denoiser, devices), TorchModel(name, codec, devices)

    @torch.inference_mode()
    def paint(self, prepared: Prepared, settings: Settings, progress: Progress = silent) -> Tensor:
        """``[N, 512, 512, 3]`` 0..1: the crops with their new faces. Every face has its own noise, of seed + its number."""
        steps, count = ddim_schedule(settings.steps), len(prepared.targets)

        def part(span: range) -> Tensor:
            rows = slice(span.start, span.stop)
            hidden = self._coded(prepared.hidden[rows])
            x = torch.stack([noise_of(settings.seed + number, hidden.shape[1:]) for number in span])
            if settings.start_from_target:
                x = steps[0].noised(self._coded(prepared.targets[rows]), x)
            told = torch.cat([hidden, latent_mask(prepared.keep[rows]).to(hidden)], 1)
            denoise = self._denoise(told, prepared.tokens[rows], prepared.nothing, settings.scale)
            x = sample_ddim(denoise, x, steps, lambda done, _: progress(span.start * len(steps) + done * len(span), count * len(steps)))
            return self._decoded(x)

        return torch.cat(run_chunks(part, range(count), CHUNK)).to(prepared.targets.device)

    def _denoise(self, told: Tensor, tokens: Tensor, nothing: Tensor, scale: float) -> Callable[[Tensor, int], Tensor]:
        net, device = self.denoiser.ready(_PAINTING * len(told))
        kind = next(net.parameters()).dtype
        tokens = torch.cat([nothing.expand_as(tokens), tokens]).to(device, kind)

        def denoise(x: Tensor, timestep: int) -> Tensor:
            both = torch.cat([x, told], 1).repeat(2, 1, 1, 1).to(device, kind)
            answer = net(both, torch.full((len(both),), timestep, device=device), tokens)
            return classifier_free_guidance(*answer.float().to(x.device).chunk(2), scale)

        return denoise

    def _coded(self, pictures: Tensor) -> Tensor:
        net, device = self.codec.ready(_CODING)
        planes = (pictures.movedim(-1, 1) * 2 - 1).to(device, next(net.parameters()).dtype)
        return torch.cat([net.encode(one[None]) for one in planes]).float().cpu()

    def _decoded(self, latents: Tensor) -> Tensor:
        net, device = self.codec.ready(_CODING)
        latents = latents.to(device, next(net.parameters()).dtype)
        pictures = torch.cat([net.decode(one[None]) for one in latents]).float().cpu()
        return ((pictures + 1) / 2).clamp(0, 1).movedim(1, -1)

    def swap(self, images: Tensor, faces: Faces, identity: Identity, settings: Settings | None = None, *, parser: Parser | None = None,
             feather: float = 4, as_published: bool = False, progress: Progress = silent) -> Tensor:
        """The photographs ``[B, H, W, 3]`` with their faces swapped, in the same shape.

        What was swapped is pasted with an edge softened by ``feather`` pixels of the crop of 512. ``as_published`` cuts the crop and
        draws it over its whole square with PIL, in 8 bits, as the authors do.
        """
        settings = settings or Settings()
        images = as_images(images)
        faces.check_image(images.shape)
        if not len(faces):
            return images
        aligned = align_faces(faces, ALIGNMENT, SIZE)
        crops = published_crops(images, faces) if as_published else crop_faces(images, aligned)
        prepared = prepare(self.conditioner, crops, aligned, identity, parser)
        painted = self.paint(prepared, settings, progress)
        if as_published:
            return published_paste(images, faces, painted)
        return paste(images, aligned, painted, feather_mask(prepared.swapped, feather, "inside"))[0]


def published_crops(images: Tensor, faces: Faces) -> Tensor:
    """``[N, 1024, 1024, 3]`` 0..1, in steps of a 255th."""
    photos = {frame: to_uint8(images[frame]) for frame in set(faces.frame_indices.tolist())}
    return torch.from_numpy(np.stack([cut(photos[face.frame], quad_of(face), CUT) for face in faces])).float().div(255).to(images.device)


def published_paste(images: Tensor, faces: Faces, painted: Tensor) -> Tensor:
    """Every square drawn over the photograph, without a mask."""
    large = F.interpolate(painted.movedim(-1, 1), (CUT, CUT), mode="bilinear", align_corners=False).movedim(1, -1)
    return draw_squares(images, faces, to_uint8(large))


def load_reface(path: str | os.PathLike, *, dtype: torch.dtype = torch.float32, devices: DeviceManager | None = None,
                unet: UNetForm = UNET, vae: VaeForm | None = None) -> REFace:
    """REFace from the authors' ``last.ckpt``. dtype: of the UNet and the VAE; half precision is sound on a graphics card."""
    path = Path(path)
    weights = load_weights(path)
    return REFace(path.name, load_conditioner(weights, path.name), load_unet(weights, unet, path.name, dtype=dtype),
                  load_vae(weights, path.name, vae, dtype=dtype), devices)

