"""A method is one file and one row in ComfyUI, too: the loaders list and open its file, Swap Model Options shows its options."""

from __future__ import annotations

from pathlib import Path

import pytest

# Loader and widget of each pretend method.
LOADERS = {"onnx_engine": ("LoadSwapModel", "file"), "torch_engine": ("LoadSwapModel", "file"), "detector": ("LoadFaceDetector", "file"),
           "recognizer": ("LoadFaceRecognizer", "file"), "restorer": ("LoadRestoreModel", "file")}


@pytest.fixture
def pretend(pack, networks, models_in, tmp_path, monkeypatch):
    """A models folder with the pretend methods' files, as ComfyUI's; and the rows in the tables."""
    from pretend_methods import add_methods, write_files

    (tmp_path / "modules").mkdir()
    add_methods(tmp_path / "modules", monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = write_files(tmp_path / "models")
    with models_in(tmp_path / "models", ".onnx"):
        yield paths


def listed(nodes, node, widget) -> list[str]:
    return next(item.options for item in nodes[node].define_schema().inputs if item.id == widget)


def run(nodes, node, **given):
    inputs = {item.id: item.default for item in nodes[node].define_schema().inputs if not item.optional} | given
    result = nodes[node].execute(**inputs)
    return result.args[0], result.ui["text"][0]


@pytest.mark.parametrize("name", LOADERS)
def test_its_file_is_listed_and_opened(name, nodes, pretend):
    node, widget = LOADERS[name]
    entry = next(entry for entry in listed(nodes, node, widget) if Path(entry).name == pretend[name].name)
    loaded, text = run(nodes, node, **{widget: entry})
    assert type(loaded).__module__ == f"pretend_{name}"
    assert f"{pretend[name].name} on " in text and "Licence: unknown, the catalogue does not have this file" in text


def test_torch_networks_belong_to_comfyui(nodes, pretend):
    from comfy.model_patcher import ModelPatcher

    entry = next(entry for entry in listed(nodes, "LoadSwapModel", "file") if "lamp" in entry)
    engine, _ = run(nodes, "LoadSwapModel", file=entry)
    assert isinstance(engine.patcher, ModelPatcher) and engine.model.handle is engine.patcher


def test_swap_model_options_shows_its_options_and_sets_them(nodes, pretend):
    system = nodes["SwapModelOptions"].define_schema().inputs[1]
    widgets = {option.key: {item.id: item for item in option.inputs} for option in system.options}
    amount, half = widgets["Painter"]["amount"], widgets["Painter"]["half"]
    assert (amount.default, amount.min, amount.max, amount.step) == (.5, 0, 1, .1)
    assert amount.tooltip == "How much of the colour is painted."
    assert half.options == ["left", "right"] and widgets["Bright"]["stops"].max == 3 and widgets["Bright"]["invert"].default is False
    assert list(widgets)[-7:] == ["GHOST", "ReliableSwap", "SimSwap", "MegaFS", "FaceDancer", "FSLSD", "deepfakes"]
    engine, _ = run(nodes, "LoadSwapModel", file="walls.onnx")
    (changed,) = nodes["SwapModelOptions"].execute(engine, {"system": "Painter", "amount": .75, "half": "right"}).result
    assert vars(changed.options) == {"amount": .75, "half": "right"} and changed.model is engine.model
