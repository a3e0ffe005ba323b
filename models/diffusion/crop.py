"""Fits crops to a diffusion model's size and puts what it painted back, without touching a pixel outside the mask."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import FaceLoomError, check_finite, check_number
from ..pixels.masks import grow_mask

# Stable Diffusion's UNets halve the latent three times, so the edges of their pictures are multiples of 64 pixels.
_UNET_MULTIPLE = 64
_LARGEST_SIZE = 16384
# Width of the ring in which a VAE's color drift is measured, as a share of the crop's edge; the ring starts one latent pixel outside the
# mask.
_RING_WIDTH = 1 / 16
# The contrast of a channel is corrected by at most this factor.
_MAX_GAIN = 1.25


def sampling_size(wanted: int, vae_multiple: int) -> int:
    """Return the edge in pixels nearest to ``wanted`` that both the VAE and the UNet divide evenly, at least one such multiple."""
    check_number("The size to sample at", wanted, 1, _LARGEST_SIZE)
    check_number("The pixels of one latent pixel", vae_multiple, 1, _LARGEST_SIZE, whole=True)
    step = math.lcm(_UNET_MULTIPLE, vae_multiple)
    return max(1, round(wanted / step)) * step


def remove_color_drift(results: Tensor, originals: Tensor, masks: Tensor) -> Tensor:
    """Return painted crops ``[N, S, S, 3]`` 0..1 without the color drift that the VAE brought in.

    Just outside its mask a painted crop should equal the original ``[N, S, S, 3]``; where mean and contrast of a channel differ there,
    the VAE has changed them, and the whole crop is corrected. masks: ``[N, S, S]``. A crop whose mask leaves no ring is not changed.
    """
    width = max(2.0, results.shape[1] * _RING_WIDTH)
    corrected = []
    for result, original, mask in zip(results, originals, masks, strict=True):
        ring = (grow_mask(mask[None], 1.5 * width)[0] - grow_mask(mask[None], width / 2)[0]).clamp(min=0) * (mask <= 0)
        corrected.append(_match_mean_and_contrast(result, original, ring) if float(ring.sum()) >= 16 else result)
    return torch.stack(corrected)


def _match_mean_and_contrast(result: Tensor, original: Tensor, weight: Tensor) -> Tensor:
    """Give ``result`` ``[S, S, 3]`` the mean and spread that ``original`` has where ``weight`` ``[S, S]`` is above 0."""
    weight = (weight / weight.sum())[..., None]

    def statistics(crop: Tensor) -> tuple[Tensor, Tensor]:
        mean = (crop * weight).sum((0, 1))
        return mean, ((crop - mean).square() * weight).sum((0, 1)).sqrt()

    (mean, spread), (wanted_mean, wanted_spread) = statistics(result), statistics(original)
    gain = ((wanted_spread + 1e-3) / (spread + 1e-3)).clamp(1 / _MAX_GAIN, _MAX_GAIN)
    return ((result - mean) * gain + wanted_mean).clamp(0, 1)


def composite(originals: Tensor, results: Tensor, masks: Tensor) -> Tensor:
    """Mix ``results`` into ``originals`` (both ``[N, S, S, 3]``) by ``masks`` ``[N, S, S]``; where a mask is 0 the pixels are the
    original's, bit for bit."""
    masks = masks[..., None]
    return torch.where(masks > 0, torch.lerp(originals, results, masks), originals)


def check_latents(latents: Tensor, channels: int, scale: int, vae_scale: int) -> None:
    """Raise unless a VAE's latents ``[N, C, ...]`` fit a model of ``channels`` channels and ``scale`` pixels per latent pixel.

    vae_scale: the VAE's own pixels per latent pixel.
    """
    if latents.shape[1] != channels:
        raise FaceLoomError(f"This VAE makes latents of {latents.shape[1]} channels but the model wants {channels}; connect the VAE that "
                            "belongs to the model.")
    if scale != vae_scale:
        raise FaceLoomError(f"This VAE makes one latent pixel of {vae_scale}×{vae_scale} pixels but the model wants {scale}×{scale}; "
                            "connect the VAE that belongs to the model.")
    check_finite(latents, "The VAE made NaN of a crop; run ComfyUI with --fp32-vae or use a VAE that works in half precision.")
