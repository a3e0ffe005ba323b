"""What of an ONNX file onnxruntime does not show, read and changed in protobuf's wire format without the onnx package: single weights,
the names of nodes, and the batch dimension."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

# Field numbers of onnx.proto.
MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE_INFO = 1, 5, 11, 12, 13
NODE_NAME = 3
TENSOR_DIMS, TENSOR_TYPE, TENSOR_FLOATS, TENSOR_RAW = 1, 2, 4, 9
TENSOR_TYPES = {1: np.float32, 10: np.float16, 11: np.float64}
VALUE_NAME, VALUE_TYPE = 1, 2
TYPE_TENSOR = 1
TENSOR_SHAPE = 2
SHAPE_DIM = 1
DIM_VALUE, DIM_NAME = 1, 2

ROWS = b"rows"


def initializer(path: str | Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The last weight of this shape in a model file, None if there is none. Nothing else of the file is read into memory."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as model:
        found = None
        for tensor in _members(model, GRAPH_INITIALIZER):
            if _dims(tensor) == shape:
                found = _tensor(tensor, shape)
            tensor.release()
        return found


def first_nodes(path: str | Path, count: int) -> list[str]:
    """The names of a graph's first nodes."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as model:
        return [_text(node, NODE_NAME) for node in islice(_members(model, GRAPH_NODE), count)]


def _members(model: memoryview, kind: int) -> Iterator[memoryview]:
    for number, wire, graph in _fields(model):
        if number == MODEL_GRAPH and wire == 2:
            yield from (value for field, _, value in _fields(graph) if field == kind)


def _dims(tensor: memoryview) -> tuple[int, ...]:
    dims: list[int] = []
    for number, wire, value in _fields(tensor):
        if number == TENSOR_DIMS:
            dims.extend([value] if wire == 0 else _varints(value))
    return tuple(dims)


def _tensor(tensor: memoryview, shape: tuple[int, ...]) -> np.ndarray | None:
    values = {number: value for number, _, value in _fields(tensor) if number in (TENSOR_TYPE, TENSOR_FLOATS, TENSOR_RAW)}
    kind = TENSOR_TYPES.get(values.get(TENSOR_TYPE))
    data = values.get(TENSOR_RAW, values.get(TENSOR_FLOATS))
    if kind is None or data is None:
        return None
    return np.frombuffer(bytes(data), np.dtype(kind).newbyteorder("<")).reshape(shape).astype(kind)


def free_batch(model: bytes, inputs: set[str]) -> bytes:
    """The same model with a symbolic first dimension on the named inputs and on all outputs.

    Shapes recorded for values inside the graph are dropped; they are hints, and would now be wrong.
    """
    out = []
    for number, wire, value in _fields(memoryview(model)):
        out.append(_field(number, wire, _free_graph(value, inputs) if number == MODEL_GRAPH and wire == 2 else [value]))
    return b"".join(part for parts in out for part in parts)


def _free_graph(graph: memoryview, inputs: set[str]) -> list:
    out = []
    for number, wire, value in _fields(graph):
        if number == GRAPH_VALUE_INFO:
            continue
        if number == GRAPH_OUTPUT or (number == GRAPH_INPUT and _text(value, VALUE_NAME) in inputs):
            value = _map(value, (VALUE_TYPE, TYPE_TENSOR, TENSOR_SHAPE), _free_shape)
        out.extend(_field(number, wire, [value]))
    return out


def _free_shape(shape: bytes | memoryview) -> bytes:
    out, first = [], True
    for number, wire, value in _fields(memoryview(shape)):
        if number == SHAPE_DIM and first:
            first = False
            if any(field == DIM_VALUE and size == 1 for field, _, size in _fields(memoryview(value))):
                value = b"".join(_field(DIM_NAME, 2, [ROWS]))
        out.extend(_field(number, wire, [value]))
    return b"".join(out)


def _map(message: bytes | memoryview, path: tuple[int, ...], change) -> bytes:
    """``change`` applied to the submessage at this path of field numbers."""
    if not path:
        return change(message)
    out = []
    for number, wire, value in _fields(memoryview(message)):
        out.extend(_field(number, wire, [_map(value, path[1:], change) if number == path[0] and wire == 2 else value]))
    return b"".join(out)


def _text(message: memoryview, field: int) -> str:
    return next((bytes(value).decode() for number, _, value in _fields(message) if number == field), "")


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """``(field number, wire type, value)``: the integer of a varint, else the bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
        else:
            length, at = _varint(message, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            value, at = message[at:at + length], at + length
        yield number, wire, value


def _field(number: int, wire: int, value: list) -> list:
    """The pieces of one encoded field; ``value`` is a list of pieces, so that big weights are joined once at the end."""
    if wire == 0:
        return [_encode(number << 3), _encode(value[0])]
    size = [_encode(sum(map(len, value)))] if wire == 2 else []
    return [_encode(number << 3 | wire), *size, *value]


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _encode(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
