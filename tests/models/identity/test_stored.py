"""Identity files of strangers: each either holds a person that every later stage can use, or is refused in one sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from faceloom.models.crops.crop import crop_matrix
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import FFHQ_TEMPLATE, Face, Identity
from faceloom.models.identity.files import load_identity, save_identity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

DEEP = "[" * 100_000 + "]" * 100_000
NUMBERS = ("boxes", "keypoints", "scores", "points68", "dense", "embedding.w600k")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The tensors and the metadata of a whole identity file."""
    rng = np.random.default_rng(5)
    face = Face(0, [9, 8, 55, 60], FFHQ_TEMPLATE * 64, .9, points68=rng.uniform(0, 63, (68, 2)), mesh=rng.uniform(0, 63, (478, 3)),
                sex="female", age=41.5)
    crops = rng.integers(0, 256, (1, 64, 64, 3)).astype(np.float32) / np.float32(255)
    path = tmp_path_factory.mktemp("whole") / "grace.safetensors"
    save_identity(Identity({"w600k": np.eye(1, 512, dtype=np.float32)[0]}, crops, (face,), 1.6, "Grace", 3, {"w600k": 21.5}), path)
    with safe_open(path, "np") as file:
        return load_file(path), file.metadata()


def write(path, stored, tensors=None, metadata=None, without=()):
    """Write the whole file with some of its entries changed or left out."""
    kept = {key: np.ascontiguousarray(value) for key, value in {**stored[0], **(tensors or {})}.items() if key not in without}
    save_file(kept, path, {key: value for key, value in {**stored[1], **(metadata or {})}.items() if key not in without})
    return path


def refused(path, words):
    """Check that the file is refused in one sentence that names it and says what to do."""
    with pytest.raises(FaceLoomError, match=words) as caught:
        load_identity(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and text.endswith("; save the identity again.")
    assert text.count(". ") == 0 and "\n" not in text and len(text) < len(str(path)) + 220


@pytest.mark.parametrize("framing", ["0", "-1", "nan", "inf", "-inf", "1e9", "0.0001", "wide", ""])
def test_framings_of_which_no_crop_can_be_made(stored, tmp_path, framing):
    refused(write(tmp_path / "x.safetensors", stored, metadata={"framing": framing}), "framing")


@pytest.mark.parametrize("framing", ["0.05", "1.6", "40"])
def test_framings_that_crops_can_have(stored, tmp_path, framing):
    identity = load_identity(write(tmp_path / "x.safetensors", stored, metadata={"framing": framing}))
    assert identity.framing == float(framing)
    assert np.isfinite(crop_matrix(identity.faces[0], 64, identity.framing)).all()


@pytest.mark.parametrize("photos", ["0", "-3", "nan", "1e3", "9" * 5000, "many", str(10**12)])
def test_impossible_numbers_of_photos(stored, tmp_path, photos):
    refused(write(tmp_path / "x.safetensors", stored, metadata={"photos": photos}), "photos")


@pytest.mark.parametrize("version", ["0", "-1", "one", "", "9" * 5000])
def test_impossible_versions(stored, tmp_path, version):
    refused(write(tmp_path / "x.safetensors", stored, metadata={"version": version}), "version")


def test_a_newer_version_is_not_called_damaged(stored, tmp_path):
    with pytest.raises(FaceLoomError, match=r"newer FaceLoom; update FaceLoom\.$") as caught:
        load_identity(write(tmp_path / "x.safetensors", stored, metadata={"version": "2"}))
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("text", [
    DEEP, '{"a":' * 50_000 + "1" + "}" * 50_000, "", "{", "null", "3", '"x"', "{}", "[]", "[1]", "[null]", "1" * 5000, "\x00",
    '[{"sex": 5, "age": 3}]', '[{"sex": "x", "age": 3}]', '[{"sex": null, "age": "old"}]', '[{"sex": null, "age": NaN}]',
    '[{"sex": null, "age": 1e999}]', '[{"sex": null, "age": true}]', '[{"sex": null, "age": null}, {"sex": null, "age": null}]',
], ids=lambda text: repr(text[:30]))
def test_descriptions_of_faces_that_are_none(stored, tmp_path, text):
    refused(write(tmp_path / "x.safetensors", stored, metadata={"faces": text}), "faces|sex|age")


@pytest.mark.parametrize("text", [
    DEEP, "", "null", "3", "[]", "[1]", "1" * 5000, '{"w600k": NaN}', '{"w600k": 0}', '{"w600k": -1}', '{"w600k": "x"}', '{"w600k": [1]}',
    '{"w600k": Infinity}', '{"w600k": null}', '{"w600k": true}', '{"other": -1}',
], ids=lambda text: repr(text[:30]))
def test_norms_that_are_no_lengths(stored, tmp_path, text):
    refused(write(tmp_path / "x.safetensors", stored, metadata={"norms": text}), "norms?")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_that_are_none(stored, tmp_path, key, value):
    one = stored[0][key].copy()
    one.reshape(-1)[1 % one.size] = value
    if key == "embedding.w600k" and value == 1e30:
        return  # a long vector is no damage: it is made unit, below
    refused(write(tmp_path / "x.safetensors", stored, {key: one}), key.partition(".")[0])


@pytest.mark.parametrize("key", ["points68", "dense"])
def test_points_that_a_face_does_not_have(stored, tmp_path, key):
    """Files hold NaN, and nothing else, where a face has no such points."""
    absent = np.full_like(stored[0][key], np.nan)
    face = load_identity(write(tmp_path / "x.safetensors", stored, {key: absent})).faces[0]
    assert (face.points68 is None) == (key == "points68") and (face.mesh is None) == (key == "dense")


@pytest.mark.parametrize("key", [*NUMBERS, "crops"])
def test_tensors_of_other_shapes_and_types(stored, tmp_path, key):
    whole = stored[0][key]
    others = [np.concatenate([whole, whole])] if key != "embedding.w600k" else [whole[None], whole[:128], np.tile(whole, 2)]
    others += [whole[:0], whole.astype(bool), whole.astype(np.complex64), np.zeros((0, 3), whole.dtype)]
    others += [whole.reshape(-1)] if whole.ndim > 1 else []
    for number, other in enumerate(others):
        refused(write(tmp_path / f"{number}.safetensors", stored, {key: other}), key.partition(".")[0])
    if key != "embedding.w600k":  # not every recognizer's is there
        refused(write(tmp_path / "without.safetensors", stored, without=(key,)), key)


@pytest.mark.parametrize("shape", [(1, 64, 32, 3), (1, 32, 64, 3), (1, 64, 64, 4), (1, 64, 64), (1, 0, 0, 3), (2, 64, 64, 3),
                                   (0, 64, 64, 3), (1, 20000, 1, 3)])
def test_crops_that_are_not_square_pictures(stored, tmp_path, shape):
    refused(write(tmp_path / "x.safetensors", stored, {"crops": np.zeros(shape, np.uint8)}), "crops")


@pytest.mark.parametrize("keypoints", [np.zeros((5, 2)), np.full((5, 2), 31.), np.stack([FFHQ_TEMPLATE[:, 0]] * 2, -1) * 1e-6])
def test_keypoints_in_one_place(stored, tmp_path, keypoints):
    refused(write(tmp_path / "x.safetensors", stored, {"keypoints": keypoints[None].astype(np.float32)}), "keypoints")


@pytest.mark.parametrize("length", [1e-3, 7, 1e30])
def test_embeddings_of_any_length_are_made_unit(stored, tmp_path, length):
    vector = np.eye(1, 512, dtype=np.float32)[0] * np.float32(length)
    identity = load_identity(write(tmp_path / "x.safetensors", stored, {"embedding.w600k": vector}))
    assert np.array_equal(identity.embeddings["w600k"], np.eye(1, 512, dtype=np.float32)[0])


def test_neither_face_nor_embedding(stored, tmp_path):
    empty = {key: stored[0][key][:0] for key in ("crops", "boxes", "keypoints", "scores", "points68", "dense")}
    path = write(tmp_path / "x.safetensors", stored, empty, {"faces": "[]"}, without=("embedding.w600k",))
    refused(path, "neither")


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn])
def test_kinds_of_numbers_that_numpy_does_not_have(stored, tmp_path, kind):
    path = tmp_path / "x.safetensors"
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in stored[0].items()}
    save_tensors({**tensors, "keypoints": tensors["keypoints"].to(kind)}, path, stored[1])
    with pytest.raises(FaceLoomError, match=r"damaged.*; save the identity again\.$"):  # other words where a package adds the kind to numpy
        load_identity(path)


