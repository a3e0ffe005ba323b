"""What comes out of pasting lies within 0..1, keeps highlights, and keeps grey pictures grey."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from faceloom.models.crops.crop import crop_faces
from faceloom.models.faces import FFHQ_TEMPLATE, Face, Faces
from faceloom.models.options.paste import BLENDS, COLORS, PasteSettings
from faceloom.models.paste import paste
from faceloom.models.pixels.tensors import as_images
from faceloom.models.pixels.tone import whites_of

EDGE = 120


def faces_in(images: torch.Tensor) -> Faces:
    face = Face(0, (40, 40, 120, 120), FFHQ_TEMPLATE * EDGE + 20)
    return Faces((face,), len(images), *images.shape[1:3], crop_size=128, whites=whites_of(images[..., :3]))


def photo(seed: int = 0, top: float = 1.0) -> torch.Tensor:
    """Smooth random colours from 0 to ``top``, both reached in many places."""
    small = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    wide = torch.nn.functional.interpolate(small, (160, 160), mode="bicubic")[0].permute(1, 2, 0)
    return ((wide - .5) * 2 + .5).clamp(0, 1)[None] * top


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("blend", BLENDS)
def test_results_are_within_0_and_1_in_every_float_type(kind, blend):
    images = photo().to(kind)
    settings = PasteSettings(blend=blend, color="mkl", keep_unchanged=False)
    mask = torch.full((1, 128, 128), 1.0)
    for seed in range(3):
        pasted, covered = paste(images, faces_in(images), photo(seed + 1)[:, :128, :128], mask, settings)
        assert pasted.dtype == kind and float(pasted.min()) >= 0 and float(pasted.max()) <= 1
        assert float(covered.min()) >= 0 and float(covered.max()) <= 1


def test_values_that_were_outside_before_stay_as_they_are():
    images = photo(top=1.5) - .1
    pasted, _ = paste(images, faces_in(images), torch.full((1, 64, 64, 3), .5), torch.zeros(1, 64, 64))
    assert torch.equal(pasted, images)


@pytest.mark.parametrize("exposure", [1.7, 2.0, 6.0])
def test_untouched_crops_of_a_bright_picture_change_nothing(exposure):
    images = photo(top=exposure)
    faces = faces_in(images)
    crops = crop_faces(as_images(images, whites=faces.whites), faces)
    assert torch.equal(paste(images, faces, crops, torch.ones(1, 128, 128))[0], images)


@pytest.mark.parametrize("exposure", [1.7, 6.0])
def test_an_edited_crop_keeps_the_highlights_beside_the_edit_and_gets_its_own(exposure):
    """A dot is painted into the crop; all else, pasted whole, is what it was, to the error of resampling."""
    images = photo(top=exposure)
    faces = faces_in(images)
    crops = crop_faces(as_images(images, whites=faces.whites), faces, 512)
    crops[:, 240:272, 240:272] = 1.0
    pasted, _ = paste(images, faces, crops, torch.ones(1, 512, 512), PasteSettings(keep_unchanged=False))
    assert float(pasted[0, 80, 80].min()) == pytest.approx(exposure, rel=.01)
    beside = torch.ones(160, 160, dtype=torch.bool)
    beside[66:94, 66:94] = False
    difference = (pasted - images).abs().amax(-1)[0][beside]
    assert float(difference.mean()) < .004 * exposure and float(images[0][beside].max()) == pytest.approx(exposure)


@pytest.mark.parametrize("color", COLORS)
def test_a_grey_picture_stays_grey_unless_that_is_turned_off(color):
    images = photo().mean(-1, keepdim=True).expand(1, 160, 160, 3).contiguous()
    crop = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(3))
    mask = torch.ones(1, 128, 128)
    settings = PasteSettings(color=color, blend="multi-band")
    pasted, _ = paste(images, faces_in(images), crop, mask, settings)
    assert torch.equal(pasted[..., 0], pasted[..., 1]) and torch.equal(pasted[..., 0], pasted[..., 2])
    assert float((pasted - images).abs().max()) > .1
    colored, _ = paste(images, faces_in(images), crop, mask, replace(settings, keep_gray=False))
    assert float((colored[..., 0] - colored[..., 1]).abs().max()) > .02


def test_several_masks_for_one_face_are_taken_together():
    """As segmentation nodes give them: one of each thing they found."""
    images, crop = photo(), torch.full((1, 64, 64, 3), .5)
    masks = torch.zeros(3, 64, 64)
    masks[0, 10:20, 10:50] = 1
    masks[2, 40:50, 10:50] = .5
    one, _ = paste(images, faces_in(images), crop, masks)
    other, _ = paste(images, faces_in(images), crop, masks.amax(0, keepdim=True))
    assert torch.equal(one, other) and not torch.equal(one, images)


def test_a_grey_photograph_that_jpeg_has_tinted_stays_grey():
    """One step of JPEG's colours: 1.4 / 255 of red more, and 0.7 / 255 of green less. A picture of pale colours is not grey."""
    gray = (photo() * .9 + .05).mean(-1, keepdim=True).expand(1, 160, 160, 3)
    crop = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(3))
    for tint, stays in ((1, True), (4, False)):
        images = gray + torch.tensor([1.4, -.72, 0]) * tint / 255
        pasted, _ = paste(images, faces_in(images), crop, torch.ones(1, 128, 128))
        assert (float(pasted.diff(dim=-1).abs().max()) < 3 / 255) == stays


