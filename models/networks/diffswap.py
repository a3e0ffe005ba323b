"""DiffSwap's networks (Zhao et al., CVPR 2023): the conditioner of landmarks, identity and organs, and the VQ-f4 autoencoder.

Module names are those of the published checkpoint's keys. The UNet is latent diffusion's own; see ``ldm``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FaceLoomError
from . import build
from .iresnet import IResNet, iresnet_depth
from .ldm import UNET_PREFIX, VAE_PREFIX, UNetForm, build_converted, import_converters, import_diffusers

Weights = Mapping[str, Tensor]
CONDITIONER_PREFIX = "cond_stage_model."
POINTS, EMBEDDING, LATENT = 68, 512, 3
HEAD_CHANNELS = 32  # channels of one attention head, in UNet and conditioner
_FACE_SIZE = 112  # pixels of the identity network's pictures
_BLOCKS = 2  # residual blocks per level of the UNet


class OrganAttention(nn.Module):
    """Self-attention between the tokens of the organs."""

    to_q: nn.Module
    to_k: nn.Module
    to_v: nn.Module

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        for name in ("to_q", "to_k", "to_v"):
            setattr(self, name, nn.Linear(width, heads * HEAD_CHANNELS, bias=False))
        self.to_out = nn.Sequential(nn.Linear(heads * HEAD_CHANNELS, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, HEAD_CHANNELS)).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FaceEmbedder(nn.Module):
    """The conditioner: five tokens for the target's landmarks, the source's identity, and the source's eyes, nose and mouth."""

    def __init__(self, depth: int = 100, width: int = 256) -> None:
        super().__init__()
        self.face_model = IResNet(depth, EMBEDDING)
        self.landmark_encoder = _two_layers(2 * POINTS, 1024, width)
        self.id_fc = _two_layers(EMBEDDING, EMBEDDING, width)
        self.organ_fc = _two_layers(LATENT, width, width)
        self.organ_norm = nn.LayerNorm(width)
        self.organ_attention = OrganAttention(width)

    def identity(self, portraits: Tensor, thetas: Tensor) -> Tensor:
        """Embed portraits ``[K, 3, S, S]`` in [-1, 1], cut by ``affine_grid`` matrices ``[K, 2, 3]``: ``[K, 512]``, of any length."""
        grid = F.affine_grid(thetas, [len(portraits), 3, _FACE_SIZE, _FACE_SIZE], align_corners=False)
        return self.face_model(F.grid_sample(portraits, grid, align_corners=False))

    def forward(self, points: Tensor, identity: Tensor, organs: Tensor) -> Tensor:
        """Compute the tokens ``[N, 5, width]``.

        points: ``[N, 68, 2]`` as fractions of the crop's edge. identity: ``[N, 512]``. organs: ``[N, 3, 3]`` of ``organ_means``.
        """
        organs = self.organ_fc(organs)
        organs = organs + self.organ_attention(self.organ_norm(organs))
        return torch.cat([self.landmark_encoder(points.flatten(1))[:, None], self.id_fc(identity)[:, None], organs], 1)


def organ_means(latents: Tensor, organs: Tensor) -> Tensor:
    """Average latents ``[N, 3, h, w]`` over eyes, nose and mouth: ``[N, 3, 3]``, 0 for an organ that covers nothing.

    organs: masks ``[N, 4, S, S]``, 0 or 1, of left eye, right eye, nose and mouth.
    """
    merged = torch.cat([organs[:, :2].amax(1, keepdim=True), organs[:, 2:]], 1)
    small = F.interpolate(merged.to(latents.dtype), latents.shape[-2:], mode="nearest")
    return torch.einsum("nchw,nohw->noc", latents, small) / (small.sum((2, 3))[..., None] + 1e-6)


@dataclass(frozen=True)
class VqForm:
    """The sizes of a vector-quantised LDM autoencoder; the defaults are those of VQ-f4."""

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2
    latent: int = LATENT
    codes: int = 8192


