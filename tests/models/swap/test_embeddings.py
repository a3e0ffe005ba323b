"""Who is drawn and how strongly: the source's vector in the network's own space, and the way there from the target's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="the doubles are written with the onnx package (in the test extra)")
pytest.importorskip("onnxruntime")

import doubles
from doubles import TRUTHS, save_double, truth_latent
from faceloom.models.crops.crop import crop_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Identity
from faceloom.models.options.swap import SwapSettings
from faceloom.models.pipeline import Models, Settings
from faceloom.models.runtime.method import Loading
from faceloom.models.swap import swap_faces
from faceloom.models.swap.embeddings import mix
from faceloom.models.swap.load import load_engine
from swap_scene import FACES, IMAGES, RAW, SIZE, STEP, Mirror, expectation, identity, path_of, photo, unit
from swapping import swapped

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_prepared_source_is_worked_out_once_and_an_identity_for_every_call(folders):
    engine = load_engine(path_of(folders, "ghost_1_256"), Loading(folders))
    calls = []
    run = engine._latents.converter.run
    engine._latents.converter.run = lambda feeds: calls.append(1) or run(feeds)
    source, settings = engine.prepare(identity()), SwapSettings(size=SIZE)
    made = [swap_faces(IMAGES, FACES, source, engine, settings)[0] for _ in range(3)]
    assert len(calls) == 1
    assert torch.equal(swap_faces(IMAGES, FACES, identity(), engine, settings)[0], made[0]) and torch.equal(made[2], made[0])
    assert len(calls) == 2
    swap_faces(IMAGES, FACES, identity(), engine, SwapSettings(0, size=SIZE))
    swap_faces(IMAGES, FACES, identity(), engine, settings, which="7")
    assert len(calls) == 2  # where nothing is swapped nobody is looked at


@pytest.mark.parametrize("name", ["inswapper_128", "simswap_256", "ghost_2_256"])
def test_a_recognizer_that_is_missing_is_found_before_the_first_picture(name, folders):
    """The targets' own faces are looked at only where the strength is neither 0 nor 1."""
    models = Models(load_engine(path_of(folders, name), Loading(folders)))
    for strength in (0, 1):
        models.check(Settings(swap=SwapSettings(strength)))
    for strength in (.5, 1.5):
        with pytest.raises(FaceLoomError, match="models get"):
            models.check(Settings(swap=SwapSettings(strength)))
    Models(load_engine(path_of(folders, name), Loading(folders, recognizer=Mirror("w600k")))).check(Settings(swap=SwapSettings(.5)))


@pytest.mark.parametrize("name", ["inswapper_128", "simswap_256", "ghost_2_256", "hyperswap_1a_256", "alphaface_256"])
@pytest.mark.parametrize("strength", [.3, .75, 1.4])
def test_strength_is_a_turn_in_latent_space(name, strength, folders):
    truth, mirror = TRUTHS[name], Mirror("w600k")
    engine = load_engine(path_of(folders, name), Loading(folders, recognizer=mirror))
    crops, masks = swapped(engine, IMAGES, FACES, identity(), SIZE, strength=strength)
    source = truth_latent(truth, RAW["w600k"])
    for i, face in enumerate(FACES):
        target = truth_latent(truth, mirror.vectors()[i])
        # Independently: the point on the circle through both that lies at the same share of the angle.
        a, b = unit(target), unit(source)
        angle = np.arccos(a @ b)
        turned = (np.sin((1 - strength) * angle) * a + np.sin(strength * angle) * b) / np.sin(angle)
        share = min(strength, 1)
        length = (1 - share) * np.linalg.norm(target) + share * np.linalg.norm(source)
        colour = .15 + length * turned @ doubles.PAINT * doubles.gain(truth)
        picture, _, reach = expectation(name, face, colour)
        inner = (reach > .3) & (masks[i].numpy() > 0)
        assert np.abs(crops[i].numpy() - picture)[inner].max() < STEP
    assert mirror.calls == 1


def test_full_strength_asks_nobody_who_the_target_is(folders):
    mirror = Mirror("w600k")
    swapped(load_engine(path_of(folders, "inswapper_128"), Loading(folders, recognizer=mirror)), IMAGES, FACES, identity(), SIZE)
    assert mirror.calls == 0


