"""Keras graphs made ready to be run often: the file is checked against its graph, tensors are freed after their last use, and kernels lie
as torch's channels-last convolutions read them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import FaceLoomError
from .keras_graph import KerasNet, as_list, class_of, nested, nodes_of, read_keras

Tensor = tuple[str, int, int]  # a layer's name, its call's number and the output's


@dataclass(frozen=True)
class Step:
    """One call of one layer, and the tensors nobody needs after it."""

    layer: Mapping[str, Any]
    call: int
    sources: tuple[Tensor, ...]
    drop: tuple[Tensor, ...] = ()


def plan(graph: Mapping[str, Any]) -> list[Step]:
    """The layers' calls in an order they can be made in, whatever the file's."""
    inputs = [tuple(end) for end in as_list(graph["input_layers"])]
    pending = [Step(layer, call, tuple(sources)) for layer, call, sources in nodes_of(graph, [name for name, *_ in inputs])]
    known, steps = {(name, call) for name, call, _ in inputs}, []
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
    return _with_drops(steps, {tuple(end) for end in as_list(graph["output_layers"])})


def _with_drops(steps: Sequence[Step], kept: set[Tensor]) -> list[Step]:
    needed, out = set(kept), []
    for step in reversed(steps):
        drop = tuple(source for source in dict.fromkeys(step.sources) if source not in needed)
        needed.update(step.sources)
        out.append(Step(step.layer, step.call, step.sources, drop))
    return out[::-1]


class PlannedNet(KerasNet):
    """A ``KerasNet`` with the same answers, in less memory and time. Weights keep Keras' names, shapes and values."""

    def __init__(self, graph: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__(graph, {key: channels_last(value) for key, value in weights.items()})
        self._plans = {id(each): plan(each) for each in graphs_of(self.graph)}

    def forward(self, *inputs: torch.Tensor, also: Sequence[str] = ()) -> Any:
        """As ``KerasNet``'s."""
        seen = dict.fromkeys(also)
        given = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]
        outputs = self._run(self.graph, given, seen)
        answer = outputs[0] if len(outputs) == 1 else tuple(outputs)
        return (answer, seen) if also else answer

    def _run(self, graph: Mapping[str, Any], inputs: Sequence[torch.Tensor], seen: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        values = {tuple(end): value for end, value in zip(as_list(graph["input_layers"]), inputs, strict=True)}
        for step in self._plans[id(graph)]:
            arguments = [values[source] for source in step.sources]
            for source in step.drop:
                del values[source]
            layer = step.layer
            answers = self._run(layer["config"], arguments, seen) if nested(layer) else [self._compute(layer, arguments)]
            values.update({(layer["name"], step.call, number): answer for number, answer in enumerate(answers)})
            if layer["name"] in seen:
                seen[layer["name"]] = answers[0]
        return [values[tuple(end)] for end in as_list(graph["output_layers"])]

    def _compute(self, layer: Mapping[str, Any], arguments: list[torch.Tensor]) -> torch.Tensor:
        """torch's own group norm loses digits on channels-last pictures where means are large beside variances: it subtracts squares."""
        (x, *_), config, kind = arguments, layer["config"], class_of(layer)
        if kind == "InstanceNormalization" and x.ndim == 4 and config["groups"] >= x.shape[1]:
            own = [f"{layer['name']}/{key}" if config.get(used, True) else None for key, used in (("gamma", "scale"), ("beta", "center"))]
            scale, shift = (None if key is None else getattr(self, f"w{self._numbers[key]}") for key in own)
            return instance_norm(x, scale, shift, config["epsilon"])
        if kind in ("InstanceNormalization", "GroupNormalization"):
            arguments = [x.contiguous()]
        return super()._compute(layer, arguments)


def instance_norm(x: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None, epsilon: float) -> torch.Tensor:
    """``[N, C, H, W]`` less its mean over its deviation, per picture and channel, in two passes; statistics are kept in float32."""
    off = x - x.mean((2, 3), keepdim=True, dtype=torch.float32).to(x.dtype)
    variance = off.float().square().mean((2, 3), keepdim=True)
    steep = torch.rsqrt(variance + epsilon)
    steep = steep if scale is None else steep * scale[:, None, None]
    off.mul_(steep.to(x.dtype))
    return off if shift is None else off.add_(shift[:, None, None])


def channels_last(weight: torch.Tensor) -> torch.Tensor:
    """A kernel of the same shape and values (``[kh, kw, in, out]``, or ``[in, out]``) that lies in memory as torch's kernels read it."""
    if weight.ndim == 4:
        return weight.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last).permute(2, 3, 1, 0)
    return weight.t().contiguous().t() if weight.ndim == 2 else weight


