"""A small checkpoint with all that REFace's has, and some of what it has besides."""

from __future__ import annotations

from pathlib import Path

import torch
from faceloom.models.networks.ldm import UNetForm, VaeForm
from faceloom.models.networks.reface import Conditioner
from ldm_files import filled, unet_weights, vae_weights

SMALL_UNET = UNetForm(in_channels=9, channels=32, multipliers=(1, 2), attention=(False, True), heads=(2, 2), context=32, blocks=1)
# What ComfyUI takes for Stable Diffusion 1.x: its widths, with fewer levels.
CANVAS_UNET = UNetForm(in_channels=9, multipliers=(1, 1), attention=(False, True), heads=(8, 8), blocks=1)
SMALL_VAE = VaeForm(channels=32, multipliers=(1, 1, 1, 1), blocks=1)


def reface_weights(unet: UNetForm = SMALL_UNET, vae: VaeForm = SMALL_VAE) -> dict[str, torch.Tensor]:
    clip = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 224,
            "patch_size": 56, "projection_dim": unet.context}
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in Conditioner(clip).state_dict().items() if value.is_floating_point()}
    more = {"cond_stage_model.model.logit_scale": (), "cond_stage_model.final_ln.weight": (1024,), "betas": (1000,),
            "cond_stage_model.model.text_model.final_layer_norm.weight": (768,), "lpips_loss.lin0.model.1.weight": (1, 64, 1, 1)}
    conditioner = filled(shapes | more, 2)
    conditioner |= {key: torch.ones_like(value) for key, value in conditioner.items() if key.endswith("running_var")}
    conditioner["cond_stage_model.model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    return unet_weights(unet) | vae_weights(vae) | conditioner


def save_reface(path: Path, unet: UNetForm = SMALL_UNET, vae: VaeForm = SMALL_VAE, dtype: torch.dtype = torch.float32) -> Path:
    """A file of ``reface_weights``."""
    return save_weights(path, reface_weights(unet, vae), dtype)


def save_weights(path: Path, weights: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> Path:
    """The checkpoint as Lightning writes one."""
    weights = {key: value.to(dtype) if value.is_floating_point() else value for key, value in weights.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": weights, "global_step": 1}, path)
    return path