@pytest.mark.parametrize(("embedding", "words"), [
    (np.ones(3), "512"), (np.ones((2, 512)), "512"), (np.zeros(512), "zero or not finite"), (np.full(512, np.nan), "zero or not finite"),
    (np.full(512, 1e300), "zero or not finite"), (np.zeros(0), "512"), (np.ones(512, np.complex64), "512"),
])
def test_damaged_face_models_of_reactor(tmp_path, embedding, words):
    path = tmp_path / "x.safetensors"
    save_file({"embedding": embedding, "bbox": np.zeros(4, np.float32), "kps": np.zeros((5, 2), np.float32)}, path)
    refused(path, words)


texts = st.one_of(st.text(max_size=20), st.sampled_from(["0", "-1", "NaN", "1e999", DEEP, "[]", "{}", "null", '[{"sex": null, "age": 1}]']))
shapes = st.lists(st.integers(0, 4), max_size=4)
kinds = st.sampled_from([np.float16, np.float32, np.float64, np.uint8, np.int64, np.bool_])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_entry_changed(stored, tmp_path, data):
    """A changed file is refused, or gives an identity that can be saved, loaded and cropped by."""
    key = data.draw(st.sampled_from([*stored[0], *stored[1]]))
    path = tmp_path / "x.safetensors"
    if key in stored[1]:
        write(path, stored, metadata={key: data.draw(texts)})
    else:
        value = data.draw(st.sampled_from([0, 1, -1, 255, np.nan, np.inf, 1e30]))
        with np.errstate(all="ignore"):
            write(path, stored, {key: np.full(data.draw(shapes), value).astype(data.draw(kinds))})
    try:
        identity = load_identity(path)
    except FaceLoomError as error:
        assert "\n" not in str(error).replace(str(path), "")
        return
    save_identity(identity, tmp_path / "again.safetensors")
    again = load_identity(tmp_path / "again.safetensors")
    assert np.array_equal(again.crops, identity.crops) and json.dumps(dict(again.norms)) == json.dumps(dict(identity.norms))
    assert all(np.isfinite(crop_matrix(face, 64, again.framing)).all() for face in again.faces)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8), cut=st.floats(0, 1))
def test_any_bytes_changed(stored, tmp_path, places, cut):
    path = write(tmp_path / "x.safetensors", stored)
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for place, byte in places:
        content[int(place * min(len(content), 2 * header))] = byte
    path.write_bytes(content[: round(len(content) * cut)])
    try:
        load_identity(path)
    except FaceLoomError as error:
        assert str(error).startswith(str(path))
