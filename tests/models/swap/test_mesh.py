"""The built-in engine on the two portraits, judged by a network that had no part in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_faces
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Faces, Identity
from faceloom.models.identity import make_identity
from faceloom.models.identity.load import load_recognizer
from faceloom.models.options.detect import DetectSettings
from faceloom.models.options.swap import SwapSettings
from faceloom.models.paste import paste
from faceloom.models.swap import swap_faces


@pytest.fixture(scope="module")
def people(collins, hopper):
    """Image, faces and identity of both, by name."""
    out = {}
    for name, image in (("collins", collins), ("hopper", hopper)):
        faces = detect_faces(image, settings=DetectSettings(keep="first", crop_size=512))
        out[name] = (image, faces, make_identity(image, faces)[0])
    return out


@pytest.fixture(scope="module")
def judge(shared):
    pytest.importorskip("onnxruntime")
    return load_recognizer(shared / "models" / "mobilefacenet_128.onnx")


PAIRS = [("collins", "hopper"), ("hopper", "collins")]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_the_result_is_the_source_and_no_longer_the_target(people, judge, source, target):
    image, faces, _ = people[target]
    crops, masks = swap_faces(image, faces, people[source][2])
    result, _ = paste(image, faces, crops, masks)
    found = detect_faces(result, settings=DetectSettings(keep="first"))
    drift = np.linalg.norm(found[0].keypoints - faces[0].keypoints, axis=1) / faces[0].eye_distance
    assert drift.max() < 0.12
    swapped = judge.embed(result, found)[0]
    ours, theirs = (judge.embed(*people[name][:2])[0] for name in (source, target))
    assert swapped @ ours >= 0.60
    assert swapped @ theirs <= 0.30


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_outside_its_mask_a_crop_is_the_targets_own(people, source, target):
    image, faces, _ = people[target]
    crops, masks = swap_faces(image, faces, people[source][2])
    own = crop_faces(image, faces)
    outside = masks == 0
    assert 0.5 < outside.float().mean() < 0.9
    assert torch.equal(crops[outside], own[outside])
    assert crops.min() >= 0 and crops.max() <= 1


@pytest.mark.parametrize("strength, words", [(-0.1, "Strength must be from 0 to 2"), (1.05, "strength from 0 to 1"),
                                             (2.0, "strength from 0 to 1"), (float("nan"), "Strength must be from 0 to 2")])
def test_strength_beyond_the_photograph_is_an_error(people, strength, words):
    image, faces, identity = people["hopper"]
    with pytest.raises(FaceLoomError, match=words):
        swap_faces(image, faces, identity, settings=SwapSettings(strength=strength, size=64))


def test_strength_morphs_from_the_untouched_crop(people):
    image, faces, _ = people["hopper"]
    own = crop_faces(image, faces)
    change = []
    for strength in (0.0, 0.25, 0.5, 1.0):
        crops, masks = swap_faces(image, faces, people["collins"][2], settings=SwapSettings(strength=strength, size=256))
        change.append(float((crops - crop_faces(image, faces, 256)).abs().mean()))
        if strength == 0:
            assert torch.equal(crops, crop_faces(image, faces, 256)) and masks.max() == 0
    assert change == sorted(change) and change[3] > 1.5 * change[1] > 0
    assert own.shape == (1, 512, 512, 3)


def test_a_person_swapped_onto_themselves_stays_put(people):
    """Same photograph in and out: what changes is resampling, not geometry or light."""
    image, faces, identity = people["hopper"]
    crops, masks = swap_faces(image, faces, identity)
    own = crop_faces(image, faces)
    error = (crops - own)[masks > 0.99].abs()
    assert error.mean() < 0.02
    assert error.median() < 0.012


def test_two_faces_are_the_same_as_one_by_one(people):
    image = people["hopper"][0]
    batch = torch.cat([image, image.flip(2)])
    both = detect_faces(batch, settings=DetectSettings(keep="first", crop_size=256))
    crops, masks = swap_faces(batch, both, people["collins"][2])
    for i in range(2):
        single = Faces((both[i],), 2, both.height, both.width, crop_size=256)
        alone, mask = swap_faces(batch, single, people["collins"][2])
        assert torch.equal(alone[0], crops[i]) and torch.equal(mask[0], masks[i])


def test_light_of_the_scene_is_taken(people):
    """A darker, bluer photograph gives a darker, bluer face."""
    image, faces, _ = people["hopper"]
    tint = torch.tensor([0.45, 0.5, 0.6])
    plain, mask = swap_faces(image, faces, people["collins"][2], settings=SwapSettings(size=256))
    tinted, _ = swap_faces(image * tint, faces, people["collins"][2], settings=SwapSettings(size=256))
    inside = mask[0] > 0.99
    ratio = tinted[0][inside].mean(0) / plain[0][inside].mean(0)
    assert ratio == pytest.approx(tint, rel=0.06)


def test_an_identity_without_photographs_is_refused(people):
    image, faces, _ = people["hopper"]
    empty = Identity({"w600k": np.ones(4, np.float32)}, np.zeros((0, 8, 8, 3), np.float32), ())
    with pytest.raises(FaceLoomError, match="no photograph"):
        swap_faces(image, faces, empty)


def test_progress_is_told_and_may_stop_the_work(people):
    image, faces, identity = people["hopper"]
    seen = []
    swap_faces(image, faces, identity, settings=SwapSettings(size=128), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (1, 1)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swap_faces(image, faces, identity, settings=SwapSettings(size=128), progress=stop)
