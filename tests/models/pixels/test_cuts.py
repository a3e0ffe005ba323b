"""Cuts of a clip."""

from __future__ import annotations

import torch
from faceloom.models.pixels.cuts import CutFinder


def cuts(frames) -> list[int]:
    finder = CutFinder()
    return [i for i, frame in enumerate(frames) if finder.is_cut(frame)]


def panned(photo: torch.Tensor, count: int, step: int) -> list[torch.Tensor]:
    """A camera that moves by ``step`` pixels a frame."""
    return [photo[0, :300, i * step : i * step + 300] for i in range(count)]


def test_a_cut_is_found_and_a_moving_camera_is_none(collins, hopper):
    still, other = [collins[0]] * 3, [hopper[0]] * 3
    assert cuts([*still, *other, *still]) == [3, 6]
    assert cuts(panned(collins, 20, 10)) == []
    assert cuts([*[collins[0, :300, :300]] * 3, *panned(collins, 7, 30)]) == []
    assert cuts([*panned(collins, 10, 10), *panned(hopper, 10, 10)]) == [10]


def test_a_flash_and_a_fade_are_no_cut(collins):
    photo = collins[0] * .6
    assert cuts([photo, photo, photo + .4, photo, photo]) == []
    assert cuts([photo * (1 - i / 20) for i in range(21)]) == []


def test_the_first_frame_and_single_frames_are_no_cut(collins):
    assert cuts([collins[0]]) == [] and cuts([]) == []
