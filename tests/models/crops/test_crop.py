"""Alignment and sampling against closed forms."""

from __future__ import annotations

import weakref
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_faces, crop_matrices, crop_matrix, cut_crops, face_windows, find_cut_crop
from faceloom.models.crops.templates import TEMPLATES, template_matrix
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces
from faceloom.models.pixels import sampling
from faceloom.models.pixels.affine import bounds, compose, invert, scale_of, similarity, transform
from faceloom.models.pixels.sampling import lattice, sample_crops, warp
from faceloom.models.pixels.tensors import as_images
from hypothesis import given, settings
from hypothesis import strategies as st


def turned(scale: float, angle: float, center: tuple[float, float], size: int) -> np.ndarray:
    """Image → crop: ``scale`` crop pixels per image pixel, ``center`` in the crop's middle."""
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    linear = np.array([[c, -s], [s, c]])
    return np.c_[linear, (size - 1) / 2 - linear @ center]


def waves(height: int, width: int, period: float) -> torch.Tensor:
    y, x = np.mgrid[:height, :width]
    planes = [np.sin(2 * np.pi * (x * a + y * b) / period) for a, b in ((0.8, 0.6), (0.6, -0.8), (0.1, 0.99))]
    return torch.from_numpy((0.5 + 0.4 * np.stack(planes, -1)).astype(np.float32))


@settings(max_examples=50, deadline=None)
@given(st.floats(0.05, 20), st.floats(-3.1, 3.1), st.floats(-5e3, 5e3), st.floats(-5e3, 5e3))
def test_similarity_recovers_the_transform_exactly(scale, angle, x, y):
    source = TEMPLATES["ffhq_512"] * 300
    matrix = turned(scale, angle, (x, y), 64)
    found = similarity(source, transform(source, matrix))
    assert np.abs(found - matrix).max() < 1e-7 * max(1, np.abs(matrix).max())


def test_similarity_is_the_least_squares_answer():
    generator = np.random.default_rng(0)
    source, target = generator.normal(size=(5, 2)) * 50, generator.normal(size=(5, 2)) * 20
    target += source * 0.4
    x, y = source.T
    rows = np.r_[np.c_[x, -y, np.ones(5), np.zeros(5)], np.c_[y, x, np.zeros(5), np.ones(5)]]
    a, b, shift_x, shift_y = np.linalg.lstsq(rows, target.T.ravel(), rcond=None)[0]
    assert np.allclose(similarity(source, target), [[a, -b, shift_x], [b, a, shift_y]], atol=1e-10)


def test_similarity_never_mirrors():
    mirrored = TEMPLATES["ffhq_512"] * (-1, 1)
    linear = similarity(TEMPLATES["ffhq_512"], mirrored)[:, :2]
    assert np.linalg.det(linear) > 0


@pytest.mark.parametrize("points", [np.full((5, 2), 7.0), np.full((5, 2), np.nan), TEMPLATES["ffhq_512"] * np.inf])
def test_points_that_fix_nothing_are_an_error(points):
    with np.errstate(invalid="ignore"), pytest.raises(FaceLoomError, match="keypoints"):
        crop_matrix(points, 512)


def test_points_on_a_line_still_give_a_crop():
    points = np.array([[10, 10], [50, 10], [30, 10], [15, 10], [45, 10]], float)
    matrix = crop_matrix(points, 128)
    assert np.isfinite(matrix).all() and 0.1 < scale_of(matrix) < 10


def test_templates_agree_with_each_other():
    assert np.abs((TEMPLATES["arcface_112_v2"] * 112 + (8, 0)) / 128 - TEMPLATES["arcface_128"]).max() < 1e-8
    eyes = {name: np.linalg.norm(points[1] - points[0]) for name, points in TEMPLATES.items()}
    expected = {"arcface_112_v1": .2905, "arcface_112_v2": .3146, "arcface_128": .2753, "dfl_whole_face": .2746, "ffhq_512": .2459,
                "mtcnn_512": .2674, "styleganex_384": .1537}
    assert eyes.keys() == expected.keys()
    assert all(abs(eyes[name] - value) < 6e-5 for name, value in expected.items())


