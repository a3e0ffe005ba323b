"""REFace in this process, from a checkpoint to the pasted photograph; its networks' numbers are held by the golden vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_faces, crop_matrices
from faceloom.models.crops.squares import align_faces
from faceloom.models.detect import detect_faces
from faceloom.models.diffusion.ddim import SD_ALPHAS, DdimStep, ddim_schedule, sample_ddim
from faceloom.models.errors import FaceLoomError
from faceloom.models.parse import REGIONS
from faceloom.models.pixels.affine import invert, transform
from faceloom.models.systems.reface import (
    PUBLISHED_SIZE,
    SIZE,
    REFaceEngine,
    Settings,
    class_table,
    keep_mask,
    latent_mask,
    load_reface,
    prepare,
    published_classes,
    shrink,
    source_crop,
)
from quad_as_published import cut_squares, paste_as_published
from swap_photo import swap_photo

FEW = Settings(steps=2)


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from reface_files import SMALL_UNET, SMALL_VAE, save_reface

    path = save_reface(tmp_path_factory.mktemp("reface") / "last.ckpt")
    return load_reface(path, unet=SMALL_UNET, vae=SMALL_VAE)


class Halves:
    """A parser that calls the left half of a crop skin and the right half hair."""

    name = "halves"

    def parse(self, crops, progress=None):
        labels = torch.full(crops.shape[:3], REGIONS.index("hair"), dtype=torch.uint8)
        labels[:, :, : crops.shape[2] // 2] = REGIONS.index("skin")
        return labels


def test_ddim_finds_the_picture_again():
    """With a denoiser that knows the noise exactly, every step stays on the line between picture and noise."""
    picture, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    steps = ddim_schedule(7)
    assert [step.timestep for step in steps] == [995, 853, 711, 569, 427, 285, 143, 1]
    last = sample_ddim(lambda x, timestep: noise, steps[0].noised(picture, noise), steps)
    trace = DdimStep(0, SD_ALPHAS[0], SD_ALPHAS[0]).noised(picture, noise)
    torch.testing.assert_close(last, trace, atol=1e-4, rtol=0)


def test_a_schedule_never_leaves_the_trained_timesteps():
    for count in (1, 3, 30, 50, 999, 1000):
        times = [step.timestep for step in ddim_schedule(count)]
        assert times[-1] == 1 and max(times) <= 999 and times == sorted(set(times), reverse=True)


def test_what_is_swapped():
    table = dict(zip(REGIONS, class_table(REGIONS).tolist()))
    kept = keep_mask(published_classes(torch.arange(len(REGIONS), dtype=torch.uint8)))
    swapped = {name for name, keep in zip(REGIONS, kept.tolist()) if keep == 0}
    assert swapped == {"skin", "left_brow", "right_brow", "left_eye", "right_eye", "nose", "mouth", "upper_lip", "lower_lip", "left_ear",
                       "right_ear"}
    assert table["hat"] == table["cloth"] == table["necklace"] == 0 and table["mouth"] == 9 and table["neck"] == 8


def test_the_latent_mask_is_grey_between():
    """A cell of 8 is judged by its middle four pixels, neither filtered nor rounded."""
    keep = torch.zeros(1, 16, 16)
    keep[0, 4, 3:5], keep[0, 12:] = 1, 1
    assert latent_mask(keep)[0, 0].tolist() == [[.5, 0], [.5, .5]]


def test_shrinking_from_1024_is_the_filter_it_is_called():
    ramp = torch.linspace(0.2, 0.8, 1024)[None, :, None, None].expand(1, 1024, 1024, 3)
    small = shrink(ramp)
    assert small.shape == (1, 512, 512, 3)
    torch.testing.assert_close(small[0, 4:-4, 5, 0], (ramp[0, ::2, 5, 0] + ramp[0, 1::2, 5, 0])[4:-4] / 2, atol=1e-6, rtol=0)


def test_the_source_is_shown_without_its_surroundings(source):
    """Outside of what is swapped it is CLIP's mean colour, which is 0; inside it is the photograph."""
    half = source_crop(source, Halves())
    whole = source_crop(source)
    assert half.shape == (1, 3, 224, 224) and float(half[..., 113:].abs().max()) == 0
    outside = whole.abs().sum(1)[0]
    assert float(outside[:20, :20].max()) == 0 and float(outside[90:130, 90:130].min()) > 0


def test_what_the_denoiser_is_told(system, collins, source):
    faces = align_faces(detect_faces(collins), "FFHQ quad", SIZE)
    crops = crop_faces(collins, faces)
    told = prepare(system.conditioner, crops, faces, source, Halves())
    assert torch.equal(told.targets, crops)
    assert float(told.swapped[:, :, :256].min()) == 1 and float(told.swapped[:, :, 256:].max()) == 0
    assert torch.equal(told.masked_targets[:, :, 256:], crops[:, :, 256:]) and bool((told.masked_targets[:, :, :256] == .5).all())
    assert told.tokens.shape == (1, 1, 32) and told.unconditional.shape == (1, 1, 32)

    net = system.conditioner.model.net
    points = torch.from_numpy(transform(faces[0].points68, crop_matrices(faces)[0]).astype(np.float32))
    moved = net(source_crop(source, Halves()), crops.movedim(-1, 1) * 2 - 1, points[None] + 8)
    bias = net.landmark_proj_out(torch.full((1, 136), 8.)) - net.landmark_proj_out.bias
    torch.testing.assert_close(moved - told.tokens, bias[:, None] * .05 / 11.05, atol=1e-4, rtol=1e-4)


