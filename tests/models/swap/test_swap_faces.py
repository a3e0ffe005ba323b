"""Which faces are swapped, and what becomes of the others."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_faces, face_windows
from faceloom.models.crops.templates import TEMPLATES
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces, Identity
from faceloom.models.options.swap import SwapSettings
from faceloom.models.pixels.tensors import as_images
from faceloom.models.swap import swap_faces
from faceloom.models.swap.load import ENGINES, load_engine

IDENTITY = Identity({}, np.zeros((0, 8, 8, 3)), ())
IMAGES = torch.rand((2, 90, 110, 3), generator=torch.Generator().manual_seed(0))
PEOPLE = tuple(Face(frame, [0, 0, 9, 9], TEMPLATES["ffhq_512"] * 60 + (x, 12)) for frame, x in ((0, 5), (0, 30), (1, 20)))
FACES = Faces(PEOPLE, 2, 90, 110, 1.0, 24)


class Painter:
    """Paints every face it is given white, left half."""

    name = "painter"

    def __init__(self) -> None:
        self.asked: list = []

    def prepare(self, identity):
        return "prepared"

    def swap(self, images, faces, source, settings, progress=None):
        assert source == "prepared"
        size = settings.edge(faces)
        self.asked.append((len(faces), size, settings.strength, settings.pixel_boost))
        crops = crop_faces(images, faces, size)
        masks = torch.zeros(crops.shape[:3])
        crops[:, :, :size // 2] = 1
        masks[:, :, :size // 2] = 1
        return crops, masks


def test_chosen_faces_are_swapped_and_the_others_left():
    engine = Painter()
    crops, masks = swap_faces(IMAGES, FACES, IDENTITY, engine, which="2, 0", settings=SwapSettings(strength=.5, pixel_boost=2))
    assert engine.asked == [(2, 24, .5, 2)]
    own = crop_faces(IMAGES, FACES)
    assert torch.equal(crops[1], own[1]) and not masks[1].any()
    for i in (0, 2):
        assert (crops[i, :, :12] == 1).all() and torch.equal(crops[i, :, 12:], own[i, :, 12:])
        assert masks[i].mean() == .5


class Colorist(Painter):
    """Paints every face in the grey that is the person's name."""

    def prepare(self, identity):
        return float(identity.name)

    def swap(self, images, faces, source, settings, progress=None):
        size = settings.edge(faces)
        self.asked.append((source, len(faces)))
        return torch.full((len(faces), size, size, 3), source), torch.full((len(faces), size, size), source)


@pytest.mark.parametrize("which, wanted", [("all", [.25, .5, .75]), ("0,2", [.25, 0, .75]), ("1", [0, .5, 0])])
def test_faces_that_are_somebodys_become_that_person_and_the_others_the_source(which, wanted):
    anna, bert, cleo = (Identity({}, np.zeros((0, 8, 8, 3)), (), name=name) for name in ("0.25", "0.5", "0.75"))
    faces = replace(FACES, items=(replace(FACES[0], identity=anna), FACES[1], replace(FACES[2], identity=cleo)))
    crops, masks = swap_faces(IMAGES, faces, bert, Colorist(), which=which)
    assert masks.mean((1, 2)).tolist() == wanted
    own = crop_faces(IMAGES, faces)
    for i, shade in enumerate(wanted):
        assert (crops[i] == shade).all() if shade else torch.equal(crops[i], own[i])
    engine = Colorist()
    crops, masks = swap_faces(IMAGES, faces, bert, engine, mask=torch.tensor([1.0, 1, 0])[:, None, None].expand(3, 8, 8))
    assert masks.mean((1, 2)).tolist() == [.25, .5, 0] and engine.asked == [(.25, 1), (.5, 1)]
    everyone = replace(FACES, items=tuple(replace(face, identity=anna) for face in FACES))
    assert swap_faces(IMAGES, everyone, None, engine)[1].mean((1, 2)).tolist() == [.25] * 3 and engine.asked[-1] == (.25, 3)


def test_size_and_pictures_of_other_forms():
    gray = as_images(IMAGES.mean(-1, keepdim=True))
    crops, masks = swap_faces(gray, FACES, IDENTITY, Painter(), settings=SwapSettings(size=16))
    assert crops.shape == (3, 16, 16, 3) and masks.shape == (3, 16, 16)
    engine = Painter()
    crops, masks = swap_faces(IMAGES, FACES.take([]), IDENTITY, engine)
    assert crops.shape == (0, 24, 24, 3) and masks.shape == (0, 24, 24) and engine.asked == []
    with pytest.raises(FaceLoomError, match="connect the image that went into Face Detect"):
        swap_faces(IMAGES[:1], FACES, IDENTITY, Painter())


def test_the_built_in_engine_is_the_mesh():
    assert [method.name for method in ENGINES if method.label] == ["mesh"] and load_engine("mesh").name == "mesh"
    with pytest.raises(FaceLoomError, match="no photograph"):
        swap_faces(IMAGES, FACES, IDENTITY)


@pytest.mark.parametrize(("which", "wanted"), [("all", [0, 1, 2]), ("", [0, 1, 2]), ("1", [1]), ("2,0", [0, 2]), ("1-2", [1]),
                                               ("-1", [1, 2]), ("0,0,7", [0, 2]), ("first", [0, 2]), ("-9", [])])
