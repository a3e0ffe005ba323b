"""An answer drawn into a crop: where, how far it reaches, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.crops.draw_back import FADE, draw_back, fade

CROP = torch.rand((64, 64, 3), generator=torch.Generator().manual_seed(1))
WHITE = torch.ones((32, 32, 3))
# The answer's 32 pixels lie on the crop's pixels 10..41 (across) and 20..51 (down).
SHIFT = np.array([[1, 0, 10], [0, 1, 20.0]])


def drawn(answer, to_crop, outline, share=1.0, crop=CROP):
    """The crop and the mask, in new memory."""
    crop, mask = crop.clone(), torch.full(crop.shape[:2], 0.5)
    draw_back(crop, mask, answer, to_crop, outline, share)
    return crop, mask


def smooth(distance: np.ndarray) -> np.ndarray:
    t = np.clip(distance / (32 * FADE), 0, 1)
    return t * t * (3 - 2 * t)


def test_only_the_outline_within_the_square_changes():
    outline = torch.zeros(64, 64)
    outline[:30, 30:] = 1
    crop, mask = drawn(WHITE, SHIFT, outline)
    y, x = np.mgrid[:64, :64]
    inside = np.minimum(np.minimum(x - 9.5, 41.5 - x), np.minimum(y - 19.5, 51.5 - y))
    assert np.allclose(mask.numpy(), outline.numpy() * smooth(inside), atol=1e-6)
    assert torch.equal(crop[mask == 0], CROP[mask == 0])
    assert torch.allclose(crop[mask > 0], torch.ones(3), atol=1e-6) and (mask > 0).sum() == 12 * 10


def test_a_mask_in_the_answers_own_pixels():
    own = torch.linspace(0, 1, 32).expand(32, 32)[..., None]
    _, mask = drawn(WHITE, SHIFT, own)
    assert torch.allclose(mask[35, 13:39], torch.linspace(0, 1, 32)[3:29], atol=1e-5)
    assert not mask[:20].any() and not mask[:, 42:].any()


@pytest.mark.parametrize("scale", [1.3, 3.0])
def test_a_hard_mask_in_the_answers_own_pixels_rings_nowhere(scale):
    """However large it is drawn, it ends within a pixel of the network's, and is whole as near to its edge."""
    own = torch.zeros(32, 32, 1)
    own[8:24, 8:24] = 1
    size = round(32 * scale)
    matrix = np.array([[scale, 0, scale / 2 - 0.5], [0, scale, scale / 2 - 0.5]])
    crop, mask = drawn(WHITE, matrix, own, crop=torch.zeros(size, size, 3))
    y, x = (np.mgrid[:size, :size] + 0.5) / scale - 0.5
    beyond = np.maximum(np.abs(x - 15.5), np.abs(y - 15.5)) - 8  # of the edge
    assert not mask[torch.from_numpy(beyond > 0.51)].any() and not crop[torch.from_numpy(beyond > 0.51)].any()
    assert (mask[torch.from_numpy(beyond < -0.51)] - 1).abs().max() < 1e-6


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_share(share):
    crop, mask = drawn(WHITE, SHIFT, torch.ones(64, 64), share)
    assert torch.allclose(crop[mask > 0], CROP[mask > 0] + share * (1 - CROP[mask > 0]), atol=1e-6)


@pytest.mark.parametrize("aside", [-90, 90])
def test_nothing_where_they_do_not_meet(aside):
    matrix = SHIFT.copy()
    matrix[0, 2] += aside
    for outline in (torch.ones(64, 64), torch.ones(32, 32, 1)):
        crop, mask = drawn(WHITE, matrix, outline)
        assert torch.equal(crop, CROP) and not mask.any()
    crop, mask = drawn(WHITE, SHIFT, torch.zeros(64, 64))
    assert torch.equal(crop, CROP) and not mask.any()


def test_fade_leaves_the_middle_alone():
    mask = torch.ones(8, 8)
    assert fade(mask, np.array([[1, 0, 12], [0, 1, 12.0]]), 32) is mask
    assert fade(mask, np.array([[1, 0, 0], [0, 1, 12.0]]), 32)[:, 0].max() < 1


@pytest.mark.parametrize("turn", [0.0, 0.3, -0.8])
@pytest.mark.parametrize("shift", [(-20, 4), (4, 6), (-8, -9)])
def test_fade_is_the_smooth_distance_from_the_squares_edge(turn, shift):
    """Whatever part of the square the mask shows, and however it is turned; only some of the rows are worked on."""
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * 0.8
    to_square = np.c_[linear, shift]
    mask = torch.rand((50, 60), generator=torch.Generator().manual_seed(4))
    y, x = np.mgrid[:50, :60]
    square_x, square_y = (linear[i, 0] * x + linear[i, 1] * y + shift[i] for i in (0, 1))
    inside = np.minimum(np.minimum(square_x + 0.5, 31.5 - square_x), np.minimum(square_y + 0.5, 31.5 - square_y))
    faded = fade(mask, to_square, 32)
    assert np.allclose(faded.numpy(), mask.numpy() * smooth(inside), atol=2e-6)
    assert 0 < (faded == mask).sum() < mask.numel()


def test_a_crop_laid_out_in_planes_is_drawn_on_alike():
    outline = torch.ones(64, 64)
    planes = CROP.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    mask = torch.zeros(64, 64)
    draw_back(planes, mask, WHITE * 0.8, SHIFT, outline, 0.5)
    expected = drawn(WHITE * 0.8, SHIFT, outline, 0.5)
    assert torch.equal(planes, expected[0]) and torch.equal(mask, expected[1])
