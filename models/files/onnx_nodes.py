"""Reads the nodes of an ONNX graph with their attributes. Field numbers are those of onnx.proto3."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .onnx import OnnxFile, read_node_ends, read_tensor
from .protobuf import Value, as_bytes, as_number, as_signed, as_text, read_records, read_varints


@dataclass(frozen=True)
class Node:
    """One operation. inputs: "" where an optional one is left out. attributes: int, float, str, numpy array, or a list of numbers."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


def read_nodes(file: OnnxFile) -> tuple[Node, ...]:
    """Read all nodes, in the order in which they run."""
    return tuple(_read_node(value) for number, wire, value, _ in read_records(file.graph()) if (number, wire) == (1, 2))


def _read_node(message: Value) -> Node:
    ends = read_node_ends(message)
    attributes = dict(_read_attribute(value) for number, _, value, _ in read_records(message) if number == 5)
    return Node(ends.operator, ends.inputs, ends.outputs, attributes)


def _read_attribute(message: Value) -> tuple[str, Any]:
    """Read an AttributeProto: its name and its value."""
    name, single, floats, integers = "", None, [], []
    for number, wire, value, _ in read_records(message):
        if number == 1:
            name = as_text(value)
        elif number == 2:
            single = struct.unpack("<f", as_bytes(value))[0]
        elif number == 3:
            single = as_signed(as_number(value))
        elif number == 4:
            single = as_text(value)
        elif number == 5:
            single = read_tensor(value).array()
        elif number == 7:
            packed = as_bytes(value)
            floats += struct.unpack(f"<{len(packed) // 4}f", packed)
        elif number == 8:
            integers += [as_signed(item) for item in (read_varints(value) if wire == 2 else (as_number(value),))]
    return name, floats or integers or single
