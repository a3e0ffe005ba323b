"""The graph of a Keras model as its file has it: its layers, how they are joined, and an order to compute them in."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import FaceLoomError
from ..files.keras import Graph

# Names a tensor by its layer, the number of the layer's call, and the number of the call's output.
TensorRef = tuple[str, int, int]


@dataclass(frozen=True)
class LayerCall:
    """One call of one layer. number: of the call among the layer's calls. released: inputs that no later call needs."""

    layer: Mapping[str, Any]
    number: int
    inputs: tuple[TensorRef, ...]
    released: tuple[TensorRef, ...] = ()


def plan_calls(graph: Graph, wanted: Sequence[TensorRef] | None = None) -> list[LayerCall]:
    """Order the layers' calls so that each comes after those whose outputs it takes.

    wanted: the tensors to compute; calls that they do not need are left out. None is all outputs.
    """
    known = {ref[:2] for ref in tensor_refs(graph["input_layers"])}
    pending, calls = _calls(graph), []
    while pending:
        later = []
        for call in pending:
            if all(ref[:2] in known for ref in call.inputs):
                known.add((call.layer["name"], call.number))
                calls.append(call)
            else:
                later.append(call)
        if len(later) == len(pending):
            raise FaceLoomError("The Keras model's graph does not hang together; the file is damaged.")
        pending = later
    return _with_releases(calls, set(tensor_refs(graph["output_layers"]) if wanted is None else wanted))


def _calls(graph: Graph) -> list[LayerCall]:
    """List every call of every layer.

    A model in a model counts the call that built it as number 0, so that calls from outside begin at 1.
    """
    inputs = {name for name, *_ in tensor_refs(graph["input_layers"])}
    models = {layer["name"] for layer in graph["layers"] if is_model(layer)}
    return [LayerCall(layer, number, tuple(_inputs(node, models))) for layer in graph["layers"] if layer["name"] not in inputs
            for number, node in enumerate(layer["inbound_nodes"], 1 if is_model(layer) else 0)]


def _inputs(node: Sequence[Any] | Mapping[str, Any], models: Container[str]) -> Iterator[TensorRef]:
    """List the tensors that a call takes; those it takes by name (the second of ``a * b``) come last.

    The only entry of an operator is not wrapped in a list. Keras 3 writes arguments as they were given, and numbers the first call of one
    of ``models`` 0 among arguments but 1 among outputs.
    """
    if isinstance(node, Mapping):
        yield from ((name, call + (name in models), number) for name, call, number in _tensors([node["args"], node["kwargs"]]))
        return
    entries = [node] if isinstance(node[0], str) else node
    yield from (tuple(entry[:3]) for entry in entries)
    for value in entries[0][3].values() if len(entries[0]) > 3 else ():
        if isinstance(value, (list, tuple)) and len(value) == 3 and isinstance(value[0], str):
            yield tuple(value)


def _tensors(value: Any) -> Iterator[TensorRef]:
    """Find Keras 3's tensors in arguments, however deeply these are nested."""
    if isinstance(value, Mapping) and value.get("class_name") == "__keras_tensor__":
        yield tuple(value["config"]["keras_history"])
    elif isinstance(value, (list, tuple, Mapping)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each)


def _with_releases(calls: Sequence[LayerCall], kept: set[TensorRef]) -> list[LayerCall]:
    """Leave out calls that the ``kept`` tensors do not need, and add to each call the inputs that no later one needs."""
    needed, out = set(kept), []
    for call in reversed(calls):
        if (call.layer["name"], call.number) not in {ref[:2] for ref in needed}:
            continue
        released = tuple(ref for ref in dict.fromkeys(call.inputs) if ref not in needed)
        needed.update(call.inputs)
        out.append(LayerCall(call.layer, call.number, call.inputs, released))
    return out[::-1]


def tensor_refs(listed: Any) -> list[TensorRef]:
    """List the inputs or outputs of a graph; newer files do not wrap a single one in a list."""
    wrapped = listed if not listed or isinstance(listed[0], (list, tuple)) else [listed]
    return [tuple(ref) for ref in wrapped]


def class_name(layer: Mapping[str, Any]) -> str:
    """Return a layer's class without the package it was registered under."""
    return layer["class_name"].rsplit(">", 1)[-1]


def is_model(layer: Mapping[str, Any]) -> bool:
    """Tell whether a layer is itself a model."""
    return "layers" in layer["config"]


def graphs_of(graph: Graph) -> Iterator[Graph]:
    """Yield a graph and the graphs of the models in it."""
    yield graph
    for layer in graph["layers"]:
        if is_model(layer):
            yield from graphs_of(layer["config"])


def layers_of(graph: Graph) -> Iterator[Mapping[str, Any]]:
    """Yield all layers, those of models in the model too, but not these models themselves."""
    return (layer for each in graphs_of(graph) for layer in each["layers"] if not is_model(layer))


def input_shapes(graph: Graph) -> list[tuple[int | None, ...]]:
    """List the shape of each input in Keras' layout, without the batch: ``(256, 256, 3)``, ``(512,)``."""
    layers = {layer["name"]: layer["config"] for layer in graph["layers"]}
    shapes = [layers[name].get("batch_input_shape") or layers[name].get("batch_shape") for name, *_ in tensor_refs(graph["input_layers"])]
    return [tuple(shape[1:]) for shape in shapes]
