"""Crops to a diffusion model's size and back, without touching a pixel outside the mask."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import FaceLoomError, check_finite
from ..pixels.masks import grow_mask

# SD's UNets halve the latent three times, so their pictures come in steps of 64 pixels.
_UNET_STEP = 64
# The ring in which the drift of a VAE is measured: this share of the crop's edge wide, starting one latent pixel outside the mask.
_RING = 1 / 16
_GAIN = 1.25


def sampling_size(wanted: int, vae_multiple: int) -> int:
    """The size nearest to ``wanted`` that both the VAE and the UNet divide evenly, at least one step."""
    step = math.lcm(_UNET_STEP, vae_multiple)
    return max(1, round(wanted / step)) * step


def undo_drift(results: Tensor, originals: Tensor, masks: Tensor) -> Tensor:
    """Results ``[N, S, S, 3]`` with the colour drift of the VAE taken out.

    Just outside the mask a result should be the original; what differs there in mean and contrast, per channel, is the VAE's doing. masks
    ``[N, S, S]``; a crop whose mask leaves no ring comes back as it was.
    """
    width = max(2.0, results.shape[1] * _RING)
    out = []
    for result, original, mask in zip(results, originals, masks, strict=True):
        ring = (grow_mask(mask[None], 1.5 * width)[0] - grow_mask(mask[None], width / 2)[0]).clamp(min=0) * (mask <= 0)
        out.append(_match(result, original, ring) if float(ring.sum()) >= 16 else result)
    return torch.stack(out)


def _match(result: Tensor, original: Tensor, weight: Tensor) -> Tensor:
    weight = (weight / weight.sum())[..., None]

    def statistics(picture: Tensor) -> tuple[Tensor, Tensor]:
        mean = (picture * weight).sum((0, 1))
        return mean, ((picture - mean).square() * weight).sum((0, 1)).sqrt()

    (mean, spread), (wanted, wanted_spread) = statistics(result), statistics(original)
    gain = ((wanted_spread + 1e-3) / (spread + 1e-3)).clamp(1 / _GAIN, _GAIN)
    return ((result - mean) * gain + wanted).clamp(0, 1)


def composite(originals: Tensor, results: Tensor, masks: Tensor) -> Tensor:
    """``results`` inside ``masks`` ``[N, S, S]``; where a mask is 0 the pixels are those of ``originals`` ``[N, S, S, 3]``, bit for bit."""
    masks = masks[..., None]
    return torch.where(masks > 0, torch.lerp(originals, results, masks), originals)


def check_latents(latents: Tensor, channels: int, scale: int, vae_scale: int) -> None:
    """Raise unless a VAE's latents ``[N, C, ...]`` are what a model of ``channels`` and ``scale`` (pixels per latent pixel) takes."""
    if latents.shape[1] != channels:
        raise FaceLoomError(f"This VAE makes latents of {latents.shape[1]} channels but the model wants {channels}; connect the VAE that "
                            "belongs to the model.")
    if scale != vae_scale:
        raise FaceLoomError(f"This VAE makes one latent pixel of {vae_scale}×{vae_scale} pixels but the model wants {scale}×{scale}; "
                            "connect the VAE that belongs to the model.")
    check_finite(latents, "The VAE made NaN of a crop; run ComfyUI with --fp32-vae or use a VAE that works in half precision.")
