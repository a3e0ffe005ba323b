"""High dynamic range shown as standard range, and pixel formats chosen for encoders."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("av")

from faceloom.models.files.video import ColorMarks, put_back, tone_mapped
from faceloom.models.files.video.pixel_formats import Layout, choose, layout_of, nearest_planar


def linear(image):
    return torch.where(image < 0.081, image / 4.5, ((image + 0.099) / 1.099) ** (1 / 0.45))


# Signal of diffuse white, 203 cd/m² (ITU-R BT.2408, table 1): 58 % PQ and 75 % HLG; of 100 cd/m² in PQ: 50.8 %; of 18 % grey: 38 % in both.
@pytest.mark.parametrize(
    "transfer, signal, expected", [(16, 0.5807, 0.73), (16, 0.508, 0.394), (16, 0.38, 0.104), (18, 0.75, 0.73), (18, 0.38, 0.104)]
)
def test_grey_keeps_its_brightness(transfer, signal, expected):
    mapped = linear(tone_mapped(torch.full((2, 2, 3), signal), transfer))
    assert mapped.std() < 1e-3 and mapped.mean() == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("transfer", [16, 18])
def test_the_whole_range_rises_and_stays_within(transfer):
    ramp = torch.linspace(0, 1, 1000)[:, None, None].expand(-1, 1, 3)
    mapped = tone_mapped(ramp, transfer)[:, 0, 1]
    assert mapped[0] == 0 and mapped.max() <= 1 and (mapped.diff() > -1e-6).all() and (mapped[100:600].diff() > 0).all()


def test_colors_of_bt2020_become_those_of_bt709():
    """A red that BT.709 can show, written in BT.2020 and PQ at 100 cd/m², comes back with its proportions."""
    red = torch.tensor([0.8, 0.2, 0.1])
    wide = torch.linalg.solve(torch.tensor([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]), red)
    power = (wide * 100 / 10_000) ** 0.1593017578125
    signal = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    mapped = linear(tone_mapped(signal[None, None], 16))[0, 0]
    assert (mapped / mapped[0] - red / red[0]).abs().max() < 0.01 and mapped[0] == pytest.approx(0.8 * 0.8 * 100 / 203, abs=0.01)


@pytest.mark.parametrize("transfer", [1, 2, 6, 13, 14])
def test_standard_range_is_given_back(transfer):
    image = torch.rand(3, 4, 3)
    assert tone_mapped(image, transfer) is image


@pytest.mark.parametrize("transfer, primaries", [(16, 9), (18, 9), (16, 1), (18, 1)])
def test_what_is_changed_in_standard_range_is_seen_so_in_the_clip(transfer, primaries):
    """A face put over a skin of 100 cd/m² looks in the clip as it looks when it is tone-mapped; what is as it was stays bit for bit."""
    image = torch.tensor([.50, .47, .45]).repeat(8, 8, 1) + torch.linspace(0, .05, 64).reshape(8, 8, 1)
    image[0] = torch.tensor([.98, .2, .9])  # a light that the tone curve cannot give back
    seen = tone_mapped(image, transfer, primaries)
    changed = seen.clone()
    changed[2:] = changed[2:] * .7 + torch.tensor([.15, .1, .05])
    back = put_back(image, seen, changed, ColorMarks(primaries, transfer, 9))
    assert torch.equal(back[:2], image[:2]) and (back[2:] - image[2:]).abs().max() > .01
    assert (tone_mapped(back, transfer, primaries) - changed).abs().max() < 2e-3
    assert torch.equal(put_back(image, seen, changed, ColorMarks(primaries, 1, 9)), changed)


@pytest.mark.parametrize("name", ["yuv420p", "yuva444p12le", "gbrp", "gbrap16le", "gray10le", "yuv411p", "yuv440p12le"])
def test_planar_formats_are_kept(name):
    assert layout_of(name).name == nearest_planar(name).name == name


@pytest.mark.parametrize(
    "name, planar",
    [
        ("nv12", "yuv420p"),
        ("p010le", "yuv420p10le"),
        ("yuyv422", "yuv422p"),
        ("rgb24", "gbrp"),
        ("bgra", "gbrap"),
        ("pal8", "gbrap"),
        ("rgb48be", "gbrp16le"),
        ("yuv420p10be", "yuv420p10le"),
        ("ya8", "gbrap"),
        ("gray16be", "gray16le"),
        ("yuvj422p", "yuv422p"),
        ("p210le", "yuv422p10le"),
        ("gbrpf32le", "gbrp16le"),
        ("nv24", "yuv444p"),
        ("monob", "gray"),
    ],
)
def test_other_formats_go_into_planar_ones_that_hold_them(name, planar):
    assert nearest_planar(name).name == planar


@pytest.mark.parametrize(
    "wanted, size, even, expected",
    [
        ("yuv420p", (96, 64), True, "yuv420p"),
        ("yuv420p", (95, 64), True, "yuv444p"),
        ("yuv420p", (96, 63), True, "yuv422p"),
        ("yuv420p", (95, 63), False, "yuv420p"),
        ("yuv420p10le", (96, 64), True, "yuv420p10le"),
        ("yuv422p12le", (96, 64), True, "yuv422p10le"),
        ("yuv411p", (96, 64), True, "yuv422p"),
        ("gray", (96, 64), True, "yuv420p"),
        ("yuv440p", (96, 64), True, "yuv444p"),
    ],
)
def test_an_encoder_gets_the_format_that_loses_least(wanted, size, even, expected):
    offered = ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "nv12", "yuv420p10le", "yuv422p10le", "yuv444p10le"]
    assert choose(layout_of(wanted), offered, *size, even).name == expected
    assert choose(Layout("yuv"), ["nv12", "p010le"], 8, 8, False) is None