def swap_by_engine(system, photo, faces, source, settings, **options):
    return swap_photo(REFaceEngine(system, settings), photo, faces, source, **options)


def swap_as_published(system, photo, faces, source, settings):
    """Cut and drawn over the whole square with PIL, in 8 bits, as the authors' program does."""
    prepared = prepare(system.conditioner, cut_squares(photo, faces, PUBLISHED_SIZE), align_faces(faces, "FFHQ quad", SIZE), source)
    return paste_as_published(photo, faces, system.paint(prepared, settings))


@pytest.mark.parametrize("as_published", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_from_the_photograph_to_the_pasted_result(system, collins, source, as_published):
    faces = detect_faces(collins)
    swap = swap_as_published if as_published else swap_by_engine
    result, again = (swap(system, collins, faces, source, Settings(steps=1)) for _ in range(2))
    assert result.shape == collins.shape and torch.equal(result, again)
    changed = (result != collins).any(-1)[0]
    square = transform(np.array([[0, 0], [512, 512]]) - .5, invert(crop_matrices(align_faces(faces, "FFHQ quad"), 512)[0]))
    inside = torch.zeros_like(changed)
    inside[int(square[0, 1]) - 2 : int(square[1, 1]) + 3, int(square[0, 0]) - 60 : int(square[1, 0]) + 60] = True
    assert not (changed & ~inside).any() and .02 < float(changed.float().mean()) < (.4 if as_published else .12)


def test_the_published_square_goes_back_where_it_was_cut(group):
    """Cut and drawn over again without being painted, both squares lie within a blur of the photograph, and nothing else moves."""
    photo, faces = group
    crops = cut_squares(photo, faces, 1024)
    assert crops.shape == (2, 1024, 1024, 3)
    off = (paste_as_published(photo, faces, shrink(crops)) - photo).abs()
    assert float((off > 0).float().mean()) > .1 and float(off.mean()) < .006 and float((off > .1).float().mean()) < .002


@pytest.mark.slow
def test_a_batch_is_its_faces_one_by_one(system, group, source):
    photo, faces = group
    aligned = align_faces(faces, "FFHQ quad", SIZE)
    told = prepare(system.conditioner, crop_faces(photo, aligned), aligned, source)
    both = system.paint(told, FEW)
    for number in range(2):
        rows = slice(number, number + 1)
        one = replace(told, tokens=told.tokens[rows], targets=told.targets[rows], keep=told.keep[rows])
        torch.testing.assert_close(system.paint(one, replace(FEW, seed=number)), both[rows], atol=1e-4, rtol=0)
    assert float((both[0] - both[1]).abs().mean()) > .01


@pytest.mark.slow
def test_starting_from_the_target(system, collins, source):
    """Where all is swapped the target only comes in through the latents that sampling starts from."""
    faces = align_faces(detect_faces(collins), "FFHQ quad", SIZE)
    told = prepare(system.conditioner, crop_faces(collins, faces), faces, source)
    white, black = (replace(told, targets=torch.full_like(told.targets, value), keep=torch.zeros_like(told.keep)) for value in (1., 0.))
    assert torch.equal(white.masked_targets, black.masked_targets)
    settings = Settings(steps=1, start_from_target=True)
    assert not torch.equal(system.paint(white, settings), system.paint(black, settings))


@pytest.mark.slow
def test_progress_counts_every_step_and_may_stop(system, group, source, reports):
    seen = reports(lambda progress: swap_by_engine(system, *group, source, FEW, progress=progress))
    assert seen == [(0, 4), (2, 4), (4, 4)]  # two faces together, two steps


def test_no_face_changes_nothing(system, collins, source):
    faces = detect_faces(collins).take([])
    assert torch.equal(swap_by_engine(system, collins, faces, source, FEW), collins)
    told = prepare(system.conditioner, torch.zeros(1, 64, 64, 3), faces, source)
    assert float(told.swapped.max()) == 0 and torch.equal(told.tokens, told.unconditional)


def test_a_wrong_file_says_so(tmp_path):
    pytest.importorskip("diffusers")
    from reface_files import SMALL_UNET, SMALL_VAE, reface_weights, unet_weights

    torch.save(unet_weights(SMALL_UNET), tmp_path / "sd.ckpt")
    with pytest.raises(FaceLoomError, match="not REFace's checkpoint"):
        load_reface(tmp_path / "sd.ckpt")
    weights = reface_weights()
    gone = "model.diffusion_model.input_blocks.1.0.in_layers.2.bias"
    torch.save({key: value for key, value in weights.items() if key != gone}, tmp_path / "part.ckpt")
    with pytest.raises(FaceLoomError, match="lacks"):
        load_reface(tmp_path / "part.ckpt", unet=SMALL_UNET, vae=SMALL_VAE)
    torch.save(weights | {"model.diffusion_model.extra.weight": torch.zeros(1)}, tmp_path / "more.ckpt")
    with pytest.raises(FaceLoomError, match="holds 1 weights"):
        load_reface(tmp_path / "more.ckpt", unet=SMALL_UNET, vae=SMALL_VAE)