def test_which_counts_the_faces_of_each_picture(which, wanted):
    _, masks = swap_faces(IMAGES, FACES, IDENTITY, Painter(), which=which)
    assert [i for i in range(3) if masks[i].any()] == wanted


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1.5])
def test_only_the_surroundings_of_faces_are_looked_through(bad):
    """A frame is not searched for values that nothing reads; where a face is they are found, and clipped or refused. One-Shot Swap brings
    its image to form so."""
    def swapped():
        return swap_faces(as_images(images, within=partial(face_windows, faces)), faces, IDENTITY, Painter())[0]

    face = Face(0, [0, 0, 9, 9], TEMPLATES["ffhq_512"] * 60 + (200, 100))
    faces, images = Faces((face,), 1, 300, 400, 1.0, 24), torch.rand((1, 300, 400, 3), generator=torch.Generator().manual_seed(1))
    clean = swapped()
    images[0, :60] = bad
    assert torch.equal(swapped(), clean)
    images[0, 80:180, 180:280] = bad
    if bad == 1.5:
        assert torch.allclose(swapped(), torch.tensor(1.0), atol=1e-6)
    else:
        with pytest.raises(FaceLoomError, match="NaN or infinite"):
            swapped()


def masked(mask: torch.Tensor, which: str = "all", size: int = 24):
    """Crops, masks, how many faces the engine was asked for, and the target's own crops."""
    engine = Painter()
    crops, masks = swap_faces(IMAGES, FACES, IDENTITY, engine, settings=SwapSettings(size=size), which=which, mask=mask)
    return crops, masks, sum(asked[0] for asked in engine.asked), crop_faces(IMAGES, FACES, size)


@pytest.mark.parametrize("which", ["all", "0,2"])
def test_a_mask_says_where_the_new_faces_may_show(which):
    """0 is the target to the last bit, 1 the engine's answer, and between them they are mixed; so is the engine's own mask."""
    shown = torch.linspace(0, 1, 24).expand(3, 24, 24).clone()
    shown[2] = shown[0].T
    shown[:, :4], shown[:, 4:8] = 0, 1
    before = shown.clone()
    crops, masks, asked, own = masked(shown, which)
    chosen = [0, 1, 2] if which == "all" else [0, 2]
    assert asked == len(chosen) and torch.equal(shown, before)
    for i in chosen:
        assert torch.equal(crops[i, :4], own[i, :4]) and not masks[i, :4].any()
        assert (crops[i, 4:8, :12] == 1).all() and (masks[i, 4:8, :12] == 1).all()
        assert torch.equal(crops[i, :, 12:], own[i, :, 12:]) and not masks[i, :, 12:].any()
        assert torch.allclose(crops[i, 8:, :12], own[i, 8:, :12] + shown[i, 8:, :12, None] * (1 - own[i, 8:, :12]), atol=1e-6)
        assert torch.equal(masks[i, :, :12], shown[i, :, :12])
    if which != "all":
        assert torch.equal(crops[1], own[1]) and not masks[1].any()


def test_masks_of_other_sizes_and_one_for_all():
    half = torch.zeros(1, 12, 12)
    half[:, 6:] = 1
    whole = half.repeat_interleave(2, 1).repeat_interleave(2, 2)
    crops, masks, _, own = masked(half)
    for same in (whole.expand(3, 24, 24), whole[0] > 0):
        again = masked(same)
        assert torch.allclose(again[0][:, [0, -1]], crops[:, [0, -1]]) and torch.allclose(again[1][:, [0, -1]], masks[:, [0, -1]])
    assert torch.equal(crops[:, :10], own[:, :10]) and (crops[:, 14:, :12] == 1).all()


def test_faces_of_which_nothing_may_show_are_not_shown_to_the_engine():
    shown = torch.ones(3, 24, 24)
    shown[1] = 0
    crops, masks, asked, own = masked(shown)
    assert asked == 2 and torch.equal(crops[1], own[1]) and masks.mean((1, 2)).tolist() == [.5, 0, .5]
    crops, masks, asked, own = masked(torch.zeros(1, 24, 24))
    assert asked == 0 and torch.equal(crops, own) and not masks.any()
    crops, masks, asked, own = masked(torch.zeros(3, 64, 64), size=64)  # the crops' own size: no placeholder
    assert asked == 0 and torch.equal(crops, own)


def test_the_placeholder_of_a_picture_without_alpha_is_no_mask():
    for batch in (1, 2):
        crops, masks, asked, _ = masked(torch.zeros(batch, 64, 64))
        plain = swap_faces(IMAGES, FACES, IDENTITY, Painter())
        assert asked == 3 and torch.equal(crops, plain[0]) and torch.equal(masks, plain[1])


def test_as_many_masks_as_faces():
    engine = Painter()
    for count in (2, 4):
        with pytest.raises(FaceLoomError, match=f"The mask has {count} pictures but 3 are needed; connect one for all, or one for each."):
            swap_faces(IMAGES, FACES, IDENTITY, engine, which="0", mask=torch.ones(count, 24, 24))
    assert not engine.asked
    crops, _ = swap_faces(IMAGES, FACES.take([]), IDENTITY, engine, mask=torch.ones(5, 24, 24))  # what stands for no crop
    assert len(crops) == 0


def test_an_engines_answer_is_handed_on_or_left_as_it_is():
    """Without a mask nothing is copied; with one, what the engine may still hold is not written to."""
    answer = torch.ones(3, 24, 24, 3), torch.ones(3, 24, 24)

    class Holder:
        name = "holder"

        def prepare(self, identity):
            return identity

        def swap(self, *given):
            return answer

    crops, masks = swap_faces(IMAGES, FACES, IDENTITY, Holder())
    assert crops is answer[0] and masks is answer[1]
    crops, masks = swap_faces(IMAGES, FACES, IDENTITY, Holder(), mask=torch.full((24, 24), .5))
    assert (answer[0] == 1).all() and (answer[1] == 1).all() and (masks == .5).all() and not (crops == 1).all()
