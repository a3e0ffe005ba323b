"""Identity files come back bit by bit, and nothing else is mistaken for one."""

from __future__ import annotations

import os
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Identity
from faceloom.models.identity.files import identity_path, load_identity, save_identity
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file, save_file


@pytest.fixture
def identity():
    rng = np.random.default_rng(5)
    faces = tuple(
        Face(0, rng.uniform(0, 99, 4), rng.uniform(0, 99, (5, 2)), float(rng.uniform()), points68=rng.uniform(0, 99, (68, 2)),
             mesh=rng.uniform(0, 99, (478, 3)) if i else None, sex="female", age=41.5 if i else None)
        for i in range(2)
    )
    crops = rng.integers(0, 256, (2, 64, 64, 3)).astype(np.float32) / np.float32(255)
    vector = rng.normal(size=128).astype(np.float32)
    embeddings = {"dlib128": vector / np.linalg.norm(vector), "w600k": np.eye(1, 512, dtype=np.float32)[0]}
    return Identity(embeddings, crops, faces, 1.6, "Grace Ünï 🙂", 7)


def test_round_trip_is_exact(identity, tmp_path):
    path = identity_path(tmp_path / "new" / "folder", "grace")
    save_identity(identity, path)
    again = load_identity(path)
    assert np.array_equal(again.crops, identity.crops)
    assert (again.name, again.photos, again.framing) == (identity.name, 7, 1.6)
    assert set(again.embeddings) == set(identity.embeddings)
    for space, vector in identity.embeddings.items():
        assert np.array_equal(again.embeddings[space], vector)
    for a, b in zip(again.faces, identity.faces, strict=True):
        for key in ("box", "keypoints", "points68", "mesh"):
            assert (getattr(a, key) is None) == (getattr(b, key) is None)
            assert getattr(b, key) is None or np.array_equal(getattr(a, key), getattr(b, key))
        assert (a.score, a.sex, a.age) == (b.score, b.sex, b.age)
    assert os.listdir(path.parent) == ["grace.safetensors"]
    assert load_file(path)["dense"].shape == (len(identity.faces), 478, 3)  # the mesh's name in files, which older ones have too
    picture = Image.open(BytesIO(load_file(path)["thumbnail"].tobytes()))
    assert picture.size == (256, 256)
    assert np.asarray(picture, float).mean() == pytest.approx(identity.crops[0].mean() * 255, abs=4)


def test_identity_without_crops(identity, tmp_path):
    bare = replace(identity, crops=np.zeros((0, 256, 256, 3)), faces=())
    save_identity(bare, tmp_path / "bare.safetensors")
    again = load_identity(tmp_path / "bare.safetensors")
    assert again.crops.shape == (0, 256, 256, 3)
    assert again.faces == ()
    assert "thumbnail" not in load_file(tmp_path / "bare.safetensors")


def test_reactor_face_model(tmp_path):
    embedding = np.random.default_rng(1).normal(size=512).astype(np.float32) * 20
    tensors = {"bbox": np.zeros(4, np.float32), "kps": np.zeros((5, 2), np.float32), "det_score": np.float32([0.9]),
               "landmark_3d_68": np.zeros((68, 3), np.float32), "pose": np.zeros(3, np.float32),
               "landmark_2d_106": np.zeros((106, 2), np.float32),
               "embedding": embedding, "gender": np.int64([1]), "age": np.int64([40])}
    save_file(tensors, tmp_path / "Some One.safetensors")
    identity = load_identity(tmp_path / "Some One.safetensors")
    assert identity.name == "Some One"
    assert identity.embeddings["w600k"] == pytest.approx(embedding / np.linalg.norm(embedding), abs=1e-6)
    assert len(identity.crops) == 0


def test_truncated_at_any_place(identity, tmp_path):
    path = tmp_path / "whole.safetensors"
    save_identity(identity, path)
    data = path.read_bytes()
    for length in (0, 4, 8, 100, 2000, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.safetensors").write_bytes(data[:length])
        with pytest.raises(FaceLoomError, match="damaged"):
            load_identity(tmp_path / "cut.safetensors")


def test_other_files(identity, tmp_path):
    with pytest.raises(FaceLoomError, match="There is no identity file"):
        load_identity(tmp_path / "none.safetensors")
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "lora.safetensors")
    with pytest.raises(FaceLoomError, match="neither FaceLoom's nor a ReActor"):
        load_identity(tmp_path / "lora.safetensors")
    (tmp_path / "text.safetensors").write_text("hello " * 99)
    with pytest.raises(FaceLoomError, match="damaged"):
        load_identity(tmp_path / "text.safetensors")
    meta = {"format": "faceloom-identity", "version": "2", "faces": "[]", "framing": "1.6", "name": "", "photos": "1"}
    save_file({"crops": np.zeros((0, 8, 8, 3), np.uint8)}, tmp_path / "new.safetensors", meta)
    with pytest.raises(FaceLoomError, match="newer FaceLoom"):
        load_identity(tmp_path / "new.safetensors")
    save_file({"x": np.zeros(1, np.uint8)}, tmp_path / "lacks.safetensors", meta | {"version": "1"})
    with pytest.raises(FaceLoomError, match="damaged"):
        load_identity(tmp_path / "lacks.safetensors")
    nothing = {"embedding": np.zeros(512, np.float32), "bbox": np.zeros(4, np.float32), "kps": np.zeros((5, 2), np.float32)}
    save_file(nothing, tmp_path / "zero.safetensors")
    with pytest.raises(FaceLoomError, match="damaged"):
        load_identity(tmp_path / "zero.safetensors")


@pytest.mark.parametrize(("content", "words"), [
    (b"", "empty"), (b"<!DOCTYPE html><html>", "a web page"), (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
    (b"\x80\x02}q\x00.", "a Python pickle"), (b'{"error": "no"}', "a JSON text"),
    ((1 << 40).to_bytes(8, "little") + b"{}", "states a header"),
    ((100_000).to_bytes(8, "little") + b"[" * 100_000, "nested more deeply"), (bytes(5000), "only zeros"),
])
def test_files_that_hold_something_else(tmp_path, content, words):
    path = tmp_path / "someone.safetensors"
    path.write_bytes(content)
    with pytest.raises(FaceLoomError, match=rf"^[^\n]*someone\.safetensors is damaged: it is not [^\n]*{words}[^\n]*\.$"):
        load_identity(path)


def test_unwritable(identity, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FaceLoomError, match="cannot be written"):
        save_identity(identity, tmp_path / "file" / "x.safetensors")
    (tmp_path / "taken.safetensors").mkdir()
    with pytest.raises(FaceLoomError, match="cannot be written"):
        save_identity(identity, tmp_path / "taken.safetensors")
    assert sorted(os.listdir(tmp_path)) == ["file", "taken.safetensors"]


@pytest.mark.parametrize("name", [
    "../up", "..", ".", "", "  ", "a/b", "a\\b", "/etc/passwd", "C:\\x", "c:x", ".hidden", "nul", "COM1", "a\0b", "a\nb", "x" * 300, "end.",
    ".safetensors",
])
def test_names_that_point_elsewhere(name, tmp_path):
    with pytest.raises(FaceLoomError, match="cannot be a file name"):
        identity_path(tmp_path, name)


@given(st.text(max_size=40))
def test_a_path_never_leaves_the_folder(name):
    try:
        path = identity_path("/safe/folder", name)
    except FaceLoomError:
        return
    assert str(path.parent) == "/safe/folder"
    assert os.path.normpath(path) == str(path)
    assert path.suffix == ".safetensors"
    assert identity_path("/safe/folder", path.name) == path
