"""Keras models run by torch from the graph in their own files, without TensorFlow."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from ..errors import FaceLoomError
from ..files.keras import Graph, read_keras
from . import first_names
from .keras_graph import LayerCall, class_name, graphs_of, input_shapes, is_model, layers_of, plan_calls, tensor_refs
from .keras_layers import ACTIVATIONS, OPERATORS, Layer, dense_names, shapes_for


class KerasNet(nn.Module):
    """A Keras model: its graph, and its weights by Keras' names (``conv2d/kernel``) in Keras' shapes.

    It takes its inputs in the model's own order, pictures as ``[N, C, H, W]`` whatever layout the layers had, and returns its output, or a
    tuple where it has several. Tensors are freed after their last use; kernels are stored as torch's channels-last convolutions read them.
    """

    def __init__(self, graph: Graph, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.graph = graph if "layers" in graph else graph["config"]
        _check_supported(self.graph)
        self._plans = {id(each): plan_calls(each) for each in graphs_of(self.graph)}
        self._partial_plans: dict[tuple[int, ...], list[LayerCall]] = {}
        self._buffers_of = {key: f"w{number}" for number, key in enumerate(weights)}
        for key, value in weights.items():
            self.register_buffer(self._buffers_of[key], channels_last(value))
        owners = {layer["name"] for layer in layers_of(self.graph)}
        self._buffers_of_layer: dict[str, dict[str, str]] = {}
        for key, buffer in self._buffers_of.items():
            parts = key.split("/")
            owner = next((name for end in range(1, len(parts)) if (name := "/".join(parts[:end])) in owners), None)
            if owner is not None:
                self._buffers_of_layer.setdefault(owner, {})[key.removeprefix(f"{owner}/")] = buffer

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights by Keras' names, without copying them."""
        return {key: getattr(self, buffer) for key, buffer in self._buffers_of.items()}

    def forward(self, *inputs: torch.Tensor, layers: Sequence[str] = (), outputs: Sequence[int] | None = None) -> Any:
        """Run the model.

        layers: names of layers whose outputs are returned too, as a dictionary beside the model's output. outputs: the numbers of the
        outputs to return (None is all of them); only what they need is computed.
        """
        layer_outputs = dict.fromkeys(layers)
        ordered = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]
        computed = self._run(self.graph, ordered, layer_outputs, None if outputs is None else tuple(outputs))
        output = computed[0] if len(computed) == 1 else tuple(computed)
        return (output, layer_outputs) if layers else output

    def _run(self, graph: Graph, inputs: Sequence[torch.Tensor], layer_outputs: dict[str, torch.Tensor | None],
             outputs: tuple[int, ...] | None = None) -> list[torch.Tensor]:
        """Run a graph and put the outputs of the layers that ``layer_outputs`` names into it."""
        values = dict(zip(tensor_refs(graph["input_layers"]), inputs, strict=True))
        calls, wanted = self._plans[id(graph)], tensor_refs(graph["output_layers"])
        if outputs is not None:
            wanted = [wanted[number] for number in outputs]
            calls = self._partial_plans[outputs] = self._partial_plans.get(outputs) or plan_calls(graph, wanted)
        for call in calls:
            arguments = [values[ref] for ref in call.inputs]
            for ref in call.released:
                del values[ref]
            name, layer = call.layer["name"], call.layer
            computed = self._run(layer["config"], arguments, layer_outputs) if is_model(layer) else [self._compute(layer, arguments)]
            values.update({(name, call.number, index): output for index, output in enumerate(computed)})
            if name in layer_outputs:
                layer_outputs[name] = computed[0]
        return [values[ref] for ref in wanted]

    def _compute(self, layer: Mapping[str, Any], arguments: list[torch.Tensor]) -> torch.Tensor:
        weights = {name: getattr(self, buffer) for name, buffer in self._buffers_of_layer.get(layer["name"], {}).items()}
        return getattr(Layer(layer["config"], weights), class_name(layer))(*arguments)


def _check_supported(graph: Graph) -> None:
    """Raise where the graph has layers or functions that ``Layer`` does not compute."""
    layers = list(layers_of(graph))
    unknown = {class_name(layer) for layer in layers if not hasattr(Layer, class_name(layer))}
    unknown |= {layer["config"]["function"] for layer in layers
                if class_name(layer) == "TFOpLambda" and layer["config"]["function"] not in OPERATORS}
    if unknown:
        raise FaceLoomError(f"The Keras model has layers FaceLoom does not know: {', '.join(sorted(unknown))}.")
    for name in sorted({layer["config"].get("activation") or "linear" for layer in layers} - set(ACTIVATIONS)):
        raise FaceLoomError(f"The Keras model uses the activation {name}, which FaceLoom does not know.")


