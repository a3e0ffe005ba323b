"""Copies an ONNX model that was exported for a batch of one with a first dimension that may have any size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .onnx import OnnxFile, damaged_file_error, read_node_ends, read_port, read_tensor
from .protobuf import as_bytes, encode_record, encode_record_head, read_records, rewrite_records


def with_free_batch(file: OnnxFile, reshapes: bool = False) -> bytes:
    """Return the same model with a symbolic first dimension on every input and output of two or more dimensions.

    reshapes: exporters write the batch of 1 into the target shapes of Reshape nodes as well; where it stands first, it becomes 0, which
    means "as it comes". Whether the graph then computes the same has to be tried.
    """
    try:
        return b"".join(_model_parts(file, reshapes))  # the only copy of the weights
    except (IndexError, ValueError) as error:
        raise damaged_file_error() from error


def _model_parts(file: OnnxFile, reshapes: bool) -> Iterator[bytes | memoryview]:
    """Yield the records of the new model: the graph's are changed, the others are those of the file."""
    stored = {tensor.name for tensor in file.initializers}
    for number, wire, value, whole in read_records(file.data):
        if (number, wire) == (7, 2):
            graph = as_bytes(value)
            parts = _graph_parts(graph, stored, _target_shapes(graph, stored) if reshapes else frozenset())
            yield from (encode_record_head(7, sum(map(len, parts))), *parts)
        else:
            yield whole


def _graph_parts(graph: memoryview, stored: set[str], shapes: frozenset[str]) -> list[bytes | memoryview]:
    """Return the records of the new graph. stored: names of the initializers. shapes: names of the target shapes to change.

    Recorded shapes of values inside the graph (field 13) are left out: they would contradict the new ones.
    """
    parts: list[bytes | memoryview] = []
    for number, _, value, whole in read_records(graph):
        if number == 1 and shapes:
            parts.append(encode_record(1, _with_free_constant(as_bytes(value), shapes)))
        elif number == 5 and shapes and read_tensor(value).name in shapes:
            parts.append(encode_record(5, _with_free_target(as_bytes(value))))
        elif number in (11, 12) and read_port(value).name not in stored:
            parts.append(encode_record(number, rewrite_records(value, {2: _with_free_type})))
        elif number != 13:
            parts.append(whole)
    return parts


def _with_free_type(value_type: memoryview) -> bytes:
    """Free the first dimension in a TypeProto."""
    return rewrite_records(value_type, {1: lambda tensor_type: rewrite_records(tensor_type, {2: _with_free_dimension})})


def _with_free_dimension(shape: memoryview) -> bytes:
    """Give the first of two or more dimensions of a TensorShapeProto the name ``batch`` instead of a size."""
    dimensions = [value for number, _, value, _ in read_records(shape) if number == 1]
    first = encode_record(2, b"batch") if len(dimensions) > 1 else b"".join(map(bytes, dimensions[:1]))
    others = (encode_record(1, bytes(dimension)) for dimension in dimensions[1:])
    return b"".join([encode_record(1, first) if dimensions else b"", *others])


def _target_shapes(graph: memoryview, stored: set[str]) -> frozenset[str]:
    """Find the names of shapes that only Reshape nodes read, and only those that reshape what comes from the inputs: weights have no
    batch. stored: names of the initializers."""
    nodes = [read_node_ends(value) for number, _, value, _ in read_records(graph) if number == 1]
    fixed = {"", *stored}  # values that do not depend on the inputs; nodes lie in the order in which they run
    shapes, read_by_others = set(), set()
    for node in nodes:
        if fixed.issuperset(node.inputs):
            fixed.update(node.outputs)
        reshapes_batch = node.operator == "Reshape" and len(node.inputs) > 1 and node.inputs[0] not in fixed
        if reshapes_batch:
            shapes.update(node.inputs[1:2])
        read_by_others.update(name for place, name in enumerate(node.inputs) if not (reshapes_batch and place == 1))
    return frozenset(shapes - read_by_others)


def _with_free_target(tensor: memoryview) -> bytes:
    """Replace the 1 that a target shape of two or more numbers begins with by 0; other tensors are copied."""
    shape = read_tensor(tensor)
    if shape.dtype != np.int64 or shape.external or len(shape.shape) != 1 or shape.shape[0] < 2:
        return bytes(tensor)
    numbers = shape.array()
    if numbers[0] != 1:
        return bytes(tensor)
    numbers[0] = 0
    kept = b"".join(bytes(whole) for number, _, _, whole in read_records(tensor) if number not in (7, 9))
    return kept + encode_record(9, numbers.tobytes())


def _with_free_constant(node: memoryview, shapes: frozenset[str]) -> bytes:
    """Change the tensor of a Constant node that gives one of these target shapes; other nodes are copied."""
    if not shapes.intersection(read_node_ends(node).outputs):
        return bytes(node)
    return rewrite_records(node, {5: lambda attribute: rewrite_records(attribute, {5: _with_free_target})})