SEPIA = torch.tensor([1.0, .89, .70])
DUOTONE = (torch.tensor([.10, .05, .35]), torch.tensor([1.0, .85, .55]))  # from dark to light


def toned(gray: torch.Tensor, tone: str) -> torch.Tensor:
    """A grey picture ``[..., 1]`` in one tone."""
    if tone == "sepia":
        return gray * SEPIA
    dark, light = DUOTONE
    return dark + gray * (light - dark)


@pytest.mark.parametrize("noise", [0, .004])
@pytest.mark.parametrize("tone", ["sepia", "duotone"])
def test_a_picture_of_one_tone_keeps_it(tone, noise):
    """What is pasted lies on the picture's own curve of colours, and keeps its own light and shade."""
    generator = torch.Generator().manual_seed(5)
    images = (toned(photo().mean(-1, keepdim=True), tone) + noise * torch.randn(1, 160, 160, 3, generator=generator)).clamp(0, 1)
    crop = photo(3)[:, :128, :128] * .6 + .2
    pasted, _ = paste(images, faces_in(images), crop, torch.ones(1, 128, 128), PasteSettings(keep_unchanged=False))
    inside = pasted[0, 40:120, 40:120]
    luma = inside @ torch.tensor([.2126, .7152, .0722])
    tones = toned(torch.linspace(0, 1, 512)[:, None], tone)
    nearest = (tones @ torch.tensor([.2126, .7152, .0722]) - luma[..., None]).abs().argmin(-1)
    within = (luma > .15) & (luma < .8)
    assert float((inside - tones[nearest])[within].abs().max()) < .02
    wanted = paste(images, faces_in(images), crop, torch.ones(1, 128, 128), PasteSettings(keep_unchanged=False, keep_gray=False))[0]
    assert float(((wanted[0, 40:120, 40:120] @ torch.tensor([.2126, .7152, .0722])) - luma)[within].abs().max()) < .02
    assert float((wanted - pasted).abs().max()) > .1


def test_a_picture_with_colours_is_left_its_own():
    images, crop = photo(), photo(3)[:, :128, :128]
    mask = torch.ones(1, 128, 128)
    one, other = (paste(images, faces_in(images), crop, mask, PasteSettings(keep_gray=keep))[0] for keep in (True, False))
    assert torch.equal(one, other)
