"""Restore without a model: measured sharpness and grain of the crop, once pasted, are the photograph's."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_faces, crop_matrices
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces, keypoints_from_68
from faceloom.models.parse import MaskEdge, region_mask
from faceloom.models.parse.landmarks import mean_points68
from faceloom.models.pixels.affine import invert, scale_of
from faceloom.models.pixels.sampling import warp
from faceloom.models.restore import restore_crops
from faceloom.models.restore.noise import blur as blurred
from faceloom.models.restore.noise import measure_noise
from faceloom.models.restore.sharpness import edge_width
from PIL import Image

EDGE = 300


@lru_cache
def scene(blur: float, seed: int = 0, size: int = EDGE) -> torch.Tensor:
    """``[size, size, 3]``: flat discs of random colour with edges of exactly this Gaussian blur."""
    random = torch.Generator().manual_seed(seed)
    ys, xs = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    picture = torch.full((3, size, size), 0.45)
    for _ in range(45):
        x, y, radius = (torch.rand(3, generator=random) * torch.tensor([size, size, 28.0])).tolist()
        color = torch.rand((3, 1, 1), generator=random) * 0.6 + 0.2
        picture = torch.where(torch.hypot(xs - x, ys - y) < radius + 8, color, picture)
    return blurred(picture, blur).movedim(0, -1)


def white(sigma: float, seed: int = 3, size: int = EDGE) -> torch.Tensor:
    return sigma * torch.randn((size, size, 3), generator=torch.Generator().manual_seed(seed))


def one_face(angle: float = 0, edge: float = 240) -> Faces:
    turn = np.deg2rad(angle)
    points = (mean_points68() - 0.5) * edge
    points = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + EDGE / 2
    return Faces((Face(0, [*points.min(0), *points.max(0)], keypoints_from_68(points), points68=points),), 1, EDGE, EDGE)


def on_photo(crop: torch.Tensor, faces: Faces) -> tuple[torch.Tensor, torch.Tensor]:
    """The crop on the photograph's pixels, and where its face is."""
    back = invert(crop_matrices(faces, crop.shape[0])[0])
    mask = region_mask(("face",), crop.shape[0], faces=faces, edge=MaskEdge(grow=-4))[0]
    return warp(crop, back, EDGE, EDGE), warp(mask[..., None], back, EDGE, EDGE, "zeros")[..., 0] > 0.5


def deviation(picture: torch.Tensor, where: torch.Tensor) -> np.ndarray:
    return np.sqrt(measure_noise(picture, where).variance)


@pytest.mark.parametrize("sigma", [0.01, 0.03])
def test_measured_noise_is_the_noise_that_was_added(sigma):
    noise = white(sigma)
    everywhere = torch.ones(EDGE, EDGE, dtype=torch.bool)
    pure, textured = deviation(0.5 + noise, everywhere), deviation(scene(1.0) + noise, everywhere)
    fine = noise - blurred(noise.movedim(-1, 0), 0.6).movedim(0, -1)
    assert pure[0] == pytest.approx(np.full(3, float(fine.std())), rel=0.06)
    assert textured == pytest.approx(pure, rel=0.12)
    assert (deviation(scene(1.0), everywhere) < 0.3 / 255).all()


def test_noise_by_colour_and_blur_is_told_apart():
    everywhere = torch.ones(EDGE, EDGE, dtype=torch.bool)
    grey = white(0.03)[..., :1].expand(-1, -1, 3)
    light, *color = deviation(0.5 + grey, everywhere)[0]
    assert light > 0.02 and max(color) < 1e-5
    soft = deviation(0.5 + blurred(white(0.06).movedim(-1, 0), 0.9).movedim(0, -1), everywhere)[:, 0]
    bare = deviation(0.5 + white(0.03), everywhere)[:, 0]
    assert soft[1] / soft[0] > 2 * bare[1] / bare[0]


@pytest.mark.parametrize("blur", [1.0, 1.4, 2.0, 2.6])
def test_edge_width_is_the_blur(blur):
    everywhere = torch.ones(EDGE, EDGE, dtype=torch.bool)
    assert edge_width(scene(blur), everywhere) == pytest.approx(blur, rel=0.15)
    low = scene(blur) * 0.5 + 0.2
    assert edge_width(low, everywhere) == pytest.approx(edge_width(scene(blur), everywhere), rel=0.1)


