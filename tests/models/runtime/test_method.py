"""Which method of a stage opens a file, and how often the file is read for that."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.files import checkpoints
from faceloom.models.files.contents import Contents
from faceloom.models.files.find import find_by_path_or_name
from faceloom.models.files.folders import Folders
from faceloom.models.runtime.method import Loading, Method, any_file, built_in_method, has_suffix, is_row, open_model
from faceloom.models.runtime.options import Options, option
from safetensors.torch import save_file
from smallest import SMALLEST_ONNX


@dataclass(frozen=True)
class Shades(Options):
    depth: float = option(1.0, "How dark.", least=0.0, most=2.0)


def opens(name: str, **changes) -> Method:
    """A method that says which file it was given and with which options."""
    return Method(name, lambda file, loading, **options: (name, file and file.name, options), **{"kind": "swap"} | changes)


BUILT_IN = opens("paper", label="Paper (built in)")
SHADES = opens("shades", recognizes=lambda file: "lamp.weight" in file.tensors, options=Shades)
OTHERS = opens("others", recognizes=has_suffix(".safetensors"))
METHODS = (BUILT_IN, SHADES, OTHERS)


@pytest.fixture
def lamp(tmp_path):
    path = tmp_path / "lamp.safetensors"
    save_file({"lamp.weight": torch.ones(1)}, path)
    return path


@pytest.fixture
def loading(tmp_path):
    return Loading(Folders((tmp_path,)))


def test_a_built_in_method_goes_by_its_name_and_its_label(loading):
    for name in ("paper", "Paper (built in)"):
        assert built_in_method(METHODS, name) is BUILT_IN and open_model(METHODS, "swap", name, loading) == ("paper", None, {})
    assert built_in_method(METHODS, "shades") is None
    with pytest.raises(FaceLoomError, match="paper is built in and has no options; leave depth out"):
        open_model(METHODS, "swap", "paper", loading, {"depth": 1})


def test_the_first_row_that_recognizes_a_file_opens_it(lamp, loading):
    assert open_model(METHODS, "swap", lamp, loading)[0] == "shades"
    assert open_model(METHODS[::-1], "swap", lamp, loading)[0] == "others"
    save_file({"desk.weight": torch.ones(1)}, lamp)
    assert open_model(METHODS, "swap", lamp, loading) == ("others", "lamp", {})


def test_options_are_checked_before_the_file_is_opened(lamp, loading):
    assert open_model(METHODS, "swap", lamp, loading, {"depth": 2.0}) == ("shades", "lamp", {"depth": 2.0})
    for wrong, told in (({"depth": 2.5}, "from 0 to 2"), ({"hue": 1}, "hue")):
        with pytest.raises(FaceLoomError, match=told):
            open_model(METHODS, "swap", lamp, loading, wrong)
    with pytest.raises(FaceLoomError, match=r"lamp\.safetensors is opened as others, which has no options; leave depth out"):
        open_model([OTHERS], "swap", lamp, loading, {"depth": 1})


def test_a_file_that_no_row_recognizes(lamp, loading):
    with pytest.raises(FaceLoomError, match=r"lamp\.safetensors is no swap model FaceLoom knows; its first weights are lamp\.weight"):
        open_model([BUILT_IN], "swap", lamp, loading)


def test_a_file_of_another_kind(tmp_path, loading):
    path = tmp_path / "w600k_r50.onnx"
    path.write_bytes(SMALLEST_ONNX)
    with pytest.raises(FaceLoomError, match=r"w600k_r50\.onnx is a face recognizer, not a swap model"):
        open_model([opens("any", recognizes=any_file)], "swap", path, loading)
    assert open_model([opens("any", recognizes=any_file, kind="recognizer")], "swap", path, loading)[0] == "any"


def test_a_row_is_recognized_by_its_name_and_is_not_read(tmp_path, loading):
    path = tmp_path / "inswapper_128.onnx"
    path.write_bytes(SMALLEST_ONNX)
    known = Contents(find_by_path_or_name(path, "swap", loading.folders))
    path = path.rename(tmp_path / "mine.onnx")
    unknown = Contents(find_by_path_or_name(path, "swap", loading.folders))

    def never(file):
        raise AssertionError

    assert is_row("inswapper_128", never)(known) and not is_row("hififace_256", never)(known)
    assert is_row("inswapper_128", any_file)(unknown)


def test_a_file_is_read_once(lamp, loading, monkeypatch):
    reads, read = [], checkpoints.read_checkpoint
    monkeypatch.setattr(checkpoints, "read_checkpoint", lambda path: reads.append(path) or read(path))
    file = Contents(find_by_path_or_name(lamp, "swap", loading.folders))
    assert file.suffix == ".safetensors" and file.name == "lamp" and file.row is None and reads == []
    assert list(file.tensors) == ["lamp.weight"] == list(file.weights) and list(file.parts) == ["lamp"]
    assert reads == [lamp]
