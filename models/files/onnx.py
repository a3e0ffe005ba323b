"""Just enough of the ONNX file format: inputs, outputs, initializers, and a copy with another batch dimension.

ComfyUI users do not have the ``onnx`` package, and parsing half a gigabyte into Python objects to read one matrix takes seconds. Here the
file is mapped into memory and only the tags of its protobuf records are walked (protobuf wire format; field numbers from onnx.proto3).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from ..errors import FaceLoomError

# onnx.TensorProto.DataType
DTYPES = {
    1: np.dtype(np.float32), 2: np.dtype(np.uint8), 3: np.dtype(np.int8), 4: np.dtype(np.uint16), 5: np.dtype(np.int16),
    6: np.dtype(np.int32), 7: np.dtype(np.int64), 9: np.dtype(np.bool_), 10: np.dtype(np.float16), 11: np.dtype(np.float64),
    12: np.dtype(np.uint32), 13: np.dtype(np.uint64),
}  # fmt: skip

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Port:
    """An input or output. shape: None per dimension that may have any size; all None where nothing is said."""

    name: str
    shape: Shape | None
    dtype: np.dtype | None


@dataclass(frozen=True)
class Initializer:
    """A stored tensor. Its numbers are only read by ``array``."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype | None
    fields: tuple[tuple[int, int, memoryview | int], ...]

    @property
    def external(self) -> bool:
        """Whether its numbers are in another file."""
        return any(number == 14 and value == 1 for number, _, value in self.fields)

    @property
    def place(self) -> str | None:
        """The file beside the model that its numbers are in (``location`` of onnx.proto3's external_data); None if it is not said."""
        entries = [{field: _text(text) for field, _, text, _ in _records(value)} for number, _, value in self.fields if number == 13]
        return next((entry.get(2) for entry in entries if entry.get(1) == "location"), None) if self.external else None

    def array(self) -> np.ndarray:
        """The numbers, as a copy."""
        if self.external or self.dtype is None:
            raise FaceLoomError(f"The tensor {self.name} of this ONNX file is stored elsewhere or in a format that cannot be read here; "
                                "save the model as one file.")
        raw = next((value for number, _, value in self.fields if number == 9), None)
        try:
            values = self._listed().astype(self.dtype) if raw is None else np.frombuffer(raw, self.dtype).copy()
            return values.reshape(self.shape)
        except (TypeError, ValueError) as error:
            raise FaceLoomError(f"The tensor {self.name} of this ONNX file is damaged; fetch the file again.") from error

    def _listed(self) -> np.ndarray:
        """The typed lists small tensors may use instead of raw bytes (half floats lie as bits in the int32 list)."""
        kinds = {4: np.float32, 10: np.float64}
        values: list[np.ndarray] = []
        for number, wire, value in self.fields:
            if number in kinds:
                values.append(np.frombuffer(value, kinds[number]))
            elif number in (5, 7, 11):
                numbers = list(_varints(value)) if wire == 2 else [value]
                values.append(np.array(numbers, np.uint64).astype(np.int64))
        flat = np.concatenate(values) if values else np.zeros(0)
        return flat.astype(np.uint16).view(np.float16) if self.dtype == np.float16 else flat


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX model, opened for reading. ``inputs`` leave out the initializers that old exporters list among them; ``operators`` are in the
    order of the graph's nodes. ``reads``: the names of all values that nodes take."""

    data: memoryview
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    initializers: tuple[Initializer, ...]
    operators: tuple[str, ...]
    reads: frozenset[str]

    @property
    def external(self) -> bool:
        """Whether weights lie in files beside it."""
        return any(tensor.external for tensor in self.initializers)

    def lacking(self, folder: Path) -> str | None:
        """The first file of weights that is not in ``folder``."""
        try:
            places = dict.fromkeys(tensor.place for tensor in self.initializers)
            return next((place for place in places if place and not (folder / place).is_file()), None)
        except (IndexError, ValueError) as error:
            raise FaceLoomError("This ONNX file is damaged; fetch it again.") from error

    def initializer(self, shape: tuple[int, ...]) -> Initializer | None:
        """The last initializer of this shape (the emap of inswapper is the last of 512×512)."""
        return next((tensor for tensor in reversed(self.initializers) if tensor.shape == shape), None)

    def unread(self, shape: tuple[int, ...]) -> Initializer | None:
        """The last initializer of this shape that no node takes, which is there for whoever reads the file."""
        return next((tensor for tensor in reversed(self.initializers) if tensor.shape == shape and tensor.name not in self.reads), None)

    def node_names(self, count: int) -> list[str]:
        """The names of the first ``count`` nodes."""
        graph = next(value for number, wire, value, _ in _records(self.data) if (number, wire) == (7, 2))
        nodes = islice((value for number, _, value, _ in _records(graph) if number == 1), count)
        return [next((_text(text) for field, _, text, _ in _records(node) if field == 3), "") for node in nodes]

    def with_free_batch(self, reshapes: bool = False) -> bytes:
        """The same model with a symbolic first dimension on every input and output of two or more dimensions.

        reshapes: exporters bake the batch of 1 into the target shapes of Reshape nodes; replace it there by "as it comes" (0).
        Whether the graph then computes the same has to be tried.
        """
        try:
            return b"".join(self._free_parts(reshapes))  # the only copy of the weights
        except (IndexError, ValueError) as error:
            raise FaceLoomError("This ONNX file is damaged; fetch it again.") from error

    def _free_parts(self, reshapes: bool) -> Iterator[bytes | memoryview]:
        stored = {tensor.name for tensor in self.initializers}
        for number, wire, value, span in _records(self.data):
            if (number, wire) == (7, 2):
                graph = _free_graph(value, stored, _baked_shapes(value, stored) if reshapes else frozenset())
                yield from (_encode(7 << 3 | 2), _encode(sum(map(len, graph))), *graph)
            else:
                yield span


