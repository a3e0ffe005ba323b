"""Keras models run by torch from the graph in their own files, without TensorFlow.

A full-model ``.h5`` holds the layers and how they are joined as JSON (``model_config``) and the weights by name; a ``.keras`` archive holds
the same as ``config.json`` and ``model.weights.h5``. ``load_keras`` reads either (with h5py), or the safetensors file that
``python -m faceloom models convert`` makes of it, which keeps the graph in its metadata.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import FaceLoomError
from .keras_graph import Graph, Step, class_of, ends, graphs_of, input_shapes, layers_of, nested, plan
from .keras_layers import ACTIVATIONS, OPERATORS, Layer, dense_names, shapes_for


class KerasNet(nn.Module):
    """A graph and its weights by Keras' names (``conv2d/kernel``), in Keras' shapes.

    Inputs are given in the order of the model's own, pictures as ``[N, C, H, W]`` whatever layout the layers had; where it has several
    outputs, a tuple comes back. Tensors are freed after their last use, and kernels lie as torch's channels-last convolutions read them.
    """

    def __init__(self, graph: Graph, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.graph = graph if "layers" in graph else graph["config"]
        _expect_known(self.graph)
        self._plans = {id(each): plan(each) for each in graphs_of(self.graph)}
        self._shorter: dict[tuple[int, ...], list[Step]] = {}
        self._buffers_of = {key: f"w{number}" for number, key in enumerate(weights)}
        for key, value in weights.items():
            self.register_buffer(self._buffers_of[key], channels_last(value))
        owners = {layer["name"] for layer in layers_of(self.graph)}
        self._own: dict[str, dict[str, str]] = {}
        for key, buffer in self._buffers_of.items():
            parts = key.split("/")
            owner = next((name for end in range(1, len(parts)) if (name := "/".join(parts[:end])) in owners), None)
            if owner is not None:
                self._own.setdefault(owner, {})[key.removeprefix(f"{owner}/")] = buffer

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights by Keras' names; not copies."""
        return {key: getattr(self, buffer) for key, buffer in self._buffers_of.items()}

    def forward(self, *inputs: torch.Tensor, also: Sequence[str] = (), outputs: Sequence[int] | None = None) -> Any:
        """``also``: names of layers whose answers are wanted too; then a dictionary of them comes back beside the output. ``outputs``: the
        numbers of those wanted (all); only what they need is computed."""
        seen = dict.fromkeys(also)
        given = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]
        outputs = self._run(self.graph, given, seen, None if outputs is None else tuple(outputs))
        answer = outputs[0] if len(outputs) == 1 else tuple(outputs)
        return (answer, seen) if also else answer

    def _run(self, graph: Graph, inputs: Sequence[torch.Tensor], seen: dict[str, torch.Tensor | None],
             outputs: tuple[int, ...] | None = None) -> list[torch.Tensor]:
        values = dict(zip(ends(graph["input_layers"]), inputs, strict=True))
        steps, wanted = self._plans[id(graph)], ends(graph["output_layers"])
        if outputs is not None:
            wanted = [wanted[number] for number in outputs]
            steps = self._shorter[outputs] = self._shorter.get(outputs) or plan(graph, wanted)
        for step in steps:
            arguments = [values[source] for source in step.sources]
            for source in step.drop:
                del values[source]
            name = step.layer["name"]
            answers = self._run(step.layer["config"], arguments, seen) if nested(step.layer) else [self._compute(step.layer, arguments)]
            values.update({(name, step.call, number): answer for number, answer in enumerate(answers)})
            if name in seen:
                seen[name] = answers[0]
        return [values[end] for end in wanted]

    def _compute(self, layer: Mapping[str, Any], arguments: list[torch.Tensor]) -> torch.Tensor:
        weights = {name: getattr(self, buffer) for name, buffer in self._own.get(layer["name"], {}).items()}
        return getattr(Layer(layer["config"], weights), class_of(layer))(*arguments)


def _expect_known(graph: Graph) -> None:
    """Raise where the graph has layers or functions that are not computed here."""
    layers = list(layers_of(graph))
    unknown = {class_of(layer) for layer in layers if not hasattr(Layer, class_of(layer))}
    unknown |= {layer["config"]["function"] for layer in layers
                if class_of(layer) == "TFOpLambda" and layer["config"]["function"] not in OPERATORS}
    if unknown:
        raise FaceLoomError(f"The Keras model has layers FaceLoom does not know: {', '.join(sorted(unknown))}.")
    for name in sorted({layer["config"].get("activation") or "linear" for layer in layers} - set(ACTIVATIONS)):
        raise FaceLoomError(f"The Keras model uses the activation {name}, which FaceLoom does not know.")


def channels_last(weight: torch.Tensor) -> torch.Tensor:
    """A kernel of the same shape and values (``[kh, kw, in, out]``, or ``[in, out]``) that lies in memory as torch's kernels read it."""
    if weight.ndim == 4:
        return weight.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last).permute(2, 3, 1, 0)
    return weight.t().contiguous().t() if weight.ndim == 2 else weight


