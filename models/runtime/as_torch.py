"""Turns ONNX graphs into torch modules, so that their output can be differentiated."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FaceLoomError
from ..files.onnx import OnnxFile
from ..files.onnx_nodes import Node, read_nodes
from .method import HasModel


def torch_from_onnx(file: OnnxFile, name: str = "The model", output: int = 0) -> nn.Module:
    """Make a module in float32 of the graph of an ONNX file with one input, up to the output number ``output``.

    Its output equals onnxruntime's to rounding. It takes a batch of any size, also where the file was exported for a batch of one.
    name: of the file, for messages. FaceLoomError for graphs with operators that no recognizer or parser uses, and where the weights are in
    another file.
    """
    if file.external:
        raise FaceLoomError(f"{name} keeps its weights in another file; export it as one file.")
    return _Graph(file, name, output).eval().requires_grad_(False)


@runtime_checkable
class TorchBacked(Protocol):
    """A model around a torch network, such as ``TorchModel``."""

    net: nn.Module


@runtime_checkable
class OnnxBacked(Protocol):
    """A model around an ONNX file, such as ``OnnxModel``. name: of the file, for messages."""

    name: str
    file: OnnxFile


def copy_with_gradient(owner: object, output: int = 0) -> nn.Module | None:
    """Return a network with a gradient and weights of its own, which any autograd mode may use: of ``owner.model`` a copy of its torch
    network, or its ONNX file as a module, up to the output number ``output``. None where ``owner`` has no such model."""
    model = owner.model if isinstance(owner, HasModel) else None
    with torch.inference_mode(False):
        if isinstance(model, TorchBacked) and isinstance(model.net, nn.Module):
            return copy.deepcopy(model.net).eval().requires_grad_(False)
        if isinstance(model, OnnxBacked) and isinstance(model.file, OnnxFile):
            return torch_from_onnx(model.file, model.name, output)
    return None


class _Graph(nn.Module):
    """Runs the nodes of a graph one after the other. Weights are buffers; integers (shapes, axes) stay numpy arrays."""

    def __init__(self, file: OnnxFile, name: str, output: int) -> None:
        super().__init__()
        nodes = read_nodes(file)
        aliases = {node.outputs[0]: node.inputs[0] for node in nodes if node.operator in _PASS_THROUGH}
        self.input, self.output = file.inputs[0].name, _resolve(aliases, file.outputs[output].name)
        nodes = tuple(replace(node, inputs=tuple(_resolve(aliases, name) for name in node.inputs)) for node in nodes)
        nodes = _nodes_for(self.output, nodes)
        self.nodes = tuple(node for node in nodes if node.operator != "Constant")
        unknown = sorted({node.operator for node in self.nodes} - set(_OPERATORS))
        if unknown:
            raise FaceLoomError(f"{name} uses {', '.join(unknown)}, through which guidance cannot be computed; choose another network.")
        arrays = {tensor.name: tensor.array() for tensor in file.initializers}
        arrays |= {node.outputs[0]: np.asarray(next(iter(node.attributes.values()))) for node in nodes if node.operator == "Constant"}
        self.integers = {key: array for key, array in arrays.items() if array.dtype.kind in "iu"}
        self.buffer_names = {key: f"weight{i}" for i, key in enumerate(arrays) if key not in self.integers}
        for key, buffer_name in self.buffer_names.items():
            self.register_buffer(buffer_name, torch.tensor(arrays[key].astype(np.float32)))

    def forward(self, images: Tensor) -> Tensor:
        values: dict[str, Any] = {"": None, self.input: images, **self.integers}
        values |= {key: getattr(self, buffer_name) for key, buffer_name in self.buffer_names.items()}
        for node in self.nodes:
            values[node.outputs[0]] = _OPERATORS[node.operator](node.attributes, *(values[name] for name in node.inputs))
        return values[self.output]


def _resolve(aliases: Mapping[str, str], name: str) -> str:
    """Follow the aliases of a value to the name it was made under."""
    while name in aliases:
        name = aliases[name]
    return name


def _nodes_for(output: str, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Return the nodes that an output depends on, in order; heads for training and the like are left out."""
    needed_values, needed_nodes = {output}, []
    for node in reversed(nodes):
        if needed_values.intersection(node.outputs) and node.operator not in _PASS_THROUGH:
            needed_nodes.append(node)
            needed_values.update(node.inputs)
    return tuple(reversed(needed_nodes))