def read_onnx(source: str | os.PathLike | bytes) -> OnnxFile:
    """Open a file or the bytes of one. Raises FaceLoomError, saying what it is instead, if it is no whole ONNX model."""
    name = "The model" if isinstance(source, bytes) else Path(source).name
    data = memoryview(source) if isinstance(source, bytes) else _map(Path(source))
    other = name_other_format(bytes(data[:64]))
    if other:
        raise FaceLoomError(f"{name} is not an ONNX model but {other}.")
    try:
        model = _parse(data)
    except (IndexError, ValueError) as error:
        if bytes(data[:1]) != b"\x08":  # the format's version, with which protobuf begins every model
            raise FaceLoomError(f"{name} is not an ONNX model.") from error
        raise FaceLoomError(f"{name} is not a whole ONNX model; the download was probably cut short, so fetch it again.") from error
    if model is None:
        raise FaceLoomError(f"{name} is not an ONNX model.")
    return model


def name_other_format(head: bytes) -> str | None:
    """What a file that was taken for a model is, from its first bytes."""
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page that was saved in its place; fetch it again"
    if text.startswith(b"version https://git-lfs"):
        return "the placeholder of a Git LFS file; fetch the file itself"
    if head.startswith(b"PK\x03\x04"):
        return "a zip file or a PyTorch checkpoint"
    if head.startswith(b"\x80") and head[1:2] in b"\x02\x03\x04\x05" and len(head) > 1:
        return "a Python pickle or an old PyTorch checkpoint"
    if head.startswith(b"\x89HDF\r\n"):
        return "a Keras (HDF5) file"
    if len(head) > 9 and head[8:9] == b"{" and head[7:8] == b"\0":
        return "a safetensors file"
    return None