def test_template_matrix_puts_the_keypoints_on_the_template():
    keypoints = transform(TEMPLATES["arcface_112_v2"] * 112, turned(2.5, 0.4, (30, 80), 200))
    assert np.allclose(transform(keypoints, template_matrix(keypoints, "arcface_112_v2", 112)), TEMPLATES["arcface_112_v2"] * 112)


def test_crops_of_all_sizes_show_the_same_square():
    keypoints = TEMPLATES["ffhq_512"] * 200 + 31
    corners = [transform([[-.5, -.5], [size - .5, size - .5]], invert(crop_matrix(keypoints, size, 1.3))) for size in (64, 512, 999)]
    assert np.allclose(corners[0], corners[1]) and np.allclose(corners[0], corners[2])


def test_framing_takes_in_more_of_the_picture():
    keypoints = TEMPLATES["ffhq_512"] * 200
    assert np.isclose(scale_of(crop_matrix(keypoints, 512, 1.25)) * 1.25, scale_of(crop_matrix(keypoints, 512, 1.0)))
    middle = [transform([[255.5, 255.5]], invert(crop_matrix(keypoints, 512, framing))) for framing in (1, 2)]
    assert np.allclose(middle[0], middle[1])


def test_invert_and_compose():
    first, second = turned(1.7, 0.3, (5, 9), 40), turned(0.2, -1.0, (50, 3), 90)
    assert np.allclose(compose(invert(first), first), [[1, 0, 0], [0, 1, 0]])
    points = np.random.default_rng(1).normal(size=(7, 2))
    assert np.allclose(transform(transform(points, first), second), transform(points, compose(second, first)))


def test_identity_warp_is_exact(collins):
    out = warp(collins[0], np.array([[1, 0, -100], [0, 1, -50]]), 200, 300)
    assert (out - collins[0, 50:250, 100:400]).abs().max() < 2e-4


@pytest.mark.parametrize("angle", [0.0, 0.35])
@pytest.mark.parametrize("shrink", [2, 3.3, 5, 7.7])
def test_shrinking_noise_leaves_what_an_area_filter_leaves(shrink, angle):
    """A box as wide as a crop pixel divides white noise by the shrink factor; aliasing would leave all of it (std 73.6 of 255)."""
    noise = torch.rand(1600, 1600, 3, generator=torch.Generator().manual_seed(0))
    out = warp(noise, turned(1 / shrink, angle, (800.3, 799.6), 128), 128, 128)
    assert 0.88 < float(out.std()) / (noise.std() / shrink) < 1.1
    assert abs(float(out.mean() - noise.mean())) < 0.004


def test_zone_plate_shrinks_without_moire():
    """Rings beyond what the crop can show must melt into grey; point sampling keeps them at full contrast."""
    y, x = np.mgrid[-400:400, -400:400].astype(np.float64)
    squared = x**2 + y**2
    plate = torch.from_numpy((0.5 + 0.5 * np.cos(np.pi * squared / 800)).astype(np.float32))[..., None]
    out = warp(plate, turned(1 / 4, 0.2, (400, 400), 200), 200, 200)[..., 0]
    radius = np.hypot(*(np.mgrid[:200, :200] - 99.5)) * 4
    too_fine = torch.from_numpy((radius > 250) & (radius < 390))  # frequency r / 800 > 2.5 times the crop's limit of 1 / 8
    assert float(out[too_fine].std()) < 0.06  # a box leaves 0.045 here, point sampling 0.35
    coarse = torch.from_numpy(radius < 30)
    assert float(out[coarse].max()) > 0.9 and float(out[coarse].min()) < 0.15


