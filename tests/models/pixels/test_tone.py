"""The curve for pictures with values above 1."""

from __future__ import annotations

import pytest
import torch
from faceloom.models.pixels.tone import KNEE, compress, expand, white_of, whites_of


@pytest.mark.parametrize("white", [1.0001, 1.7, 4.0, 60.0])
def test_there_and_back_is_where_it_was(white):
    values = torch.linspace(0, white, 1001)
    there = compress(values, white)
    assert float(there[0]) == 0 and float(there[-1]) == pytest.approx(1, abs=1e-6) and float(there.max()) <= 1
    assert (there[1:] > there[:-1]).all()
    torch.testing.assert_close(expand(there, white), values, rtol=2e-4, atol=1e-4)
    below = values[values <= KNEE]
    assert torch.equal(compress(below, white), below) and torch.equal(expand(below, white), below)


def test_ordinary_pictures_are_left_alone():
    values = torch.rand(5, 4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(compress(values, 1.0), values) and torch.equal(expand(values, 1.0), values)
    assert float(compress(torch.tensor(-.5), 2.0)) == 0 and float(compress(torch.tensor(9.0), 2.0)) == 1


def test_the_brightest_values_are_those_of_frames_that_pass_1():
    images = torch.zeros(3, 4, 5, 3)
    assert whites_of(images) == () and whites_of((images * 255).to(torch.uint8)) == ()
    images[1, 2, 3, 0] = 2.5
    assert whites_of(images) == (1.0, 2.5, 1.0)
    assert white_of(whites_of(images), 1) == 2.5 and white_of((), 7) == 1


def test_alpha_is_no_brightness_and_one_frame_may_come_alone():
    images = torch.zeros(2, 4, 5, 4)
    images[..., 3] = 255
    assert whites_of(images) == ()
    images[1, 0, 0, 2] = 3
    assert whites_of(images) == (1.0, 3.0) and whites_of(images[1]) == (3.0,) and whites_of(images[..., 2:3]) == (1.0, 3.0)