def test_the_targets_own_embedding_is_used_where_it_is_known(folders):
    mirror = Mirror("w600k")
    known = replace(FACES, items=tuple(replace(face, embeddings={"w600k": unit(mirror.vectors()[i])}) for i, face in enumerate(FACES)))
    engine = load_engine(path_of(folders, "inswapper_128"), Loading(folders, recognizer=mirror))
    asked, _ = swapped(engine, IMAGES, FACES, identity(), SIZE, strength=.5)
    told, _ = swapped(engine, IMAGES, known, identity(), SIZE, strength=.5)
    assert mirror.calls == 1 and torch.allclose(asked, told, atol=1e-6)


@pytest.mark.parametrize("name", TRUTHS)
def test_strength_of_nothing_is_the_targets_own_crop(name, folders):
    crops, masks = swapped(load_engine(path_of(folders, name), Loading(folders)), IMAGES, FACES, identity(), SIZE, strength=0)
    assert torch.equal(crops, crop_faces(IMAGES, FACES, SIZE)) and not masks.any()


@pytest.mark.parametrize("name", ["blendswap_256", "deepfacelive"])
def test_networks_without_latents_fade(name, folders):
    engine = load_engine(path_of(folders, name), Loading(folders))
    own = crop_faces(IMAGES, FACES, SIZE)
    full, masks = swapped(engine, IMAGES, FACES, identity(), SIZE)
    third, same = swapped(engine, IMAGES, FACES, identity(), SIZE, strength=.3)
    assert torch.equal(masks, same)
    assert torch.allclose(third, own + .3 * (full - own), atol=1e-6)
    with pytest.raises(FaceLoomError, match=r"from 0 to 1"):
        swapped(engine, IMAGES, FACES, identity(), SIZE, strength=1.5)


def test_morph_value_is_the_strength(folders, tmp_path):
    engine = load_engine(save_double("deepfacelive", tmp_path, morph=True), Loading(folders))
    for strength in (.25, 1.0):
        crops, masks = swapped(engine, IMAGES, FACES, identity(), SIZE, strength=strength, pixel_boost=2)
        for i, face in enumerate(FACES):
            picture, _, reach = expectation("deepfacelive", face, np.full(3, .2 * strength))
            inner = (reach > .3) & (masks[i].numpy() > 0)
            assert np.abs(crops[i].numpy() - picture)[inner].max() < STEP


def test_mix():
    a, b = np.float32([[3, 0, 0]]), np.float32([[0, 5, 0]])
    assert np.allclose(mix(a, b, 0), a, atol=1e-6) and np.allclose(mix(a, b, 1), b, atol=1e-6)
    assert np.allclose(mix(a, b, .5), 4 * np.sqrt(.5) * np.float32([[1, 1, 0]]), atol=1e-6)
    assert np.allclose(mix(a, b, 1.5), 5 * np.sqrt(.5) * np.float32([[-1, 1, 0]]), atol=1e-5)
    assert np.allclose(mix(b, b, .4), b)
    assert np.allclose(unit(mix(a, b, 9)), [[-1, 0, 0]], atol=1e-6)  # the opposite is as far as it goes


@pytest.mark.parametrize("angle", [1e-4, .5, 1.6, 3.1])
def test_strength_is_continuous_and_moves_away_from_the_target(angle):
    target, source = np.float32([[25, 0, 0]]), 12 * np.float32([[np.cos(angle), np.sin(angle), 0]])
    strengths = np.linspace(0, 2, 201)
    path = np.concatenate([mix(target, source, strength) for strength in strengths])
    assert np.abs(np.diff(path, axis=0)).max() < .01 * (13 + 25 * max(angle, .01)) * 1.1
    turned = np.arccos(np.clip(unit(path)[:, 0], -1, 1))
    np.testing.assert_allclose(turned, np.minimum(strengths * angle, np.pi), atol=2e-3)
    lengths = np.linalg.norm(path, axis=1)
    np.testing.assert_allclose(lengths, 25 - 13 * np.minimum(strengths, 1), rtol=1e-4)  # never shorter than a photo's vector


def test_strength_with_an_adapter_mixes_both_vectors(folders):
    spaces, random = ("cscs", "cscs_adapter"), np.random.default_rng(9)
    own = [{space: unit(random.normal(0, 1, 512)) for space in spaces} for _ in FACES]
    known = replace(FACES, items=tuple(replace(face, embeddings=vectors) for face, vectors in zip(FACES, own, strict=True)))
    crops, masks = swapped(load_engine(path_of(folders, "cscs_256"), Loading(folders)), IMAGES, known, identity(), SIZE, strength=.5)
    source = unit(RAW["cscs"]) + unit(RAW["cscs_adapter"])
    for i, face in enumerate(FACES):
        target = own[i]["cscs"] + own[i]["cscs_adapter"]
        middle = unit(unit(target) + unit(source)) * (np.linalg.norm(target) + np.linalg.norm(source)) / 2
        picture, _, reach = expectation("cscs_256", face, .15 + middle @ doubles.PAINT * doubles.gain(TRUTHS["cscs_256"]))
        inner = (reach > .3) & (masks[i].numpy() > 0)
        assert np.abs(crops[i].numpy() - picture)[inner].max() < STEP