@pytest.mark.parametrize("scale", [0.13, 0.3, 0.5, 0.79, 0.81, 1.0, 1.9, 4.0])
def test_a_flat_picture_stays_flat(scale):
    out = warp(torch.full((300, 301, 3), 0.37), turned(scale, 0.7, (10, 290), 64), 64, 64)
    assert (out - 0.37).abs().max() < 1e-6


@pytest.mark.parametrize("scale", [0.2, 0.45, 1.0])
def test_crop_is_the_area_mean_of_the_crop_twice_its_size(scale):
    image = waves(700, 700, 60)
    small = warp(image, turned(scale, 0.3, (350, 350), 100), 100, 100)
    large = warp(image, turned(2 * scale, 0.3, (350, 350), 200), 200, 200)
    assert (small - large.reshape(100, 2, 100, 2, 3).mean((1, 3))).abs().max() < 2.5 / 255


@pytest.mark.parametrize("scale", [0.12, 0.24, 0.5, 1.0, 2.5])
def test_shrinking_does_not_shift(scale):
    """The centre of mass of a blob lands where the matrix says."""
    y, x = np.mgrid[:600, :600]
    blob = torch.from_numpy(np.exp(-((x - 301.3) ** 2 + (y - 297.8) ** 2) / (2 * 30**2)).astype(np.float32))[..., None]
    matrix = turned(scale, 0.5, (300, 300), round(500 * scale))
    out = warp(blob, matrix, round(500 * scale), round(500 * scale))[..., 0].double().numpy()
    rows, columns = np.mgrid[:out.shape[0], :out.shape[1]]
    center = np.array([(columns * out).sum(), (rows * out).sum()]) / out.sum()
    assert np.abs(center - transform([[301.3, 297.8]], matrix)[0]).max() < 0.02


@pytest.mark.parametrize("scale", [2.0, 3.3, 6.0])
def test_a_smooth_picture_is_magnified_exactly(scale):
    """Waves of 31 and 22 pixels; a bicubic look-up is 1.4 levels beside them, a bilinear one 0.5."""
    def picture(x, y):
        return (0.5 + 0.4 * np.stack([np.sin(x / 5), np.cos((x + y) / 7), np.sin(y / 5)], -1)).astype(np.float32)

    matrix = turned(scale, 0.3, (60.3, 49.6), 150)
    y, x = np.mgrid[:100, :120]
    out = warp(torch.from_numpy(picture(x, y)), matrix, 150, 150).numpy()
    rows, columns = np.mgrid[:150, :150]
    there = transform(np.stack([columns, rows], -1).reshape(-1, 2), invert(matrix)).reshape(150, 150, 2)
    inside = ((there > 4) & (there < (115, 95))).all(-1)
    assert inside.sum() > 10000 and np.abs(out - picture(there[..., 0], there[..., 1]))[inside].max() < 0.15 / 255


def test_reads_only_its_region():
    """A frame of which only one corner exists in memory: everything else would be NaN in the crop."""
    image = torch.full((2000, 2000, 3), torch.nan)
    image[900:1100, 900:1100] = 0.5
    assert torch.equal(warp(image, turned(1, 0.5, (1000, 1000), 100), 100, 100).isnan().any(), torch.tensor(False))


def test_border_repeats_outside():
    image = waves(40, 40, 23)
    out = warp(image, np.array([[1, 0, 30.0], [0, 1, 0]]), 40, 60)
    assert (out[:, :28] - image[:, :1]).abs().max() < 1e-4
    zeros = warp(image, np.array([[1, 0, 30.0], [0, 1, 0]]), 40, 60, padding="zeros")
    assert zeros[:, :27].abs().max() == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3)])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_tiny_images(shape, scale):
    out = warp(torch.full((*shape, 3), 0.25), turned(scale, 0.2, (0, 0), 16), 16, 16)
    assert out.shape == (16, 16, 3) and (out - 0.25).abs().max() < 1e-6


def test_crop_far_outside_the_frame_is_its_border():
    image = waves(30, 30, 11)
    for x, y, pixel in ((-500, -500, image[0, 0]), (900, 15, image[15, -1])):
        assert (warp(image, turned(1, 0, (x, y), 9), 9, 9)[4, 4] - pixel).abs().max() < 1e-4