# The operators. Each takes a node's attributes and its inputs, named as in the ONNX specification, and returns the node's first output.


def _padded(attributes: Mapping, x: Tensor, kernel: tuple[int, ...], value: float = 0.0) -> Tensor:
    """Pad ``[N, C, H, W]`` with ``value`` as the attributes of a convolution or pooling of this kernel say."""
    if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        strides = attributes.get("strides", [1, 1])
        total = [max((-(-size // step) - 1) * step + edge - size, 0) for size, step, edge in zip(x.shape[2:], strides, kernel, strict=True)]
        first = [t // 2 if attributes["auto_pad"] == "SAME_UPPER" else -(-t // 2) for t in total]
        pads = [*first, *(t - f for t, f in zip(total, first, strict=True))]
    else:
        pads = attributes.get("pads", [0, 0, 0, 0])
    return F.pad(x, (pads[1], pads[3], pads[0], pads[2]), value=value) if any(pads) else x


def _conv(attributes: Mapping, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x = _padded(attributes, x, tuple(weight.shape[2:]))
    return F.conv2d(x, weight, bias, attributes.get("strides", 1), 0, attributes.get("dilations", 1), attributes.get("group", 1))


def _batch_norm(attributes: Mapping, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return F.batch_norm(x, mean, var, weight, bias, False, 0.0, attributes.get("epsilon", 1e-5))


def _prelu(attributes: Mapping, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, x * slope)


def _clip(attributes: Mapping, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return x.clamp(attributes.get("min") if low is None else float(low), attributes.get("max") if high is None else float(high))


def _gemm(attributes: Mapping, a: Tensor, b: Tensor, c: Tensor | float = 0.0) -> Tensor:
    a = a.mT if attributes.get("transA") else a
    b = b.mT if attributes.get("transB") else b
    return attributes.get("alpha", 1.0) * (a @ b) + attributes.get("beta", 1.0) * c


def _reshape(attributes: Mapping, x: Tensor, shape: np.ndarray | None = None) -> Tensor:
    sizes = [int(size) for size in (attributes["shape"] if shape is None else np.atleast_1d(shape))]
    sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    if sizes and sizes[0] == 1 and -1 in sizes:  # exported for a batch of one
        sizes[0] = x.shape[0]
    return x.reshape(sizes)


def _pool(average: bool) -> Callable[..., Tensor]:
    """Return the operator AveragePool or MaxPool."""
    def pool(attributes: Mapping, x: Tensor) -> Tensor:
        kernel = attributes["kernel_shape"]
        strides = attributes.get("strides", [1, 1])
        x = _padded(attributes, x, tuple(kernel), 0.0 if average else float("-inf"))
        return F.avg_pool2d(x, kernel, strides) if average else F.max_pool2d(x, kernel, strides)

    return pool


def _axes(attributes: Mapping, axes: np.ndarray | None) -> list[int]:
    """Return the axes, which older versions of an operator take as an attribute and newer ones as an input."""
    return [int(axis) for axis in (attributes.get("axes", []) if axes is None else np.atleast_1d(axes))]


def _unsqueeze(attributes: Mapping, x: Any, axes: np.ndarray | None = None) -> Any:
    for axis in sorted(_axes(attributes, axes)):
        x = x.unsqueeze(axis) if isinstance(x, Tensor) else np.expand_dims(x, axis)
    return x


def _squeeze(attributes: Mapping, x: Any, axes: np.ndarray | None = None) -> Any:
    return x.squeeze(tuple(_axes(attributes, axes))) if isinstance(x, Tensor) else np.squeeze(x, tuple(_axes(attributes, axes)))


def _concat(attributes: Mapping, *parts: Any) -> Any:
    return torch.cat(parts, attributes["axis"]) if isinstance(parts[0], Tensor) else np.concatenate([np.atleast_1d(p) for p in parts])


def _reduce(kind: str) -> Callable[..., Tensor]:
    """Return the operator ReduceMean (``mean``) or ReduceL2 (``norm``)."""
    def reduce(attributes: Mapping, x: Tensor, axes: np.ndarray | None = None) -> Tensor:
        dims, keep = _axes(attributes, axes), bool(attributes.get("keepdims", 1))
        return x.mean(dims, keep) if kind == "mean" else torch.linalg.vector_norm(x, dim=dims, keepdim=keep)

    return reduce


def _resize(attributes: Mapping, x: Tensor, region: Any = None, scales: Any = None, sizes: np.ndarray | None = None) -> Tensor:
    if sizes is not None:
        size = [int(edge) for edge in sizes[2:]]
    else:
        size = [int(edge * float(scale)) for edge, scale in zip(x.shape[2:], scales[2:], strict=True)]
    if attributes.get("mode", "nearest") == "nearest":
        return F.interpolate(x, size, mode="nearest")
    corners = attributes.get("coordinate_transformation_mode") == "align_corners"
    return F.interpolate(x, size, mode={"linear": "bilinear", "cubic": "bicubic"}[attributes["mode"]], align_corners=corners)


def _slice(attributes: Mapping, x: Any, starts: np.ndarray, ends: np.ndarray, axes: Iterable | None = None,
           steps: Iterable | None = None) -> Any:
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    slices = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        slices[int(axis)] = slice(int(start), int(end), int(step))
    return x[tuple(slices)]


# Operators that give what they take.
_PASS_THROUGH = ("Identity", "Dropout")

# The operators in insightface's and facenet's recognizers, in BiSeNet parsers and in what PyTorch's exporters write.
_OPERATORS: dict[str, Callable[..., Any]] = {
    "Conv": _conv, "BatchNormalization": _batch_norm, "PRelu": _prelu, "Clip": _clip, "Gemm": _gemm, "Reshape": _reshape,
    "AveragePool": _pool(True), "MaxPool": _pool(False), "Unsqueeze": _unsqueeze, "Squeeze": _squeeze, "Concat": _concat,
    "ReduceMean": _reduce("mean"), "ReduceL2": _reduce("norm"),
    "Add": lambda attributes, a, b: a + b, "Sub": lambda attributes, a, b: a - b,
    "Mul": lambda attributes, a, b: a * b, "Div": lambda attributes, a, b: a / b,
    "MatMul": lambda attributes, a, b: a @ b, "Relu": lambda attributes, x: x.relu(), "Sigmoid": lambda attributes, x: x.sigmoid(),
    "Sqrt": lambda attributes, x: x.sqrt(),
    "LeakyRelu": lambda attributes, x: F.leaky_relu(x, attributes.get("alpha", 0.01)),
    "Flatten": lambda attributes, x: x.flatten(attributes.get("axis", 1)) if attributes.get("axis", 1) == 1 else x.reshape(x.shape[0], -1),
    "GlobalAveragePool": lambda attributes, x: x.mean((2, 3), keepdim=True),
    "Transpose": lambda attributes, x: x.permute(attributes["perm"]),
    "Shape": lambda attributes, x: np.array(x.shape, np.int64),
    "Gather": lambda attributes, x, index: np.take(x, index, attributes.get("axis", 0)),
    "Cast": lambda attributes, x: x, "Resize": _resize, "Slice": _slice,
}  # fmt: skip
