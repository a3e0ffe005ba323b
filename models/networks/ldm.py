"""Stable Diffusion's own networks from original (CompVis) checkpoints, built with diffusers.

diffusers is imported only here, when a network is built. Inside ComfyUI the same files are opened as ComfyUI's own MODEL and VAE.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from ..errors import FaceLoomError
from . import Network, build

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."


@dataclass(frozen=True)
class UNetForm:
    """The sizes of an LDM UNet with one transformer block per attention; the defaults are those of Stable Diffusion 1.x.

    multipliers, attention, heads: per level, finest first; how many times ``channels`` it has, whether it has attention, and with how many
    heads. context: numbers of each token that is attended to. blocks: residual blocks per level.
    """

    in_channels: int = 4
    out_channels: int = 4
    channels: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    attention: tuple[bool, ...] = (True, True, True, False)
    heads: tuple[int, ...] = (8, 8, 8, 8)
    context: int = 768
    blocks: int = 2

    def config(self) -> dict:
        """Return the arguments of diffusers' ``UNet2DConditionModel``, which calls the number of heads ``attention_head_dim``."""
        down = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in self.attention]
        up = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(self.attention)]
        return {"in_channels": self.in_channels, "out_channels": self.out_channels, "layers_per_block": self.blocks,
                "block_out_channels": [self.channels * times for times in self.multipliers], "down_block_types": down,
                "up_block_types": up, "attention_head_dim": list(self.heads), "cross_attention_dim": self.context}


@dataclass(frozen=True)
class VaeForm:
    """The sizes of an LDM AutoencoderKL; the defaults are those of Stable Diffusion 1.x. scale: the factor of the latents."""

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    latent: int = 4
    scale: float = 0.18215

    def config(self) -> dict:
        """Return the arguments of diffusers' ``AutoencoderKL``."""
        levels = len(self.multipliers)
        return {"in_channels": 3, "out_channels": 3, "latent_channels": self.latent, "layers_per_block": self.blocks,
                "block_out_channels": [self.channels * times for times in self.multipliers],
                "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}


class Denoiser(nn.Module):
    """A UNet as samplers call it: noisy latents ``[N, c, h, w]``, timesteps ``[N]`` and tokens ``[N, T, context]`` to the noise."""

    def __init__(self, form: UNetForm) -> None:
        super().__init__()
        self.unet = import_diffusers().UNet2DConditionModel(**form.config())

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        return self.unet(x, timesteps, encoder_hidden_states=context, return_dict=False)[0]


class Codec(nn.Module):
    """An AutoencoderKL between pictures ``[N, 3, H, W]`` in [-1, 1] and scaled latents ``[N, latent, H/8, W/8]``."""

    def __init__(self, form: VaeForm) -> None:
        super().__init__()
        self.scale = form.scale
        self.vae = import_diffusers().AutoencoderKL(**form.config())

    def encode(self, pictures: Tensor, noise: Tensor | None = None) -> Tensor:
        """Encode pictures as the mean of the encoder's distribution, or as its sample by ``noise``, which has the latents' shape."""
        distribution = self.vae.encode(pictures).latent_dist
        return self.scale * (distribution.mean if noise is None else distribution.mean + distribution.std * noise)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents to pictures."""
        return self.vae.decode(latents / self.scale, return_dict=False)[0]


def load_unet(weights: Mapping[str, Tensor], form: UNetForm, name: str, *, prefix: str = UNET_PREFIX,
              dtype: torch.dtype = torch.float32) -> Denoiser:
    """Build the UNet of an LDM checkpoint from the tensors that begin with ``prefix``.

    name: what errors call the file. Raises where tensors are missing or left over.
    """
    own = {UNET_PREFIX + key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
    converted = import_converters().convert_ldm_unet_checkpoint(own, form.config())
    return build_converted(lambda: Denoiser(form), own, {f"unet.{key}": tensor for key, tensor in converted.items()}, name, dtype)


def load_vae(weights: Mapping[str, Tensor], name: str, form: VaeForm | None = None, *, prefix: str = VAE_PREFIX,
             dtype: torch.dtype = torch.float32) -> Codec:
    """Build the AutoencoderKL of an LDM checkpoint from the tensors that begin with ``prefix``.

    name: what errors call the file. Raises where tensors are missing or left over.
    """
    form = form or VaeForm()
    own = {VAE_PREFIX + key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
    converted = import_converters().convert_ldm_vae_checkpoint(own, form.config())
    return build_converted(lambda: Codec(form), own, {f"vae.{key}": tensor for key, tensor in converted.items()}, name, dtype)


def build_converted(make: Callable[[], Network], own: Mapping[str, Tensor], converted: Mapping[str, Tensor], name: str,
                    dtype: torch.dtype) -> Network:
    """Build the network ``make()`` around ``converted`` weights, of which there must be as many as of ``own``, the file's."""
    left = len(own) - len(converted)
    if left > 0:
        raise FaceLoomError(f"{name} holds {left} weights this network does not have; it is another model.")
    return build(make, converted, name, dtype=dtype)


def import_diffusers() -> ModuleType:
    """Import diffusers; where it is missing, raise an error that says how to install it."""
    return _import("diffusers")


def import_converters() -> ModuleType:
    """Import diffusers' functions that turn original keys into its own."""
    return _import("diffusers.loaders.single_file_utils")


def _import(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise FaceLoomError("Without ComfyUI this system needs diffusers; run: pip install faceloom[research].") from error