def test_norms_missing_from_the_identity_come_from_its_photos(folders):
    bare = replace(identity(), norms={})

    class Photographer(Mirror):
        def embed_raw(self, images, faces, progress=None):
            assert images.shape == (1, 120, 120, 3) and (faces.frames, faces.height, faces.width) == (1, 120, 120)
            assert np.allclose(faces[0].keypoints, photo()[1].keypoints)
            return RAW["w600k"][None].astype(np.float32)

    check_with = load_engine(path_of(folders, "ghost_1_256"), Loading(folders, recognizer=Photographer("w600k")))
    known, _ = swapped(check_with, IMAGES, FACES, identity(), SIZE)
    asked, _ = swapped(check_with, IMAGES, FACES, bare, SIZE)
    assert torch.allclose(known, asked, atol=1e-5)
    nobody = replace(bare, crops=np.zeros((0, 8, 8, 3)), faces=())
    with pytest.raises(FaceLoomError, match="no w600k embedding and no photos"):
        swapped(check_with, IMAGES, FACES, nobody, SIZE)
    with pytest.raises(FaceLoomError, match="looks at a photo"):
        swapped(load_engine(path_of(folders, "uniface_256"), Loading(folders)), IMAGES, FACES, nobody, SIZE)


def test_identity_of_another_space_is_looked_up_in_its_photos(folders):
    class Photographer(Mirror):
        def embed_raw(self, images, faces, progress=None):
            return RAW["w600k"][None].astype(np.float32)

    engine = load_engine(path_of(folders, "inswapper_128"), Loading(folders, recognizer=Photographer("w600k")))
    known, _ = swapped(engine, IMAGES, FACES, identity(), SIZE)
    other = replace(identity(), embeddings={"dlib128": unit(np.ones(128))}, norms={})
    asked, _ = swapped(engine, IMAGES, FACES, other, SIZE)
    assert torch.allclose(known, asked, atol=1e-5)


def test_several_photos_without_an_embedding(folders):
    """The mean direction, at the mean length the recognizer gives: not shortened by how much the photos differ."""
    raw = np.random.default_rng(3).normal(0, 1, (3, 512)).astype(np.float32) * np.float32([[.5], [1], [1.5]])
    picture, face = photo()

    class Photographer(Mirror):
        def embed_raw(self, images, faces, progress=None):
            assert len(images) == 3 and [face.frame for face in faces] == [0, 1, 2]
            return raw

    three = Identity({}, np.repeat(picture[None], 3, 0), (face,) * 3)
    engine = load_engine(path_of(folders, "alphaface_256"), Loading(folders, recognizer=Photographer("w600k")))
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    wanted = unit((raw / lengths).mean(0)) * lengths.mean()
    np.testing.assert_allclose(engine._latents.of_identity(three)[0], wanted, rtol=1e-5)


def test_a_network_that_looks_at_a_photo_gets_the_best_one(folders):
    picture, face = photo()
    worse = Identity({}, np.stack([picture, picture[::-1]]), (face, replace(face, keypoints=face.keypoints * .8)))
    engine = load_engine(path_of(folders, "blendswap_256"), Loading(folders))
    one, _ = swapped(engine, IMAGES, FACES, Identity({}, picture[None], (face,)), SIZE)
    two, _ = swapped(engine, IMAGES, FACES, worse, SIZE)
    assert torch.equal(one, two)


def test_a_known_direction_is_kept_when_only_its_length_is_missing(folders):
    """A blend of people has photos of each, which must not replace the blended vector."""
    class Stranger(Mirror):
        def embed_raw(self, images, faces, progress=None):
            vector = np.random.default_rng(77).normal(0, 1, (1, 512))
            return (unit(vector) * np.linalg.norm(RAW["w600k"])).astype(np.float32)

    engine = load_engine(path_of(folders, "alphaface_256"), Loading(folders, recognizer=Stranger("w600k")))
    known, _ = swapped(engine, IMAGES, FACES, identity(), SIZE)
    blended, _ = swapped(engine, IMAGES, FACES, replace(identity(), norms={}), SIZE)
    assert torch.allclose(known, blended, atol=1e-5)
