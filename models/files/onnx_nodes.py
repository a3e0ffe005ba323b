"""The nodes of an ONNX graph with their attributes, read without the ``onnx`` package (field numbers from onnx.proto3)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .onnx import OnnxFile, _records, _tensor, _text, _varints


@dataclass(frozen=True)
class Node:
    """One operation. inputs: "" where an optional one is left out. attributes: int, float, str, numpy array, or a list of numbers."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


def read_nodes(file: OnnxFile) -> tuple[Node, ...]:
    """All nodes, in the order in which they run."""
    graph = next(value for number, wire, value, _ in _records(file.data) if (number, wire) == (7, 2))
    return tuple(_node(value) for number, wire, value, _ in _records(graph) if (number, wire) == (1, 2))


def _node(data: memoryview) -> Node:
    inputs, outputs, attributes, name, operator = [], [], {}, "", ""
    for number, _, value, _ in _records(data):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 3:
            name = _text(value)
        elif number == 4:
            operator = _text(value)
        elif number == 5:
            key, content = _attribute(value)
            attributes[key] = content
    return Node(operator, name, tuple(inputs), tuple(outputs), attributes)


def _attribute(data: memoryview) -> tuple[str, Any]:
    name, single, floats, integers = "", None, [], []
    for number, wire, value, _ in _records(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            single = struct.unpack("<f", value)[0]
        elif number == 3:
            single = _signed(value)
        elif number == 4:
            single = _text(value)
        elif number == 5:
            single = _tensor(value).array()
        elif number == 7:
            floats += struct.unpack(f"<{len(value) // 4}f", value)
        elif number == 8:
            integers += [_signed(item) for item in (_varints(value) if wire == 2 else (value,))]
    return name, floats or integers or single


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
