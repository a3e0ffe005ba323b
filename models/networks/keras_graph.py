"""The graph of a Keras model as its file has it: layers, how they are joined, and an order they can be computed in."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import FaceLoomError

Graph = Mapping[str, Any]
End = tuple[str, int, int]  # a tensor: its layer's name, the call's number and the output's


@dataclass(frozen=True)
class Step:
    """One call of one layer, and the tensors nobody needs after it."""

    layer: Mapping[str, Any]
    call: int
    sources: tuple[End, ...]
    drop: tuple[End, ...] = ()


def plan(graph: Graph, wanted: Sequence[End] | None = None) -> list[Step]:
    """The layers' calls in an order they can be made in, whatever the file's, as far as ``wanted`` (all outputs) asks for them."""
    known = {end[:2] for end in ends(graph["input_layers"])}
    pending, steps = _calls(graph), []
    while pending:
        later = []
        for step in pending:
            if all(source[:2] in known for source in step.sources):
                known.add((step.layer["name"], step.call))
                steps.append(step)
            else:
                later.append(step)
        if len(later) == len(pending):
            raise FaceLoomError("The Keras model's graph does not hang together; the file is damaged.")
        pending = later
    return _with_drops(steps, set(ends(graph["output_layers"]) if wanted is None else wanted))


def _calls(graph: Graph) -> list[Step]:
    """Every call of every layer. A model in a model counts the call that built it as its first, so those from outside begin at 1."""
    inputs = {name for name, *_ in ends(graph["input_layers"])}
    models = {layer["name"] for layer in graph["layers"] if nested(layer)}
    return [Step(layer, number, tuple(_sources(node, models))) for layer in graph["layers"] if layer["name"] not in inputs
            for number, node in enumerate(layer["inbound_nodes"], 1 if nested(layer) else 0)]


def _sources(node: Sequence[Any] | Mapping[str, Any], models: Container[str]) -> Iterator[End]:
    """The tensors a call takes, those it takes by name (the second of ``a * b``) last. An operator's only entry is not wrapped.

    Keras 3 writes arguments as they were given, and there the first call of one of ``models`` is number 0, but 1 among the outputs.
    """
    if isinstance(node, Mapping):
        yield from ((name, call + (name in models), number) for name, call, number in _tensors([node["args"], node["kwargs"]]))
        return
    entries = [node] if isinstance(node[0], str) else node
    yield from (tuple(entry[:3]) for entry in entries)
    for value in entries[0][3].values() if len(entries[0]) > 3 else ():
        if isinstance(value, (list, tuple)) and len(value) == 3 and isinstance(value[0], str):
            yield tuple(value)


def _tensors(value: Any) -> Iterator[End]:
    """Keras 3's tensors in arguments however they lie in one another."""
    if isinstance(value, Mapping) and value.get("class_name") == "__keras_tensor__":
        yield tuple(value["config"]["keras_history"])
    elif isinstance(value, (list, tuple, Mapping)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each)


def _with_drops(steps: Sequence[Step], kept: set[End]) -> list[Step]:
    needed, out = set(kept), []
    for step in reversed(steps):
        if (step.layer["name"], step.call) not in {end[:2] for end in needed}:
            continue
        drop = tuple(source for source in dict.fromkeys(step.sources) if source not in needed)
        needed.update(step.sources)
        out.append(Step(step.layer, step.call, step.sources, drop))
    return out[::-1]


def ends(listed: Any) -> list[End]:
    """The inputs or outputs of a graph; a single one is not wrapped in newer files."""
    wrapped = listed if not listed or isinstance(listed[0], (list, tuple)) else [listed]
    return [tuple(end) for end in wrapped]


def class_of(layer: Mapping[str, Any]) -> str:
    """A layer's class without the package it was registered under."""
    return layer["class_name"].rsplit(">", 1)[-1]


def nested(layer: Mapping[str, Any]) -> bool:
    """Whether it is a model in the model."""
    return "layers" in layer["config"]


def graphs_of(graph: Graph) -> Iterator[Graph]:
    """A graph and the graphs of the models in it."""
    yield graph
    for layer in graph["layers"]:
        if nested(layer):
            yield from graphs_of(layer["config"])


def layers_of(graph: Graph) -> Iterator[Mapping[str, Any]]:
    """All layers, in models in the model too, but not those models."""
    return (layer for each in graphs_of(graph) for layer in each["layers"] if not nested(layer))


def input_shapes(graph: Graph) -> list[tuple[int | None, ...]]:
    """What each input takes, in Keras' layout and without the batch: ``(256, 256, 3)``, ``(512,)``."""
    layers = {layer["name"]: layer["config"] for layer in graph["layers"]}
    shapes = [layers[name].get("batch_input_shape") or layers[name].get("batch_shape") for name, *_ in ends(graph["input_layers"])]
    return [tuple(shape[1:]) for shape in shapes]
