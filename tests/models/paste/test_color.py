"""Colour matching against changes of colour whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.paste.color import _MATCHES, METHODS, lab_to_rgb, match_color, rgb_to_lab
from skimage.color import lab2rgb, rgb2lab


@pytest.fixture(scope="module")
def face(collins) -> torch.Tensor:
    return collins[:, 60:188, 160:288] * 0.5 + 0.25


@pytest.fixture(scope="module")
def mask() -> torch.Tensor:
    y, x = np.mgrid[:128, :128]
    return torch.from_numpy((((x - 64) / 40) ** 2 + ((y - 66) / 52) ** 2 < 1).astype(np.float32))[None]


def error(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor) -> float:
    return float((first - second).abs()[mask > 0].max() * 255)


def test_every_method_that_can_be_chosen_is_there():
    assert tuple(_MATCHES) == METHODS


def test_lab_agrees_with_scikit_image():
    rgb = np.random.default_rng(0).random((500, 3))
    rgb[:3] = [[0, 0, 0], [1, 1, 1], [0.003, 0.003, 0.01]]
    lab = rgb_to_lab(torch.from_numpy(rgb).float())
    assert np.abs(lab.numpy() - rgb2lab(rgb[None])[0]).max() < 0.05
    assert np.abs(lab_to_rgb(lab).numpy() - rgb).max() < 1e-4
    assert np.abs(lab_to_rgb(torch.tensor([[60.0, 20, -30]])).numpy() - lab2rgb(np.array([[[60.0, 20, -30]]]))[0]).max() < 2e-3
    assert torch.allclose(rgb_to_lab(torch.ones(3)), torch.tensor([100.0, 0, 0]), atol=2e-3)


def test_mean_std_undoes_gain_and_shift_in_lab(face, mask):
    lab = rgb_to_lab(face)
    middle = lab.mean((1, 2), keepdim=True)
    changed = lab_to_rgb((lab - middle) * torch.tensor([0.9, 0.8, 1.2]) + middle + torch.tensor([4.0, -3, 5]))
    assert float(changed.min()) > 0 and float(changed.max()) < 1
    assert error(changed, face, mask) > 8
    assert error(match_color(changed, face, mask, "mean-std"), face, mask) < 1


def test_mkl_undoes_a_symmetric_linear_change(face, mask):
    gain = torch.tensor([[0.9, 0.06, 0.02], [0.06, 0.8, -0.05], [0.02, -0.05, 1.1]])
    changed = (face - 0.5) @ gain + 0.5 + torch.tensor([0.03, -0.02, 0.05])
    assert float(changed.min()) > 0 and float(changed.max()) < 1
    assert error(changed, face, mask) > 15
    assert error(match_color(changed, face, mask, "mkl"), face, mask) < 1


def test_low_frequency_undoes_a_constant_and_follows_light(face, mask):
    shifted = face + torch.tensor([0.08, -0.05, 0.02])
    assert error(match_color(shifted, face, mask, "low-frequency"), face, mask) < 1
    light = torch.linspace(-0.1, 0.1, 128)[None, None, :, None]
    matched = match_color(face + light, face, mask, "low-frequency")
    assert float((matched - face)[mask > 0].abs().mean()) < 0.12 * float(light.abs().mean())


def test_low_frequency_keeps_fine_detail(face, mask):
    grain = 0.02 * (torch.arange(128) % 2 * 2 - 1)[None, None, :, None]
    matched = match_color(face + grain + 0.1, face, mask, "low-frequency")
    assert float((matched - face - grain)[:, 40:90, 40:90].abs().max()) < 0.002


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_match_changes_nothing(face, mask, method):
    assert error(match_color(face, face, mask, method), face, torch.ones_like(mask)) < 0.1


@pytest.mark.parametrize("method", METHODS)
def test_only_the_mask_decides(face, mask, method):
    """What surrounds the mask, in the crop or in the photograph, has no say."""
    changed = face * 0.9 + 0.05
    wild = torch.where(mask[..., None] > 0, face, 1 - face)
    first, second = match_color(changed, face, mask, method), match_color(changed, wild, mask, method)
    assert torch.equal(first, second)


@pytest.mark.parametrize("method", ["mean-std", "mkl"])
def test_a_dark_fringe_is_left_out_of_the_statistics(method):
    """A quarter of the mask is hair in the photograph and skin in the crop; the skin must still come out as the photograph's skin."""
    generator = torch.Generator().manual_seed(0)
    skin = torch.tensor([0.7, 0.5, 0.4]) + 0.04 * torch.randn(1, 128, 128, 1, generator=generator) \
        + 0.01 * torch.randn(1, 128, 128, 3, generator=generator)
    photograph = skin.clone()
    photograph[:, :32] = 0.05
    matched = match_color(skin * 0.9 + 0.06, photograph, torch.ones(1, 128, 128), method)
    assert float((matched - skin)[:, 40:].mean((0, 1, 2)).abs().max()) < 1 / 255


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_constant_regions_do_not_blow_up(face, mask, method, value):
    flat = torch.full_like(face, value)
    for crop, reference in ((flat, face), (face, flat), (flat, torch.full_like(face, 0.6))):
        out = match_color(crop, reference, mask, method)
        assert torch.isfinite(out).all() and float(out.min()) >= 0 and float(out.max()) <= 1
        if crop is flat and reference is not face:
            assert float((out - 0.6).abs().max()) < 1.5 / 255
        elif crop is flat and method != "low-frequency":
            assert float(out.flatten(1, 2).std(1).max()) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_amount_blends(face, mask, method):
    changed = face * 0.8 + 0.15
    full = match_color(changed, face, mask, method)
    assert torch.equal(match_color(changed, face, mask, method, 0.0), changed)
    assert (match_color(changed, face, mask, method, 0.25) - torch.lerp(changed, full, 0.25)).abs().max() < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_sizes_may_differ_and_an_empty_mask_changes_nothing(face, mask, method):
    crops = torch.nn.functional.interpolate(face.permute(0, 3, 1, 2), (256, 256), mode="bilinear").permute(0, 2, 3, 1) + 0.1
    out = match_color(crops.repeat(2, 1, 1, 1), face.repeat(2, 1, 1, 1), torch.stack([mask[0], torch.zeros_like(mask[0])]), method)
    assert out.shape == (2, 256, 256, 3) and torch.equal(out[1], crops[0])
    assert float((out[0] - crops[0] + 0.1).abs().mean()) < 0.01


def test_bad_arguments_say_what_to_do(face, mask):
    with pytest.raises(FaceLoomError, match="mkl"):
        match_color(face, face, mask, "sepia")
    with pytest.raises(FaceLoomError, match="amount"):
        match_color(face, face, mask, "mkl", 2)
