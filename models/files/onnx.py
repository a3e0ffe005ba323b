"""Reads of an ONNX file what a loader needs: inputs, outputs, operators and initializers.

ComfyUI users do not have the ``onnx`` package, and parsing half a gigabyte into Python objects to read one matrix takes seconds. Here the
file is mapped into memory and only the tags of its protobuf records are walked. Field numbers are those of onnx.proto3.
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
from .protobuf import Value, as_bytes, as_number, as_text, read_records, read_varints

# onnx.TensorProto.DataType
DTYPES = {
    1: np.dtype(np.float32), 2: np.dtype(np.uint8), 3: np.dtype(np.int8), 4: np.dtype(np.uint16), 5: np.dtype(np.int16),
    6: np.dtype(np.int32), 7: np.dtype(np.int64), 9: np.dtype(np.bool_), 10: np.dtype(np.float16), 11: np.dtype(np.float64),
    12: np.dtype(np.uint32), 13: np.dtype(np.uint64),
}  # fmt: skip

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Port:
    """An input or output of a graph. shape: None for each dimension that may have any size; None itself where the file states no shape.
    dtype: None where the file states none, or one that numpy does not have."""

    name: str
    shape: Shape | None
    dtype: np.dtype | None


@dataclass(frozen=True)
class Initializer:
    """A tensor that is stored in the file (TensorProto). ``array`` reads its numbers, nothing else does.

    fields: field number, wire type and value of the records that hold the numbers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype | None
    fields: tuple[tuple[int, int, Value], ...]

    @property
    def external(self) -> bool:
        """Whether its numbers are in another file."""
        return any(number == 14 and value == 1 for number, _, value in self.fields)

    @property
    def external_files(self) -> list[str]:
        """The paths, from the model's folder, of the file that holds its numbers (``location`` of onnx.proto3's external_data); a damaged
        model may state none or several."""
        entries = [{field: as_text(text) for field, _, text, _ in read_records(value)} for number, _, value in self.fields if number == 13]
        return [entry.get(2, "") for entry in entries if entry.get(1) == "location"]

    def array(self) -> np.ndarray:
        """Copy the numbers into an array. FaceLoomError where they are in another file, of a type numpy does not have, or damaged."""
        if self.external or self.dtype is None:
            raise FaceLoomError(f"The tensor {self.name} of this ONNX file is stored elsewhere or in a format that cannot be read here; "
                                "save the model as one file.")
        raw = next((value for number, _, value in self.fields if number == 9), None)
        try:
            values = self._typed_list().astype(self.dtype) if raw is None else np.frombuffer(as_bytes(raw), self.dtype).copy()
            return values.reshape(self.shape)
        except (TypeError, ValueError) as error:
            raise FaceLoomError(f"The tensor {self.name} of this ONNX file is damaged; fetch the file again.") from error

    def _typed_list(self) -> np.ndarray:
        """Read the typed lists that small tensors may use instead of raw bytes (half floats lie as bits in the int32 list)."""
        floats = {4: np.float32, 10: np.float64}
        values: list[np.ndarray] = []
        for number, wire, value in self.fields:
            if number in floats:
                values.append(np.frombuffer(as_bytes(value), floats[number]))
            elif number in (5, 7, 11):
                numbers = list(read_varints(value)) if wire == 2 else [as_number(value)]
                values.append(np.array(numbers, np.uint64).astype(np.int64))
        flat = np.concatenate(values) if values else np.zeros(0)
        return flat.astype(np.uint16).view(np.float16) if self.dtype == np.float16 else flat


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX model, opened for reading.

    data: the whole file. inputs: without the initializers that old exporters list among them. operators: of the graph's nodes, in order.
    node_inputs: the names of all values that a node takes.
    """

    data: memoryview
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    initializers: tuple[Initializer, ...]
    operators: tuple[str, ...]
    node_inputs: frozenset[str]

    @property
    def external(self) -> bool:
        """Whether weights lie in files beside the model."""
        return any(tensor.external for tensor in self.initializers)

    def initializer(self, shape: tuple[int, ...]) -> Initializer | None:
        """Return the last initializer of this shape (the emap of inswapper is the last of 512×512)."""
        return next((tensor for tensor in reversed(self.initializers) if tensor.shape == shape), None)

    def unused_initializer(self, shape: tuple[int, ...]) -> Initializer | None:
        """Return the last initializer of this shape that no node takes: it is there for programs that read the file."""
        unused = (tensor for tensor in reversed(self.initializers) if tensor.name not in self.node_inputs)
        return next((tensor for tensor in unused if tensor.shape == shape), None)

    def node_names(self, count: int) -> list[str]:
        """Return the names of the first ``count`` nodes, "" for those without one."""
        nodes = islice((value for number, _, value, _ in read_records(self.graph()) if number == 1), count)
        return [next((as_text(text) for field, _, text, _ in read_records(node) if field == 3), "") for node in nodes]

    def graph(self) -> memoryview:
        """Return the GraphProto message."""
        return next(as_bytes(value) for number, wire, value, _ in read_records(self.data) if (number, wire) == (7, 2))


def read_onnx(source: str | os.PathLike | bytes) -> OnnxFile:
    """Open a file, or the bytes of one. FaceLoomError, which says what the file is instead, where it is no whole ONNX model."""
    name = "The model" if isinstance(source, bytes) else Path(source).name
    data = memoryview(source) if isinstance(source, bytes) else _map_file(Path(source))
    other = name_other_format(bytes(data[:64]))
    if other:
        raise FaceLoomError(f"{name} is not an ONNX model but {other}.")
    try:
        model = _parse_model(data)
    except (IndexError, ValueError) as error:
        if bytes(data[:1]) != b"\x08":  # every ONNX model begins with its format version, field 1
            raise FaceLoomError(f"{name} is not an ONNX model.") from error
        raise FaceLoomError(f"{name} is not a whole ONNX model; the download was probably cut short, so fetch it again.") from error
    if model is None:
        raise FaceLoomError(f"{name} is not an ONNX model.")
    return model


def name_other_format(head: bytes) -> str | None:
    """Say what a file that was taken for a model really is, from its first 64 bytes; None for ONNX models and unknown files."""
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page that was saved in its place; fetch it again"
    if text.startswith(b"version https://git-lfs"):
        return "the placeholder of a Git LFS file; fetch the file itself"
    if head.startswith(b"PK\x03\x04"):
        return "a zip file or a PyTorch checkpoint"
    if len(head) > 9 and head[8:9] == b"{" and head[7:8] == b"\0":
        return "a safetensors file"
    if head.startswith(b"\x80") and head[1:2] in b"\x02\x03\x04\x05" and len(head) > 1:
        return "a Python pickle or an old PyTorch checkpoint"
    if head.startswith(b"\x89HDF\r\n"):
        return "a Keras (HDF5) file"
    return None


def damaged_file_error() -> FaceLoomError:
    """Return the error for a model whose damage shows only after it was opened."""
    return FaceLoomError("This ONNX file is damaged; fetch it again.")


def _map_file(path: Path) -> memoryview:
    """Map a file into memory, read-only."""
    if not path.is_file():
        raise FaceLoomError(f"There is no file {path}.")
    if not path.stat().st_size:
        raise FaceLoomError(f"{path.name} is empty; fetch it again.")
    with path.open("rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def _parse_model(data: memoryview) -> OnnxFile | None:
    """Read a ModelProto; None where it has no graph, or a graph without outputs."""
    graph = None
    for number, wire, value, _ in read_records(data):
        if (number, wire) == (7, 2):
            graph = value
    if graph is None:
        return None
    inputs, outputs, tensors, operators, node_inputs = [], [], [], [], set()
    for number, wire, value, _ in read_records(graph):
        if wire != 2:
            continue
        if number == 1:
            node = read_node_ends(value)
            operators.append(node.operator)
            node_inputs.update(node.inputs)
        elif number == 5:
            tensors.append(read_tensor(value))
        elif number == 11:
            inputs.append(read_port(value))
        elif number == 12:
            outputs.append(read_port(value))
    if not outputs:
        return None
    stored = {tensor.name for tensor in tensors}
    inputs = [port for port in inputs if port.name not in stored]
    return OnnxFile(data, tuple(inputs), tuple(outputs), tuple(tensors), tuple(operators), frozenset(node_inputs))


@dataclass(frozen=True)
class NodeEnds:
    """A node without its attributes: its operator and the names of the values it takes and gives."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_node_ends(message: Value) -> NodeEnds:
    """Read a NodeProto without its attributes, which may be large."""
    texts: dict[int, list[str]] = {1: [], 2: [], 4: [""]}
    for number, _, value, _ in read_records(message):
        if number in texts:
            texts[number].append(as_text(value))
    return NodeEnds(texts[4][-1], tuple(texts[1]), tuple(texts[2]))