def test_too_little_to_measure_is_none():
    nowhere = torch.zeros(EDGE, EDGE, dtype=torch.bool)
    assert edge_width(scene(1), nowhere) is None and measure_noise(scene(1), nowhere) is None
    tiny = torch.rand(9, 9, 3)
    assert edge_width(tiny, torch.ones(9, 9, dtype=torch.bool)) is None and measure_noise(tiny, torch.ones(9, 9, dtype=torch.bool)) is None
    assert edge_width(torch.full((64, 64, 3), 0.5), torch.ones(64, 64, dtype=torch.bool)) is None


@pytest.mark.parametrize(("size", "angle"), [(240, 0), (400, 0), (400, 25), (512, -70)])
def test_grain_of_a_clean_crop_becomes_the_photographs(size, angle):
    faces = one_face(angle)
    photo = (scene(1.2) + white(0.025)).clamp(0, 1)
    crop = crop_faces(scene(1.2, seed=7)[None], faces, size)
    restored = restore_crops(crop, images=photo[None], faces=faces)
    (before, where), (after, _) = on_photo(crop[0], faces), on_photo(restored[0], faces)
    wanted = deviation(photo, where)
    assert (deviation(before, where) < 0.06 * wanted.max()).all()
    assert deviation(after, where) == pytest.approx(wanted, rel=0.2)
    assert abs(float((after - before)[where].mean())) < 0.002
    assert scale_of(crop_matrices(faces, size))[0] == pytest.approx(size / 240, rel=0.01)


def test_a_crop_coarser_than_the_photograph_is_not_given_blotches():
    faces = one_face()
    photo = (scene(1.2) + white(0.025)).clamp(0, 1)
    crop = crop_faces(scene(1.2, seed=7)[None], faces, 120)
    after, where = on_photo(restore_crops(crop, images=photo[None], faces=faces)[0], faces)
    assert (deviation(after, where)[1:] < 1.1 * deviation(photo, where)[1:]).all()


def test_soft_and_grey_grain_is_copied_as_such():
    faces = one_face()
    grain = blurred(white(0.06)[..., 0][None], 0.8)[0][..., None]
    photo = (scene(1.2) + grain).clamp(0, 1)
    crop = crop_faces(scene(1.2, seed=7)[None], faces, 400)
    after, where = on_photo(restore_crops(crop, images=photo[None], faces=faces)[0], faces)
    wanted, got = deviation(photo, where), deviation(after, where)
    assert got[:, 0] == pytest.approx(wanted[:, 0], rel=0.2) and got[:, 1:].max() < 0.1 * wanted[:, 0].max()


