"""The Gaussian blur."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.pixels.blur import gaussian_blur
from scipy import ndimage


def test_blurring_keeps_means_and_takes_out_noise():
    flat, noise = torch.full((1, 3, 32, 32), 0.4), torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(gaussian_blur(flat, 2.0, 6), flat, atol=1e-6)
    assert float(gaussian_blur(noise, 2.0, 6)[..., 8:-8, 8:-8].std()) == pytest.approx(1 / (2 * 2 * np.pi**0.5), rel=0.15)


@pytest.mark.parametrize(("border", "scipys"), [("zeros", "constant"), ("replicate", "nearest"), ("reflect", "mirror")])
def test_blurs_are_scipys_at_every_border(border, scipys):
    planes = np.random.default_rng(0).random((3, 24, 31))
    wanted = np.stack([ndimage.gaussian_filter(plane, 1.7, mode=scipys, radius=5) for plane in planes])
    np.testing.assert_allclose(gaussian_blur(torch.from_numpy(planes), 1.7, 5, border), wanted, atol=1e-12)
