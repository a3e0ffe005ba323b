"""Original checkpoints in diffusers' classes, beside what ComfyUI's own classes (0.33) answered to the same weights and inputs."""

from __future__ import annotations

import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.networks.ldm import UNET_PREFIX, UNetForm, VaeForm, load_unet, load_vae
from ldm_files import unet_weights, vae_weights

pytest.importorskip("diffusers")

UNET = UNetForm(9, 4, 64, (1, 2), (False, True), (2, 4), 48, 2)
VAE = VaeForm(channels=32)


@torch.inference_mode()
def test_the_unet_is_comfyuis():
    x = torch.sin(torch.arange(2 * 9 * 16 * 16).reshape(2, 9, 16, 16) * .013)
    context = torch.cos(torch.arange(2 * 3 * 48).reshape(2, 3, 48) * .7)
    noise = load_unet(unet_weights(UNET), UNET, "small")(x, torch.tensor([981, 321]), context)
    torch.testing.assert_close(noise[:, :, 7, 9], torch.tensor([[-.9159864, .6912463, -.2095084, -.4511086],
                                                                [-.1934181, .0873266, .0165419, -.4409652]]), atol=1e-5, rtol=0)
    assert abs(float(noise.std()) - .5304673) < 1e-5


@torch.inference_mode()
def test_the_vae_is_comfyuis():
    net = load_vae(vae_weights(VAE), "small", VAE)
    latents = net.encode(torch.sin(torch.arange(3 * 64 * 96).reshape(1, 3, 64, 96) * .01))
    torch.testing.assert_close(latents[0, :, 3, 5], torch.tensor([-.1000775, .0449354, -.0331939, -.0522237]), atol=1e-5, rtol=0)
    pictures = net.decode(latents)
    torch.testing.assert_close(pictures[0, :, 30, 50], torch.tensor([.0268751, -.6759967, .0888790]), atol=1e-5, rtol=0)
    assert abs(float(pictures.std()) - .5430884) < 1e-5


@torch.inference_mode()
def test_a_draw_moves_by_the_encoders_own_deviation():
    net = load_vae(vae_weights(VAE), "small", VAE)
    picture = torch.sin(torch.arange(3 * 64 * 64).reshape(1, 3, 64, 64) * .01)
    middle, one, two = (net.encode(picture, noise) for noise in (None, torch.ones(1, 4, 8, 8), torch.full((1, 4, 8, 8), -2.)))
    torch.testing.assert_close(two - middle, -2 * (one - middle), atol=1e-5, rtol=0)
    assert float((one - middle).min()) > 0


def test_half_precision_is_near():
    with torch.inference_mode():
        x, context = torch.randn(2, 1, 9, 16, 16, generator=torch.Generator().manual_seed(0))[0], torch.ones(1, 1, 48)
        full, half = (load_unet(unet_weights(UNET), UNET, "small", dtype=dtype)(x.to(dtype), torch.tensor([500]), context.to(dtype)).float()
                      for dtype in (torch.float32, torch.float16))
    assert half.std() > .1 and 0 < float((full - half).abs().max()) < .01 * float(full.std())


def test_nothing_may_be_missing_or_left_over():
    weights = unet_weights(UNET)
    with pytest.raises(FaceLoomError, match=r"small\.ckpt lacks 1 of"):
        load_unet({key: value for key, value in weights.items() if not key.endswith("middle_block.1.norm.bias")}, UNET, "small.ckpt")
    with pytest.raises(FaceLoomError, match=r"small\.ckpt holds 1 weights"):
        load_unet(weights | {f"{UNET_PREFIX}new.weight": torch.zeros(1)}, UNET, "small.ckpt")
    with pytest.raises(FaceLoomError, match="another variant"):
        load_unet(weights, UNetForm(4, 4, 64, (1, 2), (False, True), (2, 4), 48, 2), "small.ckpt")