def test_lattice_gives_the_same_values_as_the_whole_crop(collins):
    for scale in (0.3, 0.6, 1.4, 2.0, 5.0):
        matrix = turned(scale, 0.2, (250, 130), 200)
        points = torch.from_numpy(lattice(200, 200 / 32)).long()
        whole = warp(collins[0], matrix, 200, 200)
        assert len(points) == 32 and torch.equal(points, points.unique())
        assert (warp(collins[0], matrix, 200, 200, step=200 / 32) - whole[points][:, points]).abs().max() < 2e-6


def faces_at(*keypoints: np.ndarray, frames=1, height=512, width=512, frame_of=None, **kwargs) -> Faces:
    items = tuple(Face(frame_of[i] if frame_of else 0, [*k.min(0), *k.max(0)], k) for i, k in enumerate(keypoints))
    return Faces(items, frames, height, width, **kwargs)


def test_crop_faces_of_many_faces_and_frames(collins, hopper):
    images = torch.stack([collins[0], hopper[0, :512]])
    first, second = TEMPLATES["ffhq_512"] * 160 + (140, 30), TEMPLATES["ffhq_512"] * 250 + (130, 60)
    faces = faces_at(first, second, first, frames=2, frame_of=[0, 1, 1], crop_size=96)
    crops = crop_faces(images, faces)
    assert crops.shape == (3, 96, 96, 3) and crops.dtype == torch.float32
    for i, frame in enumerate((0, 1, 1)):
        assert torch.equal(crops[i:i + 1], sample_crops(images, [frame], crop_matrices(faces)[i:i + 1], 96))
    assert (crops[0] - crops[2]).abs().mean() > 0.05
    assert crop_faces(images, faces, 32).shape == (3, 32, 32, 3)
    assert crop_faces(images, faces_at(frames=2)).shape == (0, 512, 512, 3)


def test_channels_and_types(collins):
    faces = faces_at(TEMPLATES["ffhq_512"] * 160 + (140, 30), crop_size=64)
    reference = crop_faces(collins, faces)
    half = crop_faces(as_images(collins.half()), faces)
    assert half.dtype == torch.float32 and (half - reference).abs().max() < 1e-3
    assert torch.equal(crop_faces(as_images(torch.cat([collins, torch.rand(1, 512, 512, 1)], -1)), faces), reference)
    grey = crop_faces(as_images(collins[..., :1]), faces)
    assert grey.shape == (1, 64, 64, 3) and torch.equal(grey[..., 0], grey[..., 2])
    assert (grey[..., 0] - reference[..., 0]).abs().max() < 1e-6
    for odd in (collins.half(), collins[..., :1], collins[0]):
        with pytest.raises(FaceLoomError, match="as_images"):
            crop_faces(odd, faces)


def test_faces_of_another_image_are_an_error(collins):
    with pytest.raises(FaceLoomError, match="Face Detect"):
        crop_faces(collins[:, :500], faces_at(TEMPLATES["ffhq_512"] * 160))


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("height", [64, 97, 131, 200])
def test_rows_dealt_to_threads_are_the_whole_to_the_last_bit(threads, height):
    image = torch.rand((90, 120, 3), generator=torch.Generator().manual_seed(3))
    matrix = np.array([[1.7, 0.1, -20.0], [-0.1, 1.7, -10.0]])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        dealt = sampling.warp(image, matrix, height, 70)
    finally:
        torch.set_num_threads(before)
    region, to_region = sampling.read_region(image, invert(matrix), height, 70)
    grid = sampling.sampling_grid(to_region, height, 70, *region.shape[2:])
    whole = torch.nn.functional.grid_sample(region, grid.contiguous(), mode="bicubic", padding_mode="border", align_corners=False)
    assert dealt.shape == (height, 70, 3) and torch.equal(dealt, whole[0].permute(1, 2, 0))