def read_tensor(message: Value) -> Initializer:
    """Read a TensorProto but for its numbers."""
    name, shape, dtype, fields = "", [], None, []
    for number, wire, value, _ in read_records(message):
        if number == 1:
            shape += list(read_varints(value)) if wire == 2 else [as_number(value)]
        elif number == 2:
            dtype = DTYPES.get(value) if isinstance(value, int) else None
        elif number == 8:
            name = as_text(value)
        else:
            fields.append((number, wire, value))
    return Initializer(name, tuple(shape), dtype, tuple(fields))


def read_port(message: Value) -> Port:
    """Read a ValueInfoProto."""
    port = Port("", None, None)
    for number, _, value, _ in read_records(message):
        if number == 1:
            port = replace(port, name=as_text(value))
        elif number == 2:
            for tensor_type in _values(value, 1):
                port = _with_type(port, tensor_type)
    return port


def _with_type(port: Port, tensor_type: Value) -> Port:
    """Add the dtype and shape of a TypeProto.Tensor."""
    for number, _, value, _ in read_records(tensor_type):
        if number == 1:
            port = replace(port, dtype=DTYPES.get(value) if isinstance(value, int) else None)
        elif number == 2:
            port = replace(port, shape=tuple(_read_dimension(dimension) for dimension in _values(value, 1)))
    return port


def _read_dimension(message: Value) -> int | None:
    """Read a size; None for symbolic names, 0 and -1 (as unsigned numbers), which stand for any."""
    sizes = (value for number, _, value, _ in read_records(message) if number == 1 and isinstance(value, int))
    return next((size for size in sizes if 0 < size < 1 << 62), None)


def _values(message: Value, wanted: int) -> Iterator[Value]:
    """Yield the values of one field."""
    return (value for number, _, value, _ in read_records(message) if number == wanted)
