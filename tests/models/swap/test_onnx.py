"""The engine around an ONNX network: faces of every kind and number, wrong settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="the doubles are written with the onnx package (in the test extra)")
pytest.importorskip("onnxruntime")

from faceloom.models.crops import crop
from faceloom.models.crops.crop import cut_crops
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces
from faceloom.models.pixels.tensors import as_images
from faceloom.models.runtime.method import Loading
from faceloom.models.swap.load import load_engine
from swap_scene import FACES, HEIGHT, IMAGES, SIZE, STEP, WIDTH, check, identity, keypoints_at, path_of
from swapping import swapped

pytestmark = pytest.mark.usefixtures("one_thread")


ENGINES = ["inswapper_128", "hyperswap_1a_256", "deepfacelive"]  # with the outline, with a mask of its own, for one person


def faces_at(*places, height: int = HEIGHT, width: int = WIDTH) -> Faces:
    """Faces of one picture: centre, angle and eye distance of each."""
    return Faces(tuple(Face(0, [0, 0, 1, 1], keypoints_at(*place)) for place in places), 1, height, width, FACES.framing, SIZE)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("turn", [np.pi, np.pi / 2, -2.5])
def test_faces_that_are_not_upright(name, turn, folders):
    check(load_engine(path_of(folders, name), Loading(folders)), name, faces=faces_at(((215, 200), turn, 60)), images=IMAGES[:1])


@pytest.mark.parametrize("name", ENGINES)
def test_a_face_of_twenty_pixels(name, folders):
    check(load_engine(path_of(folders, name), Loading(folders)), name, faces=faces_at(((215, 200), .1, 10)), images=IMAGES[:1])


@pytest.mark.parametrize("name", ENGINES)
def test_a_face_of_four_thousand_pixels(name, folders):
    """It reaches beyond the picture on all sides; what is compared lies within."""
    edge, scale = 2600, 2600 / HEIGHT
    y, x = (torch.arange(edge, dtype=torch.float32) / scale / length for length in (HEIGHT, WIDTH))
    planes = [.3 + .6 * x + 0 * y[:, None], .28 + .7 * y[:, None] + 0 * x, .95 - .4 * x - .3 * y[:, None]]
    faces = faces_at(((edge / 2, edge / 2), 0, 1100), height=edge, width=edge)
    check(load_engine(path_of(folders, name), Loading(folders)), name, faces=faces, images=torch.stack(planes, -1)[None], scale=scale)


@pytest.mark.parametrize("name", ENGINES)
def test_faces_at_the_pictures_edge(name, folders):
    """Beyond its edge the picture repeats its last pixels: cut it where a face is and compare with the picture that goes on like that."""
    engine = load_engine(path_of(folders, name), Loading(folders))
    faces = faces_at(((8, 5), .2, 60), height=200, width=220)
    crops, masks = swapped(engine, IMAGES[:1, :200, :220], faces, identity(), SIZE)
    pad = torch.nn.functional.pad(IMAGES[:1, :200, :220].movedim(-1, 1), (200,) * 4, mode="replicate").movedim(1, -1)
    moved = faces_at(((208, 205), .2, 60), height=600, width=620)
    wanted, reach = swapped(engine, pad, moved, identity(), SIZE)
    assert torch.allclose(masks, reach, atol=1e-4) and torch.allclose(crops, wanted, atol=STEP)
    assert masks.mean() > .1


def test_every_face_is_drawn_in_its_own_frame(folders):
    engine = load_engine(path_of(folders, "inswapper_128"), Loading(folders))
    images = torch.stack([IMAGES[0], IMAGES[1].flip(-1)])
    crops, _ = swapped(engine, images, FACES, identity(), SIZE)
    for i, face in enumerate(FACES):
        alone, _ = swapped(engine, images[i : i + 1], replace(FACES, items=(replace(face, frame=0),), frames=1), identity(), SIZE)
        assert torch.allclose(alone[0], crops[i], atol=1e-6)


def test_alpha_is_dropped_and_grey_is_a_colour(folders):
    engine = load_engine(path_of(folders, "inswapper_128"), Loading(folders))
    grey = IMAGES[..., :1]
    wanted, _ = swapped(engine, grey.repeat(1, 1, 1, 3), FACES, identity(), SIZE)
    for images in (grey, torch.cat([grey] * 3 + [torch.zeros_like(grey)], -1)):
        assert torch.equal(swapped(engine, as_images(images), FACES, identity(), SIZE)[0], wanted)


def test_more_faces_than_go_into_one_round(folders):
    many = replace(FACES, items=FACES.items[:1] * 33 + FACES.items[1:] * 32)
    engine = load_engine(path_of(folders, "inswapper_128"), Loading(folders))
    seen = []
    crops, masks = swapped(engine, IMAGES, many, identity(), 32, progress=lambda *step: seen.append(step))
    few, reach = swapped(engine, IMAGES, FACES, identity(), 32)
    assert seen[-1] == (65, 65) and seen == sorted(seen)
    assert torch.allclose(crops[:33], few[:1], atol=1e-6) and torch.allclose(crops[33:], few[1:], atol=1e-6)
    assert torch.equal(masks[64], reach[1])


def test_many_faces_over_a_clip(folders):
    many = replace(FACES, items=FACES.items * 20)
    engine = load_engine(path_of(folders, "inswapper_128"), Loading(folders))
    seen = []
    crops, _ = swapped(engine, IMAGES, many, identity(), 32, pixel_boost=2, progress=lambda done, total: seen.append(done))
    assert seen[-1] == 160 and seen == sorted(seen)
    few, _ = swapped(engine, IMAGES, FACES, identity(), 32, pixel_boost=2)
    assert torch.allclose(crops[38:], few, atol=1e-6)


def test_no_faces(folders):
    crops, masks = swapped(load_engine(path_of(folders, "inswapper_128"), Loading(folders)), IMAGES, FACES.take([]), identity(), SIZE)
    assert crops.shape == (0, SIZE, SIZE, 3) and masks.shape == (0, SIZE, SIZE)


WRONG = [{"pixel_boost": 0}, {"pixel_boost": 9}, {"pixel_boost": 1.5}, {"strength": -.1}, {"strength": float("nan")}]


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_settings(wrong, folders):
    with pytest.raises(FaceLoomError, match=r"must be"):
        swapped(load_engine(path_of(folders, "inswapper_128"), Loading(folders)), IMAGES, FACES, identity(), SIZE, **wrong)


@pytest.mark.parametrize("name", ENGINES)
def test_crops_that_are_held_give_the_same_swap_and_stay_as_they_are(name, folders, monkeypatch):
    engine = load_engine(path_of(folders, name), Loading(folders))
    expected, reach = swapped(engine, IMAGES, FACES, identity(), SIZE)
    faces, crops = cut_crops(IMAGES, FACES)
    before = crops.clone()
    cut = []
    monkeypatch.setattr(crop, "sample_crops", lambda *arguments: cut.append(arguments))
    again, masks = swapped(engine, IMAGES, faces, identity(), SIZE)
    assert not cut and torch.equal(again, expected) and torch.equal(masks, reach) and torch.equal(crops, before)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("output", [0, -1])
def test_what_is_no_number_is_said_by_the_engine(name, value, output, folders, monkeypatch):
    """A card's half precision does that; once in the crops it would be blamed on whatever came after."""
    engine = load_engine(path_of(folders, name), Loading(folders))
    answer = engine.model.run

    def broken(*arguments, **named):
        outputs = answer(*arguments, **named)
        names = [engine.contract.picture_output, *engine.contract.mask_outputs]
        outputs[names[output]].view(-1)[5] = value
        return outputs

    monkeypatch.setattr(engine.model, "run", broken)
    with pytest.raises(FaceLoomError, match=f"{engine.name} returned NaN or infinite"):
        swapped(engine, IMAGES, FACES, identity(), SIZE)
