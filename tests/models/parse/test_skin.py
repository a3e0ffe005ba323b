from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from faceloom.models.parse.skin import _reconstructed, fast_gaussian_blur, local_mean, skin_likelihood

SKIN, HAIR = (0.80, 0.60, 0.50), (0.25, 0.17, 0.12)


def picture(size=192):
    """Skin below, hair above, a frame as thin as spectacles' across the skin, and a skin-coloured patch inside the hair."""
    image = torch.empty(size, size, 3)
    image[:] = torch.tensor(SKIN)
    image *= torch.linspace(0.75, 1.1, size)[:, None, None]  # shading from above
    image[: size // 3] = torch.tensor(HAIR)
    image[10:26, 80:100] = torch.tensor(SKIN) * 0.8
    image[130:132] = torch.tensor(HAIR)
    sure = torch.zeros(size, size)
    sure[100:180, 60:130] = 1
    return image, sure


def test_skin_hair_islands_and_frames_are_told_apart():
    image, sure = picture()
    likelihood = skin_likelihood(image, sure)
    assert likelihood[75:125].min() > 0.8  # shaded skin above the sure part too
    assert likelihood[:55].max() < 0.1  # hair, and the highlight in it
    assert likelihood[129:134, 20:170].min() > 0.8  # spectacles do not count


def test_without_sure_skin_everything_may_be_skin():
    image, sure = picture()
    assert (skin_likelihood(image, sure * 0) == 1).all()


@pytest.mark.parametrize("sigma", [1.0, 6.0, 20.0])
def test_smooth_is_a_gaussian(sigma):
    size = 129
    impulse = torch.zeros(1, size, size)
    impulse[0, 64, 64] = 1
    spread = fast_gaussian_blur(impulse, sigma)[0]
    x = torch.arange(size) - 64.0
    assert spread.sum() == pytest.approx(1, abs=0.02)
    assert (spread.sum(0) * x**2).sum().sqrt() == pytest.approx(sigma, rel=0.08)


def test_local_mean_sees_only_what_has_weight():
    values = torch.zeros(1, 64, 64)
    values[:, :, 32:] = 1
    weight = torch.zeros(1, 64, 64)
    weight[:, :, 40:] = 1
    assert local_mean(values, weight, 3.0).min() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_what_hangs_together_is_the_reconstruction_by_dilation(seed):
    """As Vincent (1993) defines it: the start is dilated under the limit until nothing changes, or it has gone across once."""
    generator = torch.Generator().manual_seed(seed)
    limit = F.interpolate(torch.rand(1, 1, 16, 16, generator=generator), 96, mode="bicubic")[0, 0].clamp(0, 1)
    start = torch.where(torch.rand(96, 96, generator=generator) > 0.999, limit, 0)
    expected = start
    for _ in range(96):
        expected = torch.minimum(F.max_pool2d(expected[None], 3, 1, 1)[0], limit)
    found = _reconstructed(start.numpy(), limit.numpy())
    assert np.array_equal(found, expected.numpy()) and (found > start.numpy()).mean() > 0.5