class Sketch(KerasNet):
    """A graph without its weights' values: what weights it needs follows from the shapes that go through it.

    Pictures come in batches of none: nothing is computed and no weight's memory is touched. (Tensors on ``meta`` would do the same, but
    torch takes three seconds to get ready for them.)
    """

    def __init__(self, graph: Graph, known: Mapping[str, torch.Tensor]) -> None:
        super().__init__(graph, known)
        self.needed: dict[str, list[int]] = {}

    def _compute(self, layer: Mapping[str, Any], arguments: list[torch.Tensor]) -> torch.Tensor:
        name, kind = layer["name"], class_of(layer)
        shapes = shapes_for(kind, layer["config"], arguments, _two(dense_names(self._own.get(name, ()))))
        self.needed |= {f"{name}/{weight}": shape for weight, shape in shapes.items()}
        return getattr(Layer(layer["config"], {weight: torch.empty(shape) for weight, shape in shapes.items()}), kind)(*arguments)


def _two(names: Sequence[str]) -> list[str]:
    return [*names, *["dense", "dense_1"][len(names) :]]


@torch.inference_mode()
def needed_weights(graph: Graph, known: Mapping[str, torch.Tensor] | None = None) -> tuple[dict[str, list[int]], list[tuple]]:
    """Shapes of all weights a graph needs, by Keras' names, in the order they are used, and the shapes of its answers ``(C, ...)``.

    known: a file's weights; AdaIN's two dense layers are counted on differently from file to file and called as they are there.
    """
    sketch = Sketch(graph, {key: torch.empty(value.shape) for key, value in (known or {}).items() if "dense" in key})
    inputs = [torch.empty(0, shape[-1], *(edge or 64 for edge in shape[:-1])) for shape in input_shapes(sketch.graph)]
    answer = sketch(*inputs)
    return sketch.needed, [tuple(each.shape[1:]) for each in (answer if isinstance(answer, tuple) else (answer,))]


def check_weights(graph: Graph, weights: Mapping[str, torch.Tensor], name: str) -> None:
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


def load_keras(path: str | os.PathLike, dtype: torch.dtype | None = None) -> KerasNet:
    """The network of a ``.keras`` archive, a full-model ``.h5``, or a safetensors file made of one, whole and ready to run. dtype: None
    is the file's own."""
    path = os.fspath(path)
    read = {".safetensors": _read_safetensors, ".keras": _read_archive}.get(os.path.splitext(path)[1].lower(), _read_h5)
    graph, weights = read(path)
    check_weights(graph, weights, os.path.basename(path))
    net = KerasNet(graph, weights).eval()
    return net if dtype is None else net.to(dtype)


def keras_metadata(net: KerasNet) -> dict[str, str]:
    """What a safetensors file needs besides the weights to be a network again."""
    return {"model_config": json.dumps({"config": net.graph})}


def _read_safetensors(path: str) -> tuple[Graph, dict[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            graph = (file.metadata() or {}).get("model_config")
            if graph is None:
                raise FaceLoomError(f"{os.path.basename(path)} holds no Keras graph; convert the .h5 file again.")
            return json.loads(graph), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise FaceLoomError(f"{os.path.basename(path)} is not a whole safetensors file; fetch it again.") from error


def _read_h5(path: str) -> tuple[Graph, dict[str, torch.Tensor]]:
    with _opened(path, path) as file:
        graph = file.attrs.get("model_config")
        if graph is None or "model_weights" not in file:
            raise FaceLoomError(f"{os.path.basename(path)} holds only weights, not the whole Keras model with its graph.")
        return json.loads(graph if isinstance(graph, str) else graph.decode()), _weights_of(file["model_weights"])


def _read_archive(path: str) -> tuple[Graph, dict[str, torch.Tensor]]:
    """Keras 3 keeps a layer's weights in a group ``vars`` that has the layer's name, by their numbers in the order of the layer's kind."""
    name = os.path.basename(path)
    try:
        with zipfile.ZipFile(path) as archive:
            graph, stored = json.loads(archive.read("config.json")), io.BytesIO(archive.read("model.weights.h5"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise FaceLoomError(f"{name} is not a whole Keras archive; copy or save it again.") from error
    names: dict[str, list[str]] = {}
    for key in needed_weights(graph)[0]:
        names.setdefault(key.rpartition("/")[0], []).append(key)
    weights: dict[str, torch.Tensor] = {}

    def take(_: str, group: Any) -> None:
        for key, number in zip(names.get(group.attrs.get("name"), ()), group):
            if key in weights:
                raise FaceLoomError(f"{name} has two layers of one name ({key}), so their weights cannot be told apart.")
            weights[key] = torch.from_numpy(np.asarray(group[number]))

    with _opened(stored, path) as file:
        file.visititems(take)
    return graph, weights


@contextmanager
def _opened(file: str | io.BytesIO, path: str) -> Iterator[Any]:
    """An HDF5 file; ``path`` is what the user calls it."""
    try:
        import h5py
    except ImportError as error:
        raise FaceLoomError("Keras files (.keras, .h5) are read with h5py; run: pip install h5py, or convert the file to .safetensors."
                            ) from error
    try:
        with h5py.File(file) as opened:
            yield opened
    except OSError as error:
        raise FaceLoomError(f"{os.path.basename(path)} is not a whole HDF5 file; fetch it again.") from error


def _weights_of(group: Any) -> dict[str, torch.Tensor]:
    """Datasets by the weight's own name (``conv2d/kernel``), without the groups around it and the ``:0``."""
    weights = {}
    for layer in group.values():
        for name in layer.attrs.get("weight_names", ()):
            name = name if isinstance(name, str) else name.decode()
            weights[name.removesuffix(":0")] = torch.from_numpy(np.asarray(layer[name]))
    return weights