class VqCodec(nn.Module):
    """Encodes pictures ``[N, 3, H, W]`` in [-1, 1] as latents ``[N, 3, H / 4, W / 4]`` before quantisation, and decodes the codes nearest
    to latents."""

    def __init__(self, form: VqForm) -> None:
        super().__init__()
        levels = len(form.multipliers)
        self.vae = import_diffusers().VQModel(
            latent_channels=form.latent, num_vq_embeddings=form.codes, layers_per_block=form.blocks,
            block_out_channels=[form.channels * times for times in form.multipliers],
            down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels)

    def encode(self, pictures: Tensor) -> Tensor:
        """Encode pictures as latents before quantisation."""
        return self.vae.encode(pictures, return_dict=False)[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Decode the codes nearest to latents to pictures."""
        codes = nearest_codes(latents, self.vae.quantize.embedding.weight)
        return self.vae.decode(codes_to_latents(codes, self.vae.quantize.embedding.weight), force_not_quantize=True, return_dict=False)[0]


def nearest_codes(latents: Tensor, book: Tensor) -> Tensor:
    """Find the row of the code book ``[K, c]`` that is nearest to each place of ``[N, c, h, w]``: ``[N, h, w]``."""
    lengths = book.square().sum(1)
    return torch.stack([(lengths - 2 * latent.movedim(0, -1) @ book.T).argmin(-1) for latent in latents])


def codes_to_latents(codes: Tensor, book: Tensor) -> Tensor:
    """Look codes ``[N, h, w]`` up in the code book ``[K, c]``: ``[N, c, h, w]``."""
    return book[codes].movedim(-1, 1)


def unet_weights(weights: Weights) -> dict[str, Tensor]:
    """Take the UNet's tensors from a checkpoint, by the UNet's own names.

    Where the file has the running average that was kept in training, that is taken, because the published program samples with it. Its
    keys are those of the UNet without the dots.
    """
    names = [key for key in weights if key.startswith(UNET_PREFIX)]
    averaged = {key: f"model_ema.{key.removeprefix('model.').replace('.', '')}" for key in names}
    return {key.removeprefix(UNET_PREFIX): weights.get(averaged[key], weights[key]) for key in names}


def unet_form(weights: Weights, name: str = "diffswap.pth") -> UNetForm:
    """Read the UNet's sizes from its ``unet_weights``. DiffSwap's has 224 to 896 channels and attention from the second level on.

    Raises where the weights are not a UNet's. name: what errors call the file.
    """
    if not {"time_embed.0.weight", "middle_block.1.transformer_blocks.0.attn2.to_k.weight", "out.2.weight"} <= weights.keys():
        raise FaceLoomError(f"{name} has no latent diffusion UNet in it; it is another model.")
    channels = weights["time_embed.0.weight"].shape[1]
    blocks = range(1, len(weights), _BLOCKS + 1)
    first = [block for block in blocks if f"input_blocks.{block}.0.out_layers.3.weight" in weights]
    widths = [weights[f"input_blocks.{block}.0.out_layers.3.weight"].shape[0] for block in first]
    attention = tuple(f"input_blocks.{block}.1.proj_in.weight" in weights for block in first)
    context = weights["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1]
    multipliers, heads = (tuple(width // unit for width in widths) for unit in (channels, HEAD_CHANNELS))
    in_channels, out_channels = weights["input_blocks.0.0.weight"].shape[1], weights["out.2.weight"].shape[0]
    return UNetForm(in_channels, out_channels, channels, multipliers, attention, heads, context, _BLOCKS)


def vq_form(weights: Weights) -> VqForm:
    """Read the autoencoder's sizes from its weights without prefix."""
    channels, latent = weights["encoder.conv_in.weight"].shape[0], weights["quant_conv.weight"].shape[0]
    levels = _count_blocks(weights, "encoder.down.{}.block.0.conv1.weight")
    widths = (weights[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels))
    blocks, codes = _count_blocks(weights, "encoder.down.0.block.{}.conv1.weight"), weights["quantize.embedding.weight"].shape[0]
    return VqForm(channels, tuple(width // channels for width in widths), blocks, latent, codes)


def load_vq(weights: Weights, name: str, dtype: torch.dtype = torch.float32) -> VqCodec:
    """Build the autoencoder from a checkpoint's tensors that begin with ``first_stage_model.``. name: what errors call the file."""
    own = {key: tensor for key, tensor in weights.items() if key.startswith(VAE_PREFIX)}
    if f"{VAE_PREFIX}quantize.embedding.weight" not in own:
        raise FaceLoomError(f"{name} has no VQ autoencoder in it; it is another model.")
    form = vq_form({key.removeprefix(VAE_PREFIX): tensor for key, tensor in own.items()})
    levels = {kind: [""] * len(form.multipliers) for kind in ("down_block_types", "up_block_types")}
    converted = import_converters().convert_ldm_vae_checkpoint(own, levels)
    converted["quantize.embedding.weight"] = own[f"{VAE_PREFIX}quantize.embedding.weight"]
    return build_converted(lambda: VqCodec(form), own, {f"vae.{key}": tensor for key, tensor in converted.items()}, name, dtype)


def load_embedder(weights: Weights, name: str, face_model: Weights | None = None) -> FaceEmbedder:
    """Build the conditioner from the tensors of a checkpoint that begin with ``cond_stage_model.``. name: what errors call the file.

    face_model: the weights of ArcFace's own file, for a checkpoint without them.
    """
    own = {key.removeprefix(CONDITIONER_PREFIX): tensor for key, tensor in weights.items() if key.startswith(CONDITIONER_PREFIX)}
    if face_model is not None:
        own |= {f"face_model.{key}": tensor for key, tensor in face_model.items()}
    face = [key.removeprefix("face_model.") for key in own if key.startswith("face_model.")]
    return build(lambda: FaceEmbedder(iresnet_depth(face), own["id_fc.2.weight"].shape[0]), own, name)


def _count_blocks(weights: Weights, pattern: str) -> int:
    """Count the numbers, from 0 on, for which ``pattern`` is a key of the weights."""
    return next(number for number in range(len(weights) + 1) if pattern.format(number) not in weights)


def _two_layers(in_channels: int, middle: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_channels, middle), nn.GELU(), nn.Linear(middle, out_channels))