def test_grain_follows_lightness():
    faces = one_face()
    step = torch.where(torch.arange(EDGE)[:, None, None] < EDGE // 2, 0.25, 0.75).expand(EDGE, EDGE, 3)
    photo = (step + white(1.0) * (step * 0.05)).clamp(0, 1)
    after, where = on_photo(restore_crops(crop_faces(step[None], faces, 300), images=photo[None], faces=faces)[0], faces)
    rows = torch.arange(EDGE)[:, None]
    dark, bright = (float((after - step)[where & half].std()) for half in (rows < EDGE // 2 - 8, rows > EDGE // 2 + 8))
    assert 1.6 < bright / dark < 4


@pytest.mark.parametrize(("photo_blur", "crop_blur", "sigma"), [(2.0, 0.8, 0), (1.5, 0.7, 0.015), (1.0, 1.7, 0), (1.1, 1.8, 0.015)])
def test_sharpness_becomes_the_photographs(photo_blur, crop_blur, sigma):
    faces = one_face()
    photo = (scene(photo_blur) + white(sigma)).clamp(0, 1)
    crop = crop_faces(scene(crop_blur, seed=7)[None], faces, 400)
    restored = restore_crops(crop, images=photo[None], faces=faces)
    (before, where), (after, _) = on_photo(crop[0], faces), on_photo(restored[0], faces)
    wanted = edge_width(photo, where)
    start, end = edge_width(before, where), edge_width(after, where)
    assert abs(np.log(end / wanted)) < 0.25 < abs(np.log(start / wanted))


def test_sharpening_makes_no_halo():
    faces = one_face()
    crop = crop_faces(scene(2.2, seed=7)[None], faces, 400)
    restored = restore_crops(crop, images=scene(0.7)[None], faces=faces)
    assert float((restored - crop).abs().max()) > 0.04
    reach = 13
    high = torch.nn.functional.max_pool2d(crop.movedim(-1, 1), reach, 1, reach // 2).movedim(1, -1)
    low = -torch.nn.functional.max_pool2d(-crop.movedim(-1, 1), reach, 1, reach // 2).movedim(1, -1)
    assert bool((restored <= high + 1e-5).all()) and bool((restored >= low - 1e-5).all())


@pytest.mark.parametrize("size", [200, 400])
def test_a_clean_photograph_of_equal_sharpness_changes_nothing(size):
    faces = one_face(12)
    crop = crop_faces(scene(1.4, seed=7)[None], faces, size)
    assert float((restore_crops(crop, images=scene(1.4)[None], faces=faces) - crop).abs().max()) < 1 / 255


def test_the_photographs_own_crop_gets_back_the_grain_that_resampling_took(collins):
    points = mean_points68() * 165 + (138, 25)
    faces = Faces((Face(0, [*points.min(0), *points.max(0)], keypoints_from_68(points), points68=points),), 1, 512, 512)
    noisy = (collins + 0.03 * torch.randn(collins.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    crop = crop_faces(noisy, faces, 330)
    restored = restore_crops(crop, images=noisy, faces=faces)
    back = invert(crop_matrices(faces, 330)[0])
    where = warp(region_mask(("face",), 330, faces=faces)[0][..., None], back, 512, 512, "zeros")[..., 0] > 0.5
    pictures = (noisy[0], warp(crop[0], back, 512, 512), warp(restored[0], back, 512, 512))
    wanted, before, after = (deviation(picture, where) for picture in pictures)
    assert (before[0, 1:] < 0.85 * wanted[0, 1:]).all()
    assert after[0, 1:] == pytest.approx(wanted[0, 1:], rel=0.15) and (after[:2] < 1.3 * wanted[:2]).all()


def test_jpeg_grain_on_a_portrait(hopper, collins):
    noisy = (hopper + 0.05 * torch.randn(hopper.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    buffer = io.BytesIO()
    Image.fromarray((noisy[0] * 255).round().byte().numpy()).save(buffer, "JPEG", quality=50)
    photo = torch.from_numpy(np.asarray(Image.open(buffer), np.float32) / 255)[None]
    points = mean_points68() * 345 + (103, 65)
    faces = Faces((Face(0, [*points.min(0), *points.max(0)], keypoints_from_68(points), points68=points),), 1, 600, 512)
    smooth = blurred(collins[0, 40:200, 140:300].movedim(-1, 0), 1.0)
    crop = torch.nn.functional.interpolate(smooth[None], size=(384, 384), mode="bicubic").movedim(1, -1).clamp(0, 1)
    restored = restore_crops(crop, images=photo, faces=faces)
    back = invert(crop_matrices(faces, 384)[0])
    where = warp(region_mask(("face",), 384, faces=faces)[0][..., None], back, 600, 512, "zeros")[..., 0] > 0.5
    wanted = deviation(photo[0], torch.ones(600, 512, dtype=torch.bool))
    before, after = (deviation(warp(picture[0], back, 600, 512), where) for picture in (crop, restored))
    assert before[0, 0] < 0.3 * wanted[0, 0] and after[0, 0] == pytest.approx(wanted[0, 0], rel=0.35)
    assert after[0, 1:].max() < 0.35 * after[0, 0]


def test_amount_scales_the_change_and_zero_is_identity():
    faces = one_face()
    photo = (scene(1.2) + white(0.02)).clamp(0, 1)[None]
    crop = crop_faces(scene(1.2, seed=7)[None], faces, 240)
    assert restore_crops(crop, images=photo, faces=faces, amount=0) is crop
    half, full = (restore_crops(crop, images=photo, faces=faces, amount=a) - crop for a in (0.5, 1.0))
    assert float(full.abs().max()) > 0.02 and torch.allclose(half, full / 2, atol=2e-3)
    assert torch.equal(full, restore_crops(crop, images=photo, faces=faces) - crop)


def test_only_masked_pixels_of_masked_faces_change():
    faces = one_face()
    faces = Faces((faces[0], faces[0]), 1, EDGE, EDGE)
    photo = (scene(1.2) + white(0.02)).clamp(0, 1)[None]
    crops = crop_faces(scene(1.2, seed=7)[None], faces, 240)
    masks = torch.zeros(2, 240, 240)
    masks[0, 60:200, 60:180] = 1
    before = crops.clone()
    restored = restore_crops(crops, images=photo, faces=faces, masks=masks)
    assert torch.equal(crops, before) and torch.equal(restored[1], crops[1])
    assert torch.equal(restored[0][masks[0] == 0], crops[0][masks[0] == 0])
    assert float((restored[0] - crops[0])[masks[0] == 1].std()) > 0.01


def test_a_face_half_outside_the_photograph_and_a_tiny_one():
    faces = one_face()
    shift = np.array([[-150.0, -120.0]], np.float32)
    out = Face(0, faces[0].box, faces[0].keypoints + shift, points68=faces[0].points68 + shift)
    tiny = Face(0, [0, 0, 9, 9], faces[0].keypoints / 30, points68=faces[0].points68 / 30)
    photo = (scene(1.2) + white(0.02)).clamp(0, 1)[None]
    pair = Faces((out, tiny), 1, EDGE, EDGE)
    crops = crop_faces(scene(1.2, seed=7)[None], pair, 128)
    restored = restore_crops(crops, images=photo, faces=pair)
    assert bool(torch.isfinite(restored).all()) and float(restored.min()) >= 0 and float(restored.max()) <= 1


class Brighten:
    """A network that doubles the size and knows one trick."""

    name = "brighten"

    def restore(self, crops, fidelity, progress=None, points=None):
        larger = torch.nn.functional.interpolate(crops.movedim(-1, 1), scale_factor=2, mode="nearest").movedim(1, -1)
        return (larger + (1 - fidelity)).clamp(0, 1)


def test_a_network_is_mixed_in_by_amount_and_mask():
    crops = torch.full((2, 32, 32, 3), 0.2)
    assert torch.allclose(restore_crops(crops, restorer=Brighten(), fidelity=0.5), torch.tensor(0.7), atol=1e-5)
    mask = torch.zeros(1, 32, 32)
    mask[:, :16] = 1
    mixed = restore_crops(crops, restorer=Brighten(), fidelity=0.75, amount=0.5, masks=mask)
    assert torch.allclose(mixed[:, :16], torch.tensor(0.325), atol=1e-5) and torch.equal(mixed[:, 16:], crops[:, 16:])
    same = restore_crops(crops, restorer=type("Same", (), {"restore": lambda self, crops, *how: crops})())
    assert torch.equal(same, crops)


def test_errors_say_what_to_do():
    faces = one_face()
    crops = torch.zeros(1, 32, 32, 3)
    with pytest.raises(FaceLoomError, match="connect the image and the faces"):
        restore_crops(crops)
    with pytest.raises(FaceLoomError, match="2 crops but 1 faces"):
        restore_crops(crops.expand(2, -1, -1, -1), images=torch.zeros(1, EDGE, EDGE, 3), faces=faces)
    with pytest.raises(FaceLoomError, match="connect the image that went into Face Detect"):
        restore_crops(crops, images=torch.zeros(1, 20, 20, 3), faces=faces)
    with pytest.raises(FaceLoomError, match="Amount must be from 0 to 1"):
        restore_crops(crops, amount=1.5)
    empty = Faces((), 1, EDGE, EDGE)
    assert restore_crops(crops, images=torch.zeros(1, EDGE, EDGE, 3), faces=empty) is crops
