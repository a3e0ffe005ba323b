"""A checksum that tells every change of a picture apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.pixels.checksum import checksum
from hypothesis import given, settings
from hypothesis import strategies as st

KINDS = ["noise", "8 bits", "black and white", "grey steps", "flat with one dot"]


def picture(kind: str, height: int = 24, width: int = 20, seed: int = 0) -> torch.Tensor:
    noise = torch.rand((height, width, 3), generator=torch.Generator().manual_seed(seed))
    if kind == "noise":
        return noise
    if kind == "8 bits":
        return (noise * 255).round() / 255
    if kind == "black and white":
        return noise.round()
    if kind == "grey steps":
        return (noise[..., :1] * 4).round().expand(-1, -1, 3) / 4
    flat = torch.zeros(height, width, 3)
    flat[3, 4, 1] = 1
    return flat


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_exchanged_values_and_no_moved_pixels_go_unseen(kind):
    """All pictures that one exchange of two values makes, and all rolls, mirrors and turns: as many numbers as pictures."""
    first = picture(kind, 12, 12)
    flat = first.flatten()
    made = {first.numpy().tobytes(): checksum(first)}
    places = np.random.default_rng(1).integers(0, len(flat), (4000, 2))
    others = [first.roll((y, x), (0, 1)) for y in range(12) for x in range(12)]
    others += [first.flip(0), first.flip(1), first.flip(2), first.transpose(0, 1), first.rot90(1, (0, 1)), first.rot90(2, (0, 1))]
    for a, b in places:
        swapped = flat.clone()
        swapped[[a, b]] = flat[[b, a]]
        others.append(swapped.view_as(first))
    for other in others:
        other = other.contiguous()
        number = checksum(other)
        assert made.setdefault(other.numpy().tobytes(), number) == number
    assert len(set(made.values())) == len(made) > 100


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 23), st.integers(0, 19), st.integers(0, 2), st.integers(0, 31))
def test_every_single_bit_counts(kind, y, x, channel, bit):
    first = picture(kind).contiguous()
    number = checksum(first)
    changed = first.clone()
    bits = changed.view(torch.int32)
    bits[y, x, channel] ^= -(1 << 31) if bit == 31 else 1 << bit
    assert checksum(changed) != number and checksum(first) == number


def test_sums_and_parts_that_stay_the_same_do_not_hide_a_change():
    first = picture("noise")
    changed = first.clone()
    changed[2, 3, 0] += 0.125
    changed[9, 7, 2] -= 0.125
    assert checksum(changed) != checksum(first)


def test_all_pairs_of_a_row_that_are_exchanged_are_seen():
    """With two values whose bits differ in the upper nine only."""
    first = picture("black and white", 1, 100, seed=5)
    flat, number = first.flatten(), checksum(first)
    for a in range(300):
        for b in range(a):
            if flat[a] != flat[b]:
                changed = flat.clone()
                changed[[a, b]] = flat[[b, a]]
                assert checksum(changed.view_as(first)) != number


def test_a_view_has_the_checksum_of_its_copy():
    large = picture("noise", 300, 200)
    window = large[40:170, 20:150]
    whole = [checksum(large), checksum(window)]
    assert checksum(window.clone()) == whole[1] and checksum(large.double().float()) == whole[0]
    assert checksum(large[..., :1].expand(-1, -1, 3)) == checksum(large[..., :1].expand(-1, -1, 3).contiguous())
    assert checksum(large[:1, :1]) != checksum(large[1:2, :1])
    with torch.inference_mode():
        assert checksum(large.clone()) == whole[0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (15, 4), (17, 4), (33, 30000), (5, 40000)])
def test_pictures_of_any_shape_are_added_up(shape):
    first = picture("noise", *shape)
    number = checksum(first)
    for y, x in {(0, 0), (shape[0] - 1, shape[1] - 1), (shape[0] // 2, shape[1] // 2)}:
        changed = first.clone()
        changed[y, x, 1] += 1e-6
        assert checksum(changed) != number
    assert checksum(first) == number
