"""Finds every file that an ONNX model takes numbers from, and refuses those outside the model's folder. Field numbers: onnx.proto3."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import FaceLoomError
from .onnx import OnnxFile, damaged_file_error, read_tensor
from .protobuf import Value, read_records

# The fields of each message that lead to tensors, and the message each of them holds.
_CONTAINS = {
    "model": {7: "graph", 20: "training", 25: "function"}, "training": {1: "graph", 2: "graph"}, "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"}, "node": {5: "attribute"}, "sparse": {1: "tensor", 2: "tensor"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
}  # fmt: skip
_DEEPEST = 64  # graphs in graphs


def external_locations(file: OnnxFile) -> list[str]:
    """Return the ``location`` of every tensor, in any graph, function or attribute, whose numbers are in another file; each once.

    FaceLoomError where the model is damaged.
    """
    try:
        return list(dict.fromkeys(_locations(file.data, "model", 0)))
    except (IndexError, ValueError) as error:
        raise damaged_file_error() from error


def _locations(message: Value, kind: str, depth: int) -> Iterator[str]:
    if kind == "tensor":
        yield from read_tensor(message).external_files
        return
    if depth > _DEEPEST:
        raise ValueError("graphs in graphs without end")
    for number, wire, value, _ in read_records(message):
        if wire == 2 and number in _CONTAINS[kind]:
            yield from _locations(value, _CONTAINS[kind][number], depth + 1)


def check_external_files(file: OnnxFile, name: str, path: Path | None) -> None:
    """Raise FaceLoomError where a model takes numbers from a file outside its folder, or from one that is not there.

    name: of the model, for messages. path: of the model; None for one in memory, which has no folder. A link is taken for what it leads to,
    which may also be the folder that the model itself leads to (a download cache keeps files so).
    """
    for location in external_locations(file):
        if path is None:
            raise FaceLoomError(f"{name} keeps its weights in another file, {location[:80]}; save it as one file.")
        if not _is_inside(location, path):
            raise FaceLoomError(f"{name} takes weights from {location[:80]}, which is not in its folder, as no program writes it, so it is "
                                "refused; fetch it from another place.")
        if not (path.parent / location).is_file():
            raise FaceLoomError(f"{name} keeps its weights in {location[:80]}, which is not beside it; put both into one folder.")


def _is_inside(location: str, path: Path) -> bool:
    """Return whether ``location`` names a file in the folder of ``path``, by its words and by where links lead."""
    parts = location.replace("\\", "/").split("/")
    if not location or "\0" in location or os.path.isabs(location) or ".." in parts or parts[0] == "" or ":" in parts[0]:
        return False
    real = (path.parent / location).resolve()
    return any(real.is_relative_to(folder) for folder in (path.parent.resolve(), path.resolve().parent))
