"""An answer drawn into a crop: where, how far it reaches, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.geometry import warp
from faceloom.models.swap.draw import FADE, draw, draw_on_photo, fade

CROP = torch.rand((64, 64, 3), generator=torch.Generator().manual_seed(1))
WHITE = torch.ones((32, 32, 3))
# The answer's 32 pixels lie on the crop's pixels 10..41 (across) and 20..51 (down).
SHIFT = np.array([[1, 0, 10], [0, 1, 20.0]])


def smooth(distance: np.ndarray) -> np.ndarray:
    t = np.clip(distance / (32 * FADE), 0, 1)
    return t * t * (3 - 2 * t)


def test_only_the_outline_within_the_square_changes():
    outline = torch.zeros(64, 64)
    outline[:30, 30:] = 1
    crop, mask = draw(CROP, WHITE, SHIFT, outline)
    y, x = np.mgrid[:64, :64]
    inside = np.minimum(np.minimum(x - 9.5, 41.5 - x), np.minimum(y - 19.5, 51.5 - y))
    assert np.allclose(mask.numpy(), outline.numpy() * smooth(inside), atol=1e-6)
    assert torch.equal(crop[mask == 0], CROP[mask == 0])
    assert torch.allclose(crop[mask > 0], torch.ones(3), atol=1e-6) and (mask > 0).sum() == 12 * 10


def test_a_mask_in_the_answers_own_pixels():
    own = torch.linspace(0, 1, 32).expand(32, 32)[..., None]
    _, mask = draw(CROP, WHITE, SHIFT, own)
    assert torch.allclose(mask[35, 13:39], torch.linspace(0, 1, 32)[3:29], atol=1e-5)
    assert not mask[:20].any() and not mask[:, 42:].any()


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_share(share):
    crop, mask = draw(CROP, WHITE, SHIFT, torch.ones(64, 64), share)
    assert torch.allclose(crop[mask > 0], CROP[mask > 0] + share * (1 - CROP[mask > 0]), atol=1e-6)


@pytest.mark.parametrize("aside", [-90, 90])
def test_nothing_where_they_do_not_meet(aside):
    matrix = SHIFT.copy()
    matrix[0, 2] += aside
    for outline in (torch.ones(64, 64), torch.ones(32, 32, 1)):
        crop, mask = draw(CROP, WHITE, matrix, outline)
        assert torch.equal(crop, CROP) and not mask.any()
    crop, mask = draw(CROP, WHITE, SHIFT, torch.zeros(64, 64))
    assert torch.equal(crop, CROP) and not mask.any()


def test_fade_leaves_the_middle_alone():
    mask = torch.ones(8, 8)
    assert fade(mask, np.array([[1, 0, 12], [0, 1, 12.0]]), 32) is mask
    assert fade(mask, np.array([[1, 0, 0], [0, 1, 12.0]]), 32)[:, 0].max() < 1


@pytest.mark.parametrize("share", [0.25, 1.0])
@pytest.mark.parametrize("size", [96, 75])
def test_drawn_on_the_photograph_as_into_its_whole_crop(share, size):
    photo = torch.rand((80, 100, 3), generator=torch.Generator().manual_seed(2))
    matrix = np.array([[1.4, 0.2, -30], [-0.2, 1.4, -10]])
    crop = warp(photo, matrix, size, size).clamp(0, 1)
    y, x = np.mgrid[:size, :size] - size / 2
    for outline in (torch.from_numpy(np.clip(25 - np.hypot(x, y), 0, 1)).float(), torch.ones(32, 32, 1), torch.zeros(size, size)):
        expected, mask = draw(crop, WHITE * 0.8, SHIFT, outline, share)
        drawn, same = draw_on_photo(photo, matrix, size, WHITE * 0.8, SHIFT, outline, share)
        assert torch.equal(drawn, expected) and torch.equal(mask, same)
        assert torch.equal(drawn[mask == 0], crop[mask == 0]) and ((mask > 0).sum() > 300) == bool(outline.any())


@pytest.mark.parametrize("size", [16, 12])
def test_the_crop_given_is_left_alone(size):
    crop = CROP[:size, :size].contiguous()
    before = crop.clone()
    drawn, mask = draw(crop, WHITE, np.eye(2, 3), torch.ones(size, size))
    assert torch.equal(crop, before) and mask.any() and not torch.equal(drawn, before)