def graphs_of(graph: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A graph and the graphs of the models in it."""
    yield graph
    for layer in graph["layers"]:
        if nested(layer):
            yield from graphs_of(layer["config"])


class Sketch(PlannedNet):
    """A graph without its weights' values: what weights it needs follows from the shapes that go through it.

    Pictures come in batches of none: nothing is computed and no weight's memory is touched. (Tensors on ``meta`` would do the same, but
    torch takes three seconds to get ready for them.)
    """

    def __init__(self, graph: Mapping[str, Any], known: Mapping[str, torch.Tensor]) -> None:
        super().__init__(graph, known)
        self.needed: dict[str, list[int]] = {}

    def _compute(self, layer: Mapping[str, Any], arguments: list[torch.Tensor]) -> torch.Tensor:
        name = layer["name"]
        if class_of(layer) == "AdaIN":
            self._dense.setdefault(name, []).extend(["dense", "dense_1"][len(self._dense.get(name, [])) :])
        for weight, shape in shapes_for(layer, arguments, self._dense.get(name, [])).items():
            key = f"{name}/{weight}"
            self.needed[key] = shape
            self._numbers[key] = key.replace(".", "_")
            setattr(self, f"w{self._numbers[key]}", torch.empty(shape))
        return super()._compute(layer, arguments)


def shapes_for(layer: Mapping[str, Any], arguments: Sequence[torch.Tensor], dense: Sequence[str]) -> dict[str, list[int]]:
    """The weights of one layer for inputs of these shapes, ``[N, C, ...]``. dense: the names of an AdaIN layer's two."""
    config, kind, channels = layer["config"], class_of(layer), arguments[0].shape[1]
    if kind in ("Conv2D", "Dense"):
        kernel = ([*config["kernel_size"], channels // config.get("groups", 1), config["filters"]] if kind == "Conv2D"
                  else [channels, config["units"]])
        return {"kernel": kernel} | ({"bias": kernel[-1:]} if config.get("use_bias", True) else {})
    if kind == "AdaIN":
        parts = sorted(dense, key=lambda key: (len(key), key))
        return {f"{part}/{weight}": shape for part in parts
                for weight, shape in (("kernel", [arguments[1].shape[1], channels]), ("bias", [channels]))}
    if kind == "PReLU":
        shared = config.get("shared_axes") or ()
        shape = [*arguments[0].shape[2:], channels]
        return {"alpha": [1 if axis in shared else edge for axis, edge in enumerate(shape, 1)]}
    if kind in ("BatchNormalization", "InstanceNormalization", "GroupNormalization"):
        names = [name for name, used in (("gamma", "scale"), ("beta", "center")) if config.get(used, True)]
        names += ["moving_mean", "moving_variance"] if kind == "BatchNormalization" else []
        return {name: [channels] for name in names}
    return {}


def input_shapes(graph: Mapping[str, Any]) -> list[tuple[int | None, ...]]:
    """What each input takes, in Keras' layout and without the batch: ``(256, 256, 3)``, ``(512,)``."""
    graph = graph["config"] if "class_name" in graph else graph
    layers = {layer["name"]: layer["config"] for layer in graph["layers"]}
    shapes = [layers[name].get("batch_input_shape") or layers[name].get("batch_shape") for name, *_ in as_list(graph["input_layers"])]
    return [tuple(shape[1:]) for shape in shapes]


@torch.inference_mode()
def needed_weights(graph: Mapping[str, Any], known: Mapping[str, torch.Tensor] | None = None) -> tuple[dict[str, list[int]], list[tuple]]:
    """Shapes of all weights a graph needs, by Keras' names, in the order they are used, and the shapes of its answers ``(C, ...)``.

    known: a file's weights; AdaIN's two dense layers are counted on differently from file to file and called as they are there.
    """
    sketch = Sketch(graph, {key: torch.empty(value.shape) for key, value in (known or {}).items() if "dense" in key})
    inputs = [torch.empty(0, shape[-1], *shape[:-1]) for shape in input_shapes(graph)]
    answer = sketch(*inputs)
    return sketch.needed, [tuple(each.shape[1:]) for each in (answer if isinstance(answer, tuple) else (answer,))]


def check_weights(graph: Mapping[str, Any], weights: Mapping[str, torch.Tensor], name: str) -> None:
    """Raise unless ``weights`` are those the graph needs; ``name`` is what the user calls the file."""
    needed, _ = needed_weights(graph, weights)
    missing = [key for key in needed if key not in weights]
    if missing:
        raise FaceLoomError(f"{name} lacks {len(missing)} of {len(needed)} weights ({_some(missing)}); fetch it again.")
    other = [f"{key} is {list(weights[key].shape)}, not {shape}" for key, shape in needed.items() if list(weights[key].shape) != shape]
    if other:
        raise FaceLoomError(f"{name} holds weights of other shapes than its graph's ({_some(other)}); fetch it again.")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def load_keras(path: str | os.PathLike, dtype: torch.dtype | None = None) -> PlannedNet:
    """The network of a full-model ``.h5``, or of a safetensors file made of one, whole and ready to run. dtype: None is the file's own."""
    net = read_keras(path)
    check_weights(net.graph, net.weights(), os.path.basename(os.fspath(path)))
    planned = PlannedNet(net.graph, net.weights()).eval()
    return planned if dtype is None else planned.to(dtype)
