"""A small checkpoint with all that DiffSwap's has, its running average included."""

from __future__ import annotations

from pathlib import Path

import torch
from faceloom.models.networks.diffswap import CONDITIONER_PREFIX, FaceEmbedder, VqForm
from faceloom.models.networks.ldm import VAE_PREFIX, UNetForm, VaeForm
from ldm_files import filled, layer, unet_weights, vae_shapes

SMALL_UNET = UNetForm(3, 3, channels=32, multipliers=(1, 2), attention=(False, True), heads=(1, 2), context=64, blocks=2)
SMALL_VQ = VqForm(channels=32, multipliers=(1, 1, 2), blocks=1, codes=64)


def vq_weights(form: VqForm = SMALL_VQ, seed: int = 1) -> dict[str, torch.Tensor]:
    last = form.channels * form.multipliers[-1]
    shapes = vae_shapes(VaeForm(form.channels, form.multipliers, form.blocks, form.latent))
    shapes |= layer("quant_conv", form.latent, form.latent, 1, 1) | layer("encoder.conv_out", form.latent, last, 3, 3)
    shapes |= {"quantize.embedding.weight": (form.codes, form.latent)}
    return filled({VAE_PREFIX + key: shape for key, shape in shapes.items()}, seed)


def diffswap_weights(unet: UNetForm = SMALL_UNET, vq: VqForm = SMALL_VQ, averaged: bool = True, face_model: bool = True
                     ) -> dict[str, torch.Tensor]:
    """averaged: with the UNet's running average, which is what counts; the last weights are then others. face_model: with ArcFace."""
    with torch.device("meta"):
        state = FaceEmbedder(18, unet.context).state_dict()
    shapes = {CONDITIONER_PREFIX + key: tuple(value.shape) for key, value in state.items() if value.is_floating_point()}
    conditioner = filled(shapes, 2)
    conditioner |= {key: torch.ones_like(value) for key, value in conditioner.items() if key.endswith("running_var")}
    conditioner = {key: value for key, value in conditioner.items() if face_model or ".face_model." not in key}
    denoiser = unet_weights(unet)
    if averaged:
        average = {f"model_ema.{key.removeprefix('model.').replace('.', '')}": value for key, value in denoiser.items()}
        denoiser = unet_weights(unet, seed=9) | average | {"model_ema.decay": torch.tensor(.9999), "model_ema.num_updates": torch.tensor(7)}
    return denoiser | vq_weights(vq) | conditioner


def save_diffswap(path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": diffswap_weights(**options), "global_step": 1}, path)
    return path