def channels_last(weight: torch.Tensor) -> torch.Tensor:
    """Return an equal kernel ``[kh, kw, in, out]`` or ``[in, out]`` in the memory order that torch reads kernels in."""
    if weight.ndim == 4:
        return weight.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last).permute(2, 3, 1, 0)
    return weight.t().contiguous().t() if weight.ndim == 2 else weight


class WeightShapes(KerasNet):
    """A Keras model that is run only to find the shapes of the weights it needs, which follow from the shapes that go through it.

    Pictures come in batches of none, so that nothing is computed and no weight's memory is touched. (Tensors on ``meta`` would do the
    same, but torch takes three seconds to load what they need.)
    """

    def __init__(self, graph: Graph, known: Mapping[str, torch.Tensor]) -> None:
        super().__init__(graph, known)
        self.needed: dict[str, list[int]] = {}

    def _compute(self, layer: Mapping[str, Any], arguments: list[torch.Tensor]) -> torch.Tensor:
        name, kind = layer["name"], class_name(layer)
        shapes = shapes_for(kind, layer["config"], arguments, _two_dense_names(dense_names(self._buffers_of_layer.get(name, ()))))
        self.needed |= {f"{name}/{weight}": shape for weight, shape in shapes.items()}
        return getattr(Layer(layer["config"], {weight: torch.empty(shape) for weight, shape in shapes.items()}), kind)(*arguments)


def _two_dense_names(names: Sequence[str]) -> list[str]:
    """Fill up the names of an AdaIN layer's two dense layers with the usual ones."""
    return [*names, *["dense", "dense_1"][len(names) :]]


@torch.inference_mode()
def needed_weights(graph: Graph, known: Mapping[str, torch.Tensor] | None = None) -> tuple[dict[str, list[int]], list[tuple]]:
    """Find the shapes of all weights a graph needs, by Keras' names, in the order of their use, and of its outputs, ``(C, ...)``.

    known: the weights of a file, whose names for AdaIN's two dense layers are taken, because they differ from file to file.
    """
    net = WeightShapes(graph, {key: torch.empty(value.shape) for key, value in (known or {}).items() if "dense" in key})
    inputs = [torch.empty(0, cast(int, shape[-1]), *(edge or 64 for edge in shape[:-1])) for shape in input_shapes(net.graph)]
    output = net(*inputs)
    return net.needed, [tuple(each.shape[1:]) for each in (output if isinstance(output, tuple) else (output,))]


def check_weights(graph: Graph, weights: Mapping[str, torch.Tensor], name: str) -> None:
    """Raise unless ``weights`` are those the graph needs. name: what errors call the file."""
    needed, _ = needed_weights(graph, weights)
    missing = [key for key in needed if key not in weights]
    if missing:
        raise FaceLoomError(f"{name} lacks {len(missing)} of {len(needed)} weights ({first_names(missing)}); fetch it again.")
    other = [f"{key} is {list(weights[key].shape)}, not {shape}" for key, shape in needed.items() if list(weights[key].shape) != shape]
    if other:
        raise FaceLoomError(f"{name} holds weights of other shapes than its graph's ({first_names(other)}); fetch it again.")


def load_keras(path: str | os.PathLike, dtype: torch.dtype | None = None) -> KerasNet:
    """Open a ``.keras`` archive, a full-model ``.h5`` or a safetensors file made of one as a network that is ready to run.

    dtype: of the weights; None keeps the file's.
    """
    name = os.path.basename(path)
    graph, weights = read_keras(path, lambda graph: _names_by_layer(graph, name))
    with _graph_errors(name):
        check_weights(graph, weights, name)
        net = KerasNet(graph, weights).eval()
    return net if dtype is None else net.to(dtype)


@contextmanager
def _graph_errors(name: str) -> Iterator[None]:
    """Turn what a graph raises that is not as Keras writes it into a sentence. name: what errors call the file."""
    try:
        yield
    except FaceLoomError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, MemoryError) as error:
        raise FaceLoomError(f"{name} describes a network in another way than Keras does; export it again as a whole functional model."
                            ) from error


def _names_by_layer(graph: Graph, name: str) -> dict[str, list[str]]:
    """List the names of the weights that a graph needs, by the name of their layer, in the order of the layer's kind. name: what errors
    call the file."""
    names: dict[str, list[str]] = {}
    with _graph_errors(name):
        needed = needed_weights(graph)[0]
    for key in needed:
        names.setdefault(key.rpartition("/")[0], []).append(key)
    return names


def keras_metadata(net: KerasNet) -> dict[str, str]:
    """Make the metadata that a safetensors file needs beside the weights for ``load_keras`` to open it."""
    return {"model_config": json.dumps({"config": net.graph})}