def _map(path: Path) -> memoryview:
    if not path.is_file():
        raise FaceLoomError(f"There is no file {path}.")
    if not path.stat().st_size:
        raise FaceLoomError(f"{path.name} is empty; fetch it again.")
    with path.open("rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("varint too long")


def _varints(data: memoryview | int) -> Iterator[int]:
    data, at = _bytes_of(data), 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _bytes_of(value: memoryview | int) -> memoryview:
    """The value of a record that must be bytes: in a damaged file it may be a number."""
    if isinstance(value, int):
        raise ValueError("a number where bytes belong")
    return value


def _records(data: memoryview | int) -> Iterator[tuple[int, int, memoryview | int, memoryview]]:
    """``(field number, wire type, value, the bytes of the whole record)``."""
    data, at = _bytes_of(data), 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
        elif wire in (1, 2, 5):
            length, at = _varint(data, at) if wire == 2 else (8 if wire == 1 else 4, at)
            value, at = data[at : at + length], at + length
        else:
            raise ValueError("unknown wire type")
        if at > len(data) or number == 0:
            raise ValueError("record ends outside the file")
        yield number, wire, value, data[start:at]


def _parse(data: memoryview) -> OnnxFile | None:
    graph = None
    for number, wire, value, _ in _records(data):
        if (number, wire) == (7, 2):
            graph = value
    if graph is None:
        return None
    inputs, outputs, tensors, operators, reads = [], [], [], [], set()
    for number, wire, value, _ in _records(graph):
        if wire != 2:
            continue
        if number == 1:
            node = _node(value)
            operators.append(node.operator)
            reads.update(node.inputs)
        elif number == 5:
            tensors.append(_tensor(value))
        elif number == 11:
            inputs.append(_port(value))
        elif number == 12:
            outputs.append(_port(value))
    if not outputs:
        return None
    stored = {tensor.name for tensor in tensors}
    known = tuple(port for port in inputs if port.name not in stored)
    return OnnxFile(data, known, tuple(outputs), tuple(tensors), tuple(operators), frozenset(reads))


def _text(value: memoryview | int) -> str:
    return bytes(_bytes_of(value)).decode("utf-8")


def _tensor(data: memoryview) -> Initializer:
    name, shape, dtype, fields = "", [], None, []
    for number, wire, value, _ in _records(data):
        if number == 1:
            shape += list(_varints(value)) if wire == 2 else [value]
        elif number == 2:
            dtype = DTYPES.get(value) if wire == 0 else None
        elif number == 8:
            name = _text(value)
        else:
            fields.append((number, wire, value))
    return Initializer(name, tuple(shape), dtype, tuple(fields))


def _port(data: memoryview) -> Port:
    port = Port("", None, None)
    for number, _, value, _ in _records(data):
        if number == 1:
            port = replace(port, name=_text(value))
        elif number == 2:
            for kind, _, tensor, _ in _records(value):
                if kind == 1:
                    port = _typed(port, tensor)
    return port


def _typed(port: Port, tensor: memoryview) -> Port:
    for number, wire, value, _ in _records(tensor):
        if number == 1:
            port = replace(port, dtype=DTYPES.get(value) if wire == 0 else None)
        elif number == 2:
            port = replace(port, shape=tuple(_dimension(dim) for field, _, dim, _ in _records(value) if field == 1))
    return port


def _dimension(data: memoryview) -> int | None:
    """The size; symbolic names, 0 and -1 (as unsigned numbers) stand for any."""
    return next((value for number, wire, value, _ in _records(data) if (number, wire) == (1, 0) and 0 < value < 1 << 62), None)


def _field(number: int, payload: bytes) -> bytes:
    return _encode(number << 3 | 2) + _encode(len(payload)) + payload


def _encode(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _rewrite(data: memoryview, change: dict[int, object]) -> bytes:
    """Copy records; those whose field number is in ``change`` become what it makes of them."""
    return b"".join(
        _field(number, change[number](value)) if wire == 2 and number in change else bytes(span)
        for number, wire, value, span in _records(data)
    )


@dataclass(frozen=True)
class _Node:
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def _node(data: memoryview) -> _Node:
    texts: dict[int, list[str]] = {1: [], 2: [], 4: [""]}
    for number, _, value, _ in _records(data):
        if number in texts:
            texts[number].append(_text(value))
    return _Node(texts[4][-1], tuple(texts[1]), tuple(texts[2]))


def _baked_shapes(graph: memoryview, stored: set[str]) -> frozenset[str]:
    """Names of the shapes that only Reshape nodes read, and only such as reshape what comes from the inputs: weights have no batch."""
    nodes = [_node(value) for number, _, value, _ in _records(graph) if number == 1]
    fixed = {"", *stored}  # does not depend on the inputs; nodes lie in the order in which they run
    shapes, others = set(), set()
    for node in nodes:
        if fixed.issuperset(node.inputs):
            fixed.update(node.outputs)
        batched = node.operator == "Reshape" and len(node.inputs) > 1 and node.inputs[0] not in fixed
        if batched:
            shapes.add(node.inputs[1])
        others.update(name for place, name in enumerate(node.inputs) if not (batched and place == 1))
    return frozenset(shapes - others)


def _free_shape(tensor: memoryview) -> bytes:
    """A shape tensor ``[1, ...]`` of two or more numbers with 0 in the first place."""
    array = _tensor(tensor)
    if array.dtype != np.int64 or array.external or len(array.shape) != 1 or array.shape[0] < 2:
        return bytes(tensor)
    numbers = array.array()
    if numbers[0] != 1:
        return bytes(tensor)
    numbers[0] = 0
    kept = b"".join(bytes(span) for number, _, _, span in _records(tensor) if number not in (7, 9))
    return kept + _field(9, numbers.tobytes())


def _free_node(node: memoryview, baked: frozenset[str]) -> bytes:
    """A Constant node that makes one of the baked shapes."""
    if not baked.intersection(_node(node).outputs):
        return bytes(node)
    return _rewrite(node, {5: lambda attribute: _rewrite(attribute, {5: _free_shape})})


def _free_graph(graph: memoryview, stored: set[str], baked: frozenset[str]) -> list[bytes | memoryview]:
    """Inputs and outputs get the symbolic dimension; recorded shapes of inner values (field 13) are dropped, they would contradict it."""

    def free_shape(shape: memoryview) -> bytes:
        dims = [value for number, _, value, _ in _records(shape) if number == 1]
        first = _field(2, b"batch") if len(dims) > 1 else b"".join(map(bytes, dims[:1]))
        return b"".join([_field(1, first) if dims else b"", *(_field(1, bytes(dim)) for dim in dims[1:])])

    def free_tensor(tensor: memoryview) -> bytes:
        return _rewrite(tensor, {2: free_shape})

    def free_type(kind: memoryview) -> bytes:
        return _rewrite(kind, {1: free_tensor})

    parts: list[bytes | memoryview] = []
    for number, _, value, span in _records(graph):
        if number == 1 and baked:
            parts.append(_field(1, _free_node(value, baked)))
        elif number == 5 and baked and _tensor(value).name in baked:
            parts.append(_field(5, _free_shape(value)))
        elif number in (11, 12) and _port(value).name not in stored:
            parts.append(_field(number, _rewrite(value, {2: free_type})))
        elif number != 13:
            parts.append(span)
    return parts
