"""Polygons, growing, feathering and fitting of masks against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.pixels.masks import feather_mask, fit_mask, grow_mask, is_placeholder, nonzero_bounds, polygon_mask, signed_distance
from hypothesis import example, given, settings
from hypothesis import strategies as st

coordinate = st.floats(-12, 44, allow_nan=False, width=32)


def disc(radius: float, size: int = 128, center: tuple[float, float] = (61.3, 66.8)) -> torch.Tensor:
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    return polygon_mask(np.stack([center[0] + radius * np.cos(angle), center[1] + radius * np.sin(angle)], -1), size, size)


def disc_distance(radius: float, size: int = 128, center: tuple[float, float] = (61.3, 66.8)) -> torch.Tensor:
    ys, xs = torch.meshgrid(torch.arange(size) - center[1], torch.arange(size) - center[0], indexing="ij")
    return torch.hypot(xs, ys) - radius


def test_rectangle_covers_exactly_its_share_of_border_pixels():
    mask = polygon_mask([(1.25, 0.5), (3.5, 0.5), (3.5, 2.75), (1.25, 2.75)], 5, 6)
    row = [0, 0.25, 1, 1, 0, 0]
    assert torch.allclose(mask, torch.tensor([[0.0] * 6, row, row, [0.25 * v for v in row], [0.0] * 6]))


def test_integers_are_pixel_centres():
    assert polygon_mask([(1.5, 1.5), (2.5, 1.5), (2.5, 2.5), (1.5, 2.5)], 4, 4).nonzero().tolist() == [[2, 2]]


@given(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=3))
@example([(1.3125, 23.6875), (23.6875, 1.3125), (23.6875, 23.6875)])  # samples on an edge
@example([(28.0, 42.0), (28.0, 42.0), (42.0, 0.0)])  # wholly to the right of the picture
@settings(max_examples=150, deadline=None)
def test_triangle_matches_point_sampling(corners):
    mask = polygon_mask(corners, 32, 32)
    fine = (np.arange(32 * 8) + 0.5) / 8 - 0.5
    xs, ys = np.meshgrid(fine, fine)
    sides = [(b[0] - a[0]) * (ys - a[1]) - (b[1] - a[1]) * (xs - a[0]) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)]
    inside = np.all([s > 0 for s in sides], 0) | np.all([s < 0 for s in sides], 0)
    sampled = inside.reshape(32, 8, 32, 8).mean((1, 3))
    # A pixel cut by three edges has at most this sampling error at 8 × 8. Along an outline of at most 110 pixels in the picture, each of
    # 8 samples a pixel may be half of one off: 110 · 8 / 2 / 64 of 1024 pixels.
    assert np.abs(mask.numpy() - sampled).max() < 0.3
    assert np.abs(mask.numpy() - sampled).mean() < 0.007


@given(st.lists(st.tuples(st.floats(3, 28), st.floats(0, 2 * np.pi)), min_size=3, max_size=12, unique_by=lambda p: round(p[1], 3)))
@settings(max_examples=100, deadline=None)
def test_star_polygon_has_its_shoelace_area(polar):
    polar = sorted(polar, key=lambda p: p[1])
    points = np.array([(32 + r * np.cos(a), 31 + r * np.sin(a)) for r, a in polar])
    if max(np.diff([p[1] for p in polar], append=polar[0][1] + 2 * np.pi)) > np.pi:
        return  # the centre lies outside, edges may cross
    x, y = points.T
    area = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
    assert float(polygon_mask(points, 64, 64).double().sum()) == pytest.approx(area, abs=1e-3)


def test_polygon_reaching_far_outside_is_clipped_exactly():
    mask = polygon_mask([(-1e5, 3.5), (1e5, 3.5), (1e5, 1e6), (-1e5, 1e6)], 8, 8)
    assert torch.equal(mask, torch.cat([torch.zeros(4, 8), torch.ones(4, 8)]))
    assert polygon_mask([(50, 50), (60, 50), (60, 60)], 8, 8).sum() == 0


def test_polygon_running_the_other_way_is_a_hole():
    outer, inner = [(0.5, 0.5), (6.5, 0.5), (6.5, 6.5), (0.5, 6.5)], [(2.5, 2.5), (2.5, 4.5), (4.5, 4.5), (4.5, 2.5)]
    mask = polygon_mask([outer, inner], 8, 8)
    assert mask.sum() == 32 and mask[3, 3] == 0 and mask[1, 1] == 1


def test_polygon_with_nan_is_an_error():
    with pytest.raises(FaceLoomError, match="NaN"):
        polygon_mask([(0, 0), (np.nan, 2), (3, 3)], 8, 8)


def test_distance_to_a_disc():
    error = (signed_distance(disc(35), 30) - disc_distance(35))[disc_distance(35).abs() < 28]
    assert error.abs().mean() < 0.08 and error.abs().max() < 0.5
    coarse = (signed_distance(disc(35), 30, coarse=3) - disc_distance(35))[disc_distance(35).abs() < 28]
    assert coarse.abs().mean() < 0.3


@pytest.mark.parametrize("pixels", [-25.5, -7.0, -1.5, -0.4, 0.6, 3.0, 10.25, 24.0])
def test_growing_a_disc_gives_a_disc(pixels):
    grown = grow_mask(disc(35)[None], pixels)[0]
    assert float((grown.double().sum() / np.pi).sqrt()) == pytest.approx(35 + pixels, abs=0.15)
    edge = disc_distance(35 + pixels).abs()
    assert (grown[edge > 1.5] - (disc_distance(35 + pixels) < 0).float()[edge > 1.5]).abs().max() < 0.02


def test_growing_is_round_at_corners():
    mask = torch.zeros(1, 64, 64)
    mask[:, 20:40, 20:40] = 1
    grown = grow_mask(mask, 10)[0]
    assert float(grown.sum()) == pytest.approx(20 * 20 + 4 * 20 * 10 + np.pi * 100, rel=0.01)
    assert grown[12, 12] == 0 and grown[10, 30] == 1 and grown[9, 30] < 0.05


@given(st.integers(0, 2**31), st.floats(-6, 6), st.floats(-6, 6))
@settings(max_examples=40, deadline=None)
def test_growing_is_monotone(seed, first, second):
    mask = torch.rand((1, 24, 24), generator=torch.Generator().manual_seed(seed)).pow(2)
    low, high = sorted((first, second))
    a, b = grow_mask(mask, low), grow_mask(mask, high)
    assert bool((b >= a - 1e-6).all()) and float(a.min()) >= 0 and float(b.max()) <= 1
    assert bool((grow_mask(mask, abs(low)) >= mask).all()) and bool((grow_mask(mask, -abs(low)) <= mask).all())


def test_the_pictures_edge_is_no_border():
    full = torch.ones(2, 20, 30)
    assert torch.equal(grow_mask(full, -5), full)
    assert torch.equal(feather_mask(full, 8, "inside"), full)
    assert torch.equal(grow_mask(torch.zeros(1, 9, 9), 5), torch.zeros(1, 9, 9))


def test_zero_pixels_change_nothing():
    mask = disc(20)[None]
    assert grow_mask(mask, 0) is mask and feather_mask(mask, 0) is mask


@pytest.mark.parametrize("pixels", [3.0, 12.0, 45.0])
def test_inside_feather_reaches_zero_at_the_border_and_never_exceeds(pixels):
    mask, distance = disc(50), disc_distance(50)
    soft = feather_mask(mask, pixels, "inside")
    assert bool((soft <= mask).all()) and bool((soft[distance > 0.75] == 0).all())
    assert soft[distance.abs() < 0.5].max() < 0.2 if pixels < 6 else soft[distance.abs() < 0.5].max() < 0.01
    assert soft[distance < -pixels - 1].min() > 0.999
    middle = (distance + pixels / 2).abs() < 0.5
    assert soft[middle].mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("pixels", [4.0, 16.0, 40.0])
def test_feather_on_both_sides_is_half_on_the_border(pixels):
    distance = disc_distance(38)
    soft = feather_mask(disc(38)[None], pixels)[0]
    assert soft[distance.abs() < 0.3].mean() == pytest.approx(0.5, abs=0.03)
    assert soft[distance > pixels / 2 + 1].max() < 1e-3 and soft[distance < -pixels / 2 - 1].min() > 0.999
    order = distance.flatten().argsort()
    assert float(soft.flatten()[order].diff().max()) < 1.2 / pixels * 1.5


def test_feathering_a_thin_line_keeps_it():
    line = torch.zeros(1, 40, 40)
    line[:, 18:22] = 1
    assert 0.01 < float(feather_mask(line, 12, "inside").max()) < 0.3


def test_unknown_side_and_negative_feather_are_errors():
    with pytest.raises(FaceLoomError, match="outside"):
        feather_mask(disc(9), 3, "outside")
    with pytest.raises(FaceLoomError, match="from 0 to 16384, not -3"):
        feather_mask(disc(9), -3)


@pytest.mark.parametrize("shape", [(30, 40), (1, 30, 40), (3, 30, 40), (3, 1, 30, 40), (3, 30, 40, 1), (1, 1, 30, 40), (1, 30, 40, 1)])
def test_every_mask_form_fits(shape):
    ramp = torch.linspace(0, 1, 40).expand(30, 40)
    mask = ramp.reshape(30, 40, 1) if shape[-1] == 1 else ramp
    fitted = fit_mask(mask.expand(shape), 3, 60, 80)
    assert tuple(fitted.shape) == (3, 60, 80) and fitted.dtype == torch.float32
    assert (fitted - torch.linspace(0, 1, 80)).abs().max() < 0.02


def test_fitting_the_same_size_keeps_values_and_types_are_converted():
    mask = torch.rand(2, 8, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fit_mask(mask, 2, 8, 9), mask)
    assert torch.equal(fit_mask(mask > 0.5, 2, 8, 9), (mask > 0.5).float())
    assert torch.allclose(fit_mask((mask * 255).round().to(torch.uint8), 2, 8, 9), mask, atol=0.5 / 255)
    assert fit_mask(mask.half() * 3 - 1, 2, 8, 9).aminmax() == (0.0, 1.0)


def test_shrinking_a_mask_averages():
    checks = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    assert (fit_mask(checks.float(), 1, 8, 8) - 0.5).abs().max() < 0.05


def test_loadimages_placeholder_is_empty_whatever_its_batch():
    placeholder = torch.zeros(2, 64, 64)
    assert is_placeholder(placeholder) and not is_placeholder(torch.ones(1, 64, 64)) and not is_placeholder(torch.zeros(1, 65, 64))
    assert torch.equal(fit_mask(placeholder, 5, 20, 10), torch.zeros(5, 20, 10))


@pytest.mark.parametrize(("mask", "words"), [
    (torch.full((1, 8, 8), float("nan")), "NaN"), (torch.ones(2, 8, 8), "2 pictures but 3"), (torch.ones(1, 8, 8, 3), "Image to Mask"),
    (torch.ones(8), "Image to Mask"), (torch.ones(1, 0, 8), "Image to Mask"),
])  # fmt: skip
def test_wrong_masks_are_errors(mask, words):
    with pytest.raises(FaceLoomError, match=words):
        fit_mask(mask, 3, 8, 8)


@pytest.mark.parametrize("shift", [(-6, 0), (6, 3), (0, -7.25), (4.5, 9), (-30, 0), (0, 40)])
def test_a_polygon_partly_outside_is_cut_exactly(shift):
    """The window that is looked at is cut by the picture's border; the same pixels of a larger picture say what has to be there."""
    polygon = np.array([[3.2, 2.1], [14.7, 4.4], [12.3, 15.8], [1.4, 11.9]]) + shift
    wide = polygon_mask(polygon + 40, 97, 98)
    assert torch.allclose(polygon_mask(polygon, 17, 18), wide[40:57, 40:58], atol=1e-7)


def test_extent():
    mask = torch.zeros(7, 11)
    assert nonzero_bounds(mask) is None
    mask[2, 9] = mask[5, 3] = 1e-9
    assert nonzero_bounds(mask) == (3, 2, 10, 6)


def test_a_ramp_never_passes_1():
    """Rounding took the polynomial to 1.000001, and what a gamma node made of it to NaN."""
    mask = torch.rand(1, 400, 400, generator=torch.Generator().manual_seed(0)).lt(0.0003).float()
    mask = grow_mask(torch.nn.functional.max_pool2d(mask, 81, 1, 40), 3.3)
    for pixels in (3, 17.7, 40):
        soft = feather_mask(mask, pixels)
        assert float(soft.max()) == 1 and float(soft.min()) >= 0