def test_a_grid_of_several_matrices_and_of_a_lattice():
    matrices = np.array([[[1.5, 0.25, 3.0], [-0.25, 1.5, 7.0]], [[0.5, 0.0, 1.0], [0.0, 0.5, 2.0]]])
    grid = sampling.sampling_grid(matrices, 40, 60, 100, 200)
    points = transform(np.array([[13.0, 21.0]]), matrices)[:, 0]
    assert grid.shape == (2, 40, 60, 2)
    assert np.allclose(grid[:, 21, 13].numpy(), (points + 0.5) * 2 / (200, 100) - 1, atol=1e-6)
    few = sampling.sampling_grid(matrices, 40, 60, 100, 200, step=8)
    assert torch.equal(few, grid[:, 4::8, 4::8])


def test_face_windows_are_one_rectangle_per_frame_with_faces():
    """A crop of 60 pixels at (30, 20), twice as wide about its middle, and one at the frame's edge."""
    keypoints = [TEMPLATES["ffhq_512"] * 60 - 0.5 + shift for shift in ((30, 20), (120, 20), (-50, 170))]
    faces = faces_at(*keypoints, frames=3, height=200, width=300, frame_of=[0, 0, 2])
    (first, rows, columns), (second, low, left) = face_windows(faces)
    assert (first, second) == (slice(0, 1), slice(2, 3))
    assert abs(rows.start - 0) <= 1 and abs(rows.stop - 110) <= 1 and abs(columns.start - 0) <= 1 and abs(columns.stop - 210) <= 1
    assert abs(low.start - 140) <= 1 and low.stop >= 200 and left.start == 0 and abs(left.stop - 40) <= 1
    assert face_windows(faces.take([])) == []


def test_bounds_are_those_of_the_corners():
    matrix = np.array([[0.8, -0.6, 5.0], [0.6, 0.8, -7.0]]) * 1.5
    corners = transform(np.array([[-2.0, 3], [11, 3], [-2, 8], [11, 8]]), matrix)
    assert np.allclose(bounds(matrix, -2, 3, 11, 8), [*corners.min(0), *corners.max(0)])


def test_matrices_are_kept_as_long_as_their_faces():
    """Asked for again they are the same numbers, whatever was done to the first ones, and at any size those of the single face."""
    faces = faces_at(TEMPLATES["ffhq_512"] * 60, TEMPLATES["ffhq_512"] * 90 + 7, framing=1.3)
    crop_matrices(faces, 64)[:] = 0
    assert np.allclose(crop_matrices(faces, 100), [crop_matrix(face, 100, 1.3) for face in faces], atol=1e-12)
    assert faces.unit_squares is faces.unit_squares and not faces.unit_squares.flags.writeable
    kept = weakref.ref(faces.unit_squares)
    del faces
    assert kept() is None


def test_a_face_with_a_square_of_its_own_needs_no_keypoints_that_fit():
    square = np.array([[0.01, 0, 0.1], [0, 0.01, 0.2]])
    odd = Face(0, [0, 0, 9, 9], np.zeros((5, 2)), square=square)
    faces = Faces((odd, Face(0, [0, 0, 9, 9], TEMPLATES["ffhq_512"] * 60)), 1, 100, 100)
    first, second = crop_matrices(faces, 50)
    assert np.allclose(first, square * 50 - [[0, 0, 0.5], [0, 0, 0.5]]) and np.allclose(second, crop_matrix(faces[1], 50))


def held(images, **kwargs):
    """A photograph, two faces that know their crops, as Face Detect gives them, and the crops."""
    faces = faces_at(TEMPLATES["ffhq_512"] * 160 + (140, 30), TEMPLATES["ffhq_512"] * 90 + 7, crop_size=48, **kwargs)
    return images, *cut_crops(images, faces)


def found(images, faces, index=0, size=48):
    return find_cut_crop(images, faces, index, crop_matrices(faces, size)[index], size)


