"""Adds a pretend method to a stage as a contributor would: one module, from a temporary folder, and one row in the stage's table."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from importlib import import_module
from pathlib import Path

import torch

# Module in tests/pretend, the module with the stage's table, the table's name.
METHODS = {
    "onnx_engine": ("faceloom.models.swap.load", "ENGINES"),
    "torch_engine": ("faceloom.models.swap.load", "ENGINES"),
    "detector": ("faceloom.models.detect.load", "DETECTORS"),
    "recognizer": ("faceloom.models.identity.load", "RECOGNIZERS"),
    "restorer": ("faceloom.models.restore.load", "RESTORERS"),
}
# Where the file of each lies below the models folder.
FILES = {
    "onnx_engine": "faceloom/swap/walls.onnx", "torch_engine": "faceloom/bright/lamp.pth", "detector": "faceloom/detectors/middle.onnx",
    "recognizer": "faceloom/recognizers/frames.onnx", "restorer": "faceloom/restorers/negative.pth",
}  # fmt: skip


def add_methods(folder: Path, monkeypatch) -> dict:
    """Every pretend method, read from ``folder``. Returns the modules by name."""
    modules = {}
    for name, (place, table) in METHODS.items():
        path = Path(shutil.copy(Path(__file__).parent / "pretend" / f"{name}.py", folder))
        spec = importlib.util.spec_from_file_location(f"pretend_{name}", path)
        modules[name] = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, modules[name])  # dataclasses look their module up
        spec.loader.exec_module(modules[name])
        stage = import_module(place)
        monkeypatch.setattr(stage, table, (modules[name].METHOD, *getattr(stage, table)))
    return modules


def write_files(models: Path) -> dict[str, Path]:
    """A file for each pretend method in its folder of a models folder; the catalogue knows none of them."""
    from graphs import Graph

    paths = {name: models / file for name, file in FILES.items()}
    for name, port, vector in (("onnx_engine", "who", [[.2, .4, .6]]), ("detector", "anything", [[1.]]), ("recognizer", "frame", [[1.]])):
        graph = Graph()
        value = graph.node("MatMul", graph.input(port, [1, 1]), graph.weight(vector))
        graph.output("out", value, [1, len(vector[0])])
        graph.save(paths[name])
    for name, weights in (("torch_engine", {"brightness": torch.tensor([.125])}), ("restorer", {"white": torch.ones(1)})):
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        torch.save(weights, paths[name])
    return paths
