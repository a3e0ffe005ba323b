"""Crops to the model's size and back."""

from __future__ import annotations

import pytest
import torch
from faceloom.models.diffusion.crop import check_latents, composite, remove_color_drift, sampling_size
from faceloom.models.errors import FaceLoomError
from faceloom.models.pixels.resize import resize_area_or_lanczos
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 4096), st.sampled_from([1, 4, 8, 16, 32]))
def test_sizes_are_what_vae_and_unet_divide(wanted, multiple):
    size = sampling_size(wanted, multiple)
    assert size > 0 and size % 64 == 0 and size % multiple == 0
    assert abs(size - wanted) <= 32 or size == 64


@given(st.integers(3, 40), st.integers(3, 40))
def test_a_constant_stays(old, new):
    assert torch.allclose(resize_area_or_lanczos(torch.full((1, old, old, 3), 0.3), new), torch.full((1, new, new, 3), 0.3), atol=1e-6)


def test_shrinking_is_the_mean_of_exact_areas():
    picture = torch.rand(1, 6, 6, 3)
    assert torch.allclose(resize_area_or_lanczos(picture, 3), picture.reshape(1, 3, 2, 3, 2, 3).mean((2, 4)), atol=1e-6)
    row = torch.tensor([0.0, 0.3, 0.9])  # three pixels into two: one and a half each
    out = resize_area_or_lanczos(row[None, None, :, None].expand(1, 3, 3, 3), 2)
    assert torch.allclose(out[0, 0, :, 0], torch.tensor([0.15 / 1.5, 1.05 / 1.5]), atol=1e-6)


def test_up_and_down_again_is_nearly_the_picture(collins):
    picture = collins[:, :256, 100:356]
    assert (resize_area_or_lanczos(resize_area_or_lanczos(picture, 512), 256) - picture).abs().mean() < 0.01


def test_enlarging_keeps_positions(collins):
    """A linear ramp stays the ramp of the finer pixels, away from the border where taps repeat."""
    ramp = torch.linspace(0.2, 0.8, 32)[None, None, :, None].expand(1, 32, 32, 1)
    step = 0.6 / 31
    wanted = 0.2 + step * ((torch.arange(64) + 0.5) / 2 - 0.5)
    assert (resize_area_or_lanczos(ramp, 64)[0, 30, 12:52, 0] - wanted[12:52]).abs().max() < 2e-3


def test_drift_of_a_vae_is_taken_out(collins):
    """A VAE that fades and tints: a known gain and offset per channel."""
    original = collins[:, 100:356, 100:356]
    ys, xs = torch.meshgrid(torch.arange(256) - 127.5, torch.arange(256) - 127.5, indexing="ij")
    mask = ((70 - torch.hypot(xs, ys)) / 8).clamp(0, 1)[None]
    drifted = (original * torch.tensor([0.95, 0.97, 0.93]) + torch.tensor([0.01, 0.02, 0.0])).clamp(0, 1)
    fixed = remove_color_drift(drifted, original, mask)
    inside = mask[0] > 0.5
    assert (fixed - original)[0][inside].abs().mean() < 0.003 < 0.012 < (drifted - original)[0][inside].abs().mean()
    whole = torch.ones(1, 256, 256)
    assert torch.equal(remove_color_drift(drifted, original, whole), drifted)  # no ring to measure in


def test_pixels_outside_the_mask_stay_bit_identical():
    original, result = torch.rand(2, 1, 40, 40, 3)
    mask = (torch.rand(1, 40, 40) - 0.5).clamp(min=0)
    out = composite(original, result, mask)
    assert torch.equal(out[mask == 0], original[mask == 0])
    assert torch.equal(composite(original, result, torch.ones(1, 40, 40)), result)


def test_vae_and_model_that_do_not_belong_together():
    check_latents(torch.zeros(1, 4, 8, 8), 4, 8, 8)
    with pytest.raises(FaceLoomError, match="latents of 16 channels but the model wants 4"):
        check_latents(torch.zeros(1, 16, 8, 8), 4, 8, 8)
    with pytest.raises(FaceLoomError, match="16×16 pixels but the model wants 8×8"):
        check_latents(torch.zeros(1, 4, 8, 8), 4, 8, 16)
    with pytest.raises(FaceLoomError, match="NaN"):
        check_latents(torch.full((1, 4, 8, 8), float("nan")), 4, 8, 8)