def test_crops_that_are_held_are_copied_and_not_cut_again(collins, monkeypatch):
    images, faces, crops = held(collins)
    before = crops.clone()
    assert torch.equal(crops, sample_crops(images, [0, 0], crop_matrices(faces), 48))
    monkeypatch.setattr(sampling, "warp", None)
    again = crop_faces(images, faces)
    assert torch.equal(again, crops)
    again.zero_()
    assert torch.equal(crops, before), "whoever asks may write in what he gets"
    assert torch.equal(crop_faces(images, faces.take([1])), crops[1:])
    assert torch.equal(found(images, faces, 1), crops[1])


@pytest.mark.parametrize("change", ["crops let go", "another photograph", "the same pixels in other memory", "size", "crop size", "framing",
                                    "another square", "other keypoints", "another frame", "photograph let go"])
def test_crops_are_cut_anew_where_they_would_differ_or_nobody_holds_them(change, collins):
    images, faces, crops = held(torch.cat([collins, 1 - collins]), frames=2)
    size, other = 48, images
    if change == "crops let go":
        del crops
    elif change == "another photograph":
        other = 1 - images
    elif change == "the same pixels in other memory":
        other = images.clone()
    elif change == "size":
        size = 40
    elif change == "crop size":
        size, faces = 40, replace(faces, crop_size=40)
    elif change == "framing":
        faces = replace(faces, framing=1.4)
    elif change == "another square":
        faces = replace(faces, items=tuple(replace(face, square=crop_matrix(face, 1) * 1.2) for face in faces))
    elif change == "other keypoints":
        faces = replace(faces, items=tuple(replace(face, keypoints=face.keypoints + 0.25) for face in faces))
    elif change == "another frame":
        faces = replace(faces, items=tuple(replace(face, frame=1) for face in faces))
    else:
        other = images.clone()
        del images
    assert found(other, faces, size=size) is None
    assert torch.equal(crop_faces(other, faces, size), sample_crops(other, faces.frame_indices, crop_matrices(faces, size), size))


def test_every_face_finds_its_own_crop_however_the_faces_are_chosen_and_ordered(collins):
    """To the last bit: a matrix of many faces is that of the face alone."""
    images = torch.cat([collins, collins.flip(2)])
    points = [TEMPLATES["ffhq_512"] * (80 + 7 * i) + (3 * i, 11 * i) for i in range(12)]
    faces, crops = cut_crops(images, faces_at(*points, frames=2, frame_of=[i % 2 for i in range(12)], crop_size=32, framing=1.1))
    for chosen in ([5], [3, 2], list(range(11, -1, -1)), [0, 4, 8], list(range(12))):
        taken = faces.take(chosen)
        known = [found(images, taken, i, 32) for i in range(len(taken))]
        assert [crop.data_ptr() for crop in known] == [crops[i].data_ptr() for i in chosen]
    renamed = replace(faces, items=tuple(replace(face, track=3, sex="female") for face in faces))
    assert all(found(images, renamed, i, 32) is not None for i in range(12))


def test_held_and_missing_crops_together(collins):
    images, faces, crops = held(collins)
    three = faces_at(TEMPLATES["ffhq_512"] * 130 + (90, 60), crop_size=48)
    both = replace(faces, items=(faces[1], *three, faces[0]))
    assert torch.equal(crop_faces(images, both), sample_crops(images, [0] * 3, crop_matrices(both), 48))
    assert torch.equal(crop_faces(images, both)[[2, 0]], crops)


def test_faces_keep_neither_crops_nor_photograph_in_memory(collins):
    images, faces, crops = held(collins.clone())
    photograph, cut = weakref.ref(images), weakref.ref(crops)
    del images, crops
    assert photograph() is None and cut() is None and len(faces.cut.by_place) == 2


def test_what_was_cut_before_is_neither_compared_nor_printed(collins):
    _, faces, _ = held(collins)
    (field,) = (field for field in fields(faces) if field.name == "cut")
    assert not field.compare and not field.repr and "cut" not in repr(faces)
