"""Files of every kind with any damage, given to every loader: a model or one sentence, never anything else."""

from __future__ import annotations

import io
import json
from functools import cache

import pytest
import torch
from faceloom.models.detect.load import load_detector
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.picture import read_picture_file
from faceloom.models.identity.files import load_identity
from faceloom.models.identity.load import load_recognizer
from faceloom.models.interop.convert import convert
from faceloom.models.parse.load import load_occluder, load_parser
from faceloom.models.restore.load import load_restorer
from faceloom.models.swap.load import load_engine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_bytes import swap_double
from PIL import Image
from safetensors.torch import save

LOADERS = (load_engine, load_detector, load_recognizer, load_parser, load_occluder, load_restorer, convert, load_identity,
           read_picture_file)  # fmt: skip
SUFFIXES = (".onnx", ".pth", ".ckpt", ".safetensors", ".h5", ".keras", ".dfm", ".jpg", ".png", ".tif")
WEIGHTS = {"a.weight": torch.arange(60.0).reshape(3, 20), "b": torch.ones(2)}


@cache
def wholes() -> tuple[bytes, ...]:
    """Small whole files of every kind."""
    files = [b"", b"<!DOCTYPE html><html></html>", json.dumps({"a": [[]]}).encode(), swap_double(), save(WEIGHTS, {"format": "pt"})]
    for zipped in (True, False):
        stream = io.BytesIO()
        torch.save(WEIGHTS, stream, _use_new_zipfile_serialization=zipped)
        files.append(stream.getvalue())
    for kind in ("JPEG", "PNG", "TIFF"):
        stream = io.BytesIO()
        Image.new("RGB", (24, 16), (200, 90, 30)).save(stream, kind)
        files.append(stream.getvalue())
    h5py = pytest.importorskip("h5py")
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["model_config"] = json.dumps({"config": {"name": "m", "layers": [], "input_layers": [], "output_layers": []}})
        file.create_dataset("model_weights/d/kernel", data=WEIGHTS["a.weight"].numpy())
    return *files, stream.getvalue()


def damaged(draw) -> bytes:
    """A whole file with bytes that were exchanged, taken out, put in, or cut off."""
    data = bytearray(draw(st.sampled_from(wholes())))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.sampled_from(["exchange", "cut", "insert", "remove", "repeat"]))
        if how == "exchange":
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif how == "cut":
            del data[at:]
        elif how == "insert":
            data[at:at] = draw(st.binary(max_size=12))
        elif how == "remove":
            del data[at : at + draw(st.integers(1, 40))]
        else:
            data[at:at] = data[at : at + 16] * draw(st.integers(1, 4))
    return bytes(data)


def one_file(data, folder) -> None:
    folder = folder / "files"
    folder.mkdir(exist_ok=True)
    path = folder / f"file{data.draw(st.sampled_from(SUFFIXES))}"
    path.write_bytes(damaged(data.draw))
    load = data.draw(st.sampled_from(LOADERS))
    try:
        load(path)
    except FaceLoomError as refused:
        assert "\n" not in str(refused) and len(str(refused)) < 1500
    finally:
        for left in folder.iterdir():
            left.unlink()


def tried(examples: int):
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@tried(250)
@given(data=st.data())
def test_any_file_is_a_model_or_one_sentence(data, tmp_path):
    one_file(data, tmp_path)


@pytest.mark.slow
@tried(5000)
@given(data=st.data())
def test_very_many_files_are_models_or_one_sentence(data, tmp_path):
    one_file(data, tmp_path)
