"""Files that are no models, under every suffix: one sentence says what each of them is, whatever packages are installed."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from faceloom.models.detect.load import load_detector
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.checkpoints import load_weights
from faceloom.models.files.damaged import WANTED, check_model_file, fault_of
from faceloom.models.identity.load import load_recognizer
from faceloom.models.interop.convert import convert
from faceloom.models.parse.load import load_occluder, load_parser
from faceloom.models.restore.load import load_restorer
from faceloom.models.swap.load import load_engine
from faceloom.models.systems.load import load_any_engine, load_system
from onnx_bytes import swap_double
from PIL import Image
from safetensors.torch import save

LOADERS = (load_engine, load_any_engine, load_system, load_detector, load_recognizer, load_parser, load_occluder, load_restorer, convert)
WEIGHTS = {"a.weight": torch.arange(400.0), "a.bias": torch.ones(2)}


def archive(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        for name, content in files.items():
            opened.writestr(name.replace("_", "."), content)
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as opened:
        opened.addfile(tarfile.TarInfo("net.pth"))
    return stream.getvalue()


def saved(zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(WEIGHTS, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (30, 30)).save(stream, "PNG")
    return stream.getvalue()


PAGE = "<!-- 404 --><HTML><body>not here</body>"
FOREIGN = {
    "empty": (b"", "empty"),
    "random": (np.random.default_rng(3).bytes(5000), "bytes that no model begins with"),
    "one byte": (b"\x01", "(bytes that no model begins with|cut short)"),
    "zeros": (bytes(9000), "only zeros"),
    "placeholder": (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12\n", "Git LFS"),
    "placeholder of Windows": (b"version https://git-lfs.github.com/spec/v1\r\noid sha256:" + b"a" * 64, "Git LFS"),
    "page": (b"<!DOCTYPE html><html><head>", "a web page"),
    "page with a mark": ("\ufeff\r\n  <html>".encode(), "a web page"),
    "page with a remark": (PAGE.encode() * 90, "a web page"),
    "page in 16 bits": (PAGE.encode("utf-16"), "a web page"),
    "JSON": (b'{"error": "Repository not found"}', "a JSON text"),
    "text": (b"Entry not found", "a text that begins with 'Entry not found'"),
    "long text": ("schöne Gesichter\n".encode() * 999, "a text that begins with 'schöne Gesichter'"),
    "picture": (picture(), "a picture"),
    "zip": (archive(readme_txt=b"hello"), "a zip file that holds readme.txt"),
    "empty zip": (b"PK\x05\x06" + bytes(18), "(empty zip|bytes that no model)"),
    "gzip": (gzip.compress(b"hello" * 99), "a gzip archive"),
    "tar": (tarred(), "a tar archive"),
    "PDF": (b"%PDF-1.7\n\xe2\xe3\xcf\xd3" + bytes(99), "a PDF document"),
}


@pytest.mark.parametrize("suffix", [*WANTED, ".PTH"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_model_is_called_by_its_name(tmp_path, monkeypatch, suffix, kind):
    content, words = FOREIGN[kind]
    for package in ("onnxruntime", "h5py"):
        monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(content)
    for load in LOADERS:
        with pytest.raises(FaceLoomError, match=rf"^mine\{suffix} is not [^.]*{words}[^\n]*\.$"):
            load(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


WHOLE = {
    ".onnx": swap_double(), ".pth": saved(), ".tar": saved(False), ".safetensors": save(WEIGHTS),
    ".keras": archive(config_json=b'{"config": {"layers": 3}}' * 9, model_weights_h5=bytes(500)),
}


@pytest.mark.parametrize("suffix", WHOLE)
def test_what_was_cut_short_is_not_whole(tmp_path, monkeypatch, suffix):
    for package in ("onnxruntime", "h5py"):
        monkeypatch.setitem(sys.modules, package, None)
    path, data = tmp_path / f"mine{suffix}", WHOLE[suffix]
    for cut in (10, 60, len(data) // 2, len(data) - 30):
        path.write_bytes(data[:cut])
        with pytest.raises(FaceLoomError, match=rf"^mine\{suffix} is not (a )?(whole|an ONNX model)[^\n]*\.$"):
            convert(path)


def test_a_whole_file_has_no_fault(tmp_path):
    for suffix, data in WHOLE.items():
        path = tmp_path / f"mine{suffix}"
        path.write_bytes(data)
        check_model_file(path)
    others = ((".pth", save(WEIGHTS)), (".bin", saved()), (".ckpt", saved(False)), (".task", b"anything"), (".dfm", swap_double()))
    for suffix, data in others:
        path = tmp_path / f"other{suffix}"
        path.write_bytes(data)
        assert fault_of(path) is None


def test_hdf5_files_that_were_cut_short(tmp_path):
    h5py = pytest.importorskip("h5py", reason="Keras files are read with h5py (the keras extra)")
    path = tmp_path / "mine.h5"
    for version in ("earliest", "latest"):
        with h5py.File(path, "w", libver=version) as file:
            file["x"] = np.random.default_rng(3).random(5000)
        assert fault_of(path) is None
        whole = path.read_bytes()
        for cut in (len(whole) - 1, len(whole) // 2, 200):
            path.write_bytes(whole[:cut])
            assert fault_of(path) == (f"is not a whole HDF5 file; it has {cut} of {len(whole)} bytes: the download was probably cut short, "
                                      "so fetch it again")


def header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize(("content", "words"), [
    (header(b"{}", 1 << 40), "states a header of 1099511627776 bytes but has 2"),
    (header(b"{}", 1 << 63), "bytes that no model begins with"),
    (header(b"[" * 100_000), "its header is nested more deeply"),
    (header(b'{"a":' * 100_000), "its header is nested more deeply"),
    (header(b"nonsense"), "its header is no JSON"), (header(b"[1, 2]"), "its header is a list"), (header(b'{"a": 3}'), "does not describe"),
    (header(b'{"a": {"data_offsets": [0, "x"]}}'), "whole"), (header(b'{"a": {"data_offsets": null}}'), "does not describe"),
    (header(json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()), "of 43980465"),
    (header(json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}).encode()) + bytes(4), "whole"),
])
def test_headers_of_safetensors_files(tmp_path, content, words):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(content)
    for load in (load_engine, load_occluder, load_restorer):
        with pytest.raises(FaceLoomError, match=rf"^mine\.safetensors is not [^\n]*{words}"):
            load(path)


@pytest.mark.parametrize(("suffix", "content", "words"), [
    (".onnx", saved(), "not an ONNX model but a PyTorch checkpoint"), (".onnx", save(WEIGHTS), "not an ONNX model but a safetensors file"),
    (".pth", swap_double(), "not a PyTorch checkpoint but an ONNX model, which is used as it is"),
    (".h5", saved(), "not a Keras .* but a PyTorch checkpoint"), (".keras", swap_double(), "not a Keras archive but an ONNX model"),
    (".safetensors", saved(), "not a safetensors file but a PyTorch checkpoint"),
    (".safetensors", pickle.dumps({"a": 1}), "not a safetensors file but a Python pickle"),
    (".pth", archive(config_json=b"{}", model_weights_h5=b"x"), "not a PyTorch checkpoint but a Keras archive"),
])
def test_models_of_another_format_than_their_suffix(tmp_path, suffix, content, words):
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(content)
    with pytest.raises(FaceLoomError, match=rf"^mine\{suffix} is {words}"):
        check_model_file(path)


def test_the_length_of_a_header_is_not_taken_for_a_pickle(tmp_path):
    """Of safetensors files, one in 64 begins as pickles do."""
    text = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode().ljust(0x280)
    for suffix in (".safetensors", ".pth"):
        path = tmp_path / f"mine{suffix}"
        path.write_bytes(header(text) + struct.pack("<2f", 1, 2))
        assert fault_of(path) is None and load_weights(path)["a"].tolist() == [1, 2]


def test_a_file_that_cannot_be_read(tmp_path):
    assert fault_of(tmp_path) == "cannot be read (Is a directory)" or sys.platform == "win32"
    assert fault_of(tmp_path / "none.pth") == "cannot be read (No such file or directory)"
