"""Keras models run by torch from the graph in their own files, without TensorFlow.

A full-model ``.h5`` holds the layers and how they are joined as JSON (``model_config``) and the weights by name. ``KerasNet`` executes the
graph; pictures go in and come out as ``[N, C, H, W]``, whatever layout the layers had. Read the file with ``read_keras``, which needs h5py,
or convert it once to safetensors (``python -m faceloom models convert``), which keeps the graph in the
file's metadata.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..errors import FaceLoomError

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "linear": lambda x: x, "relu": functional.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "softmax": lambda x: x.softmax(1), "elu": functional.elu, "swish": functional.silu, "softplus": functional.softplus,
}


def _activation(config: Mapping[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    name = config.get("activation") or "linear"
    if name not in ACTIVATIONS:
        raise FaceLoomError(f"The Keras model uses the activation {name}, which FaceLoom does not know.")
    return ACTIVATIONS[name]


def _padded(x: torch.Tensor, edges: Sequence[int], strides: Sequence[int], rule: str, value: float = 0) -> torch.Tensor:
    """TensorFlow's "same": as much before as after, one more after where it is odd."""
    if rule != "same":
        return x
    pads = []
    for size, edge, stride in zip(reversed(x.shape[-2:]), reversed(edges), reversed(strides)):
        total = max((-(-size // stride) - 1) * stride + edge - size, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads, value=value) if any(pads) else x


class Layer:
    """What a layer's class computes: ``inputs`` are tensors, ``weight(name)`` its tensors in Keras' layout."""

    def __init__(self, config: Mapping[str, Any], weight: Callable[[str], torch.Tensor]) -> None:
        self.config, self.weight = config, weight

    def Conv2D(self, x):
        config, kernel = self.config, self.weight("kernel").permute(3, 2, 0, 1)
        dilation = config.get("dilation_rate", [1, 1])
        edges = [(edge - 1) * step + 1 for edge, step in zip(kernel.shape[-2:], dilation)]
        x = _padded(x, edges, config["strides"], config["padding"])
        bias = self.weight("bias") if config.get("use_bias", True) else None
        x = functional.conv2d(x, kernel, bias, config["strides"], dilation=dilation, groups=config.get("groups", 1))
        return _activation(config)(x)

    def Dense(self, x):
        bias = self.weight("bias") if self.config.get("use_bias", True) else None
        return _activation(self.config)(functional.linear(x, self.weight("kernel").t(), bias))

    def BatchNormalization(self, x):
        config = self.config
        scale = self.weight("gamma") if config.get("scale", True) else None
        shift = self.weight("beta") if config.get("center", True) else None
        return functional.batch_norm(x, self.weight("moving_mean"), self.weight("moving_variance"), scale, shift, eps=config["epsilon"])

    def InstanceNormalization(self, x):
        config = self.config
        scale = self.weight("gamma") if config.get("scale", True) else None
        shift = self.weight("beta") if config.get("center", True) else None
        return functional.group_norm(x, min(config["groups"], x.shape[1]), scale, shift, config["epsilon"])

    GroupNormalization = InstanceNormalization

    def AdaIN(self, x, vector):
        scale, shift = (functional.linear(vector, self.weight(f"{name}/kernel").t(), self.weight(f"{name}/bias"))[..., None, None]
                        for name in self.dense_names())
        return torch.addcmul(shift, x, scale)

    def AdaptiveAttention(self, mask, target, source):
        return torch.lerp(target, source, mask)

    def LeakyReLU(self, x):
        return functional.leaky_relu(x, self.config.get("alpha", self.config.get("negative_slope", .3)))

    def ReLU(self, x):
        limit = self.config.get("max_value")
        return functional.relu(x) if limit is None else x.clamp(0, limit)

    def PReLU(self, x):
        alpha = self.weight("alpha")
        return torch.where(x >= 0, x, x * (alpha.permute(2, 0, 1) if alpha.ndim == 3 else alpha))

    def Activation(self, x):
        return _activation(self.config)(x)

    def Add(self, *inputs):
        return sum(inputs[1:], inputs[0])

    def Subtract(self, a, b):
        return a - b

    def Multiply(self, *inputs):
        product = inputs[0]
        for x in inputs[1:]:
            product = product * x
        return product

    def Concatenate(self, *inputs):
        if self.config.get("axis", -1) not in (-1, inputs[0].ndim - 1):
            raise FaceLoomError("The Keras model concatenates along height or width, which FaceLoom does not support.")
        return torch.cat(inputs, 1)

    def AveragePooling2D(self, x):
        edges, strides = self.config["pool_size"], self.config["strides"]
        if self.config["padding"] == "same":
            ones = _padded(torch.ones_like(x[:1, :1]), edges, strides, "same")
            return functional.avg_pool2d(_padded(x, edges, strides, "same"), edges, strides) / functional.avg_pool2d(ones, edges, strides)
        return functional.avg_pool2d(x, edges, strides)

    def MaxPooling2D(self, x):
        edges, strides = self.config["pool_size"], self.config["strides"]
        return functional.max_pool2d(_padded(x, edges, strides, self.config["padding"], float("-inf")), edges, strides)

    def GlobalAveragePooling2D(self, x):
        return x.mean((2, 3))

    def ZeroPadding2D(self, x):
        (top, bottom), (left, right) = self.config["padding"]
        return functional.pad(x, (left, right, top, bottom))

    def UpSampling2D(self, x):
        mode = self.config.get("interpolation", "nearest")
        options = {"align_corners": False} if mode == "bilinear" else {}
        return functional.interpolate(x, scale_factor=tuple(map(float, self.config["size"])), mode=mode, **options)

    def Flatten(self, x):
        return x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x

    def Reshape(self, x):
        shape = self.config["target_shape"]
        x = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
        x = x.reshape(len(x), *shape)
        return x.permute(0, 3, 1, 2) if x.ndim == 4 else x

    def Dropout(self, x):
        return x

    InputLayer = SpatialDropout2D = GaussianNoise = Dropout

    def dense_names(self) -> tuple[str, str]:
        """Scale and shift of an AdaIN layer; their names are counted on from layer to layer in some files."""
        return self.config["_dense"]


def class_of(layer: Mapping[str, Any]) -> str:
    """A layer's class without the package it was registered under."""
    return layer["class_name"].rsplit(">", 1)[-1]


class KerasNet(nn.Module):
    """A graph and its weights by Keras' names (``conv2d/kernel``), in Keras' layout.

    Inputs are given in the order of the model's own; where it has several outputs, a tuple comes back.
    """

    def __init__(self, graph: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.graph = graph if "layers" in graph else graph["config"]
        self.keys = list(weights)
        for number, value in enumerate(weights.values()):
            self.register_buffer(f"w{number}", value)
        self._numbers = {key: number for number, key in enumerate(weights)}
        self._dense = {}
        for key in weights:
            if match := re.fullmatch(r"(.*?)/?((?:[^/]*_)?dense(?:_\d+)?)/kernel", key):
                self._dense.setdefault(match[1], []).append(match[2])
        unknown = sorted({class_of(layer) for layer in layers_of(self.graph) if not nested(layer) and not hasattr(Layer, class_of(layer))})
        if unknown:
            raise FaceLoomError(f"The Keras model has layers FaceLoom does not know: {', '.join(unknown)}.")

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights by Keras' names; not copies."""
        return {key: getattr(self, f"w{number}") for key, number in self._numbers.items()}

    def forward(self, *inputs: torch.Tensor, also: Sequence[str] = ()) -> Any:
        """``also``: names of layers whose answers are wanted too; then a dictionary of them comes back beside the output."""
        seen: dict[str, torch.Tensor] = {}
        outputs = self._run(self.graph, inputs, seen)
        answer = outputs[0] if len(outputs) == 1 else tuple(outputs)
        return (answer, {name: seen[name] for name in also}) if also else answer

    def _run(self, graph: Mapping[str, Any], inputs: Sequence[torch.Tensor], seen: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Layers in the file's order, which is one they can be computed in. A tensor is named by layer, call and output."""
        values: dict[tuple[str, int, int], torch.Tensor] = {}
        calls = nodes_of(graph, [name for name, *_ in as_list(graph["input_layers"])])
        for (name, *_), value in zip(as_list(graph["input_layers"]), inputs, strict=True):
            values[name, 0, 0] = value
        pending = calls
        while pending:
            later = []
            for layer, call, sources in pending:
                if not all(source in values for source in sources):
                    later.append((layer, call, sources))
                    continue
                arguments = [values[source] for source in sources]
                answers = self._run(layer["config"], arguments, seen) if nested(layer) else [self._compute(layer, arguments)]
                for number, answer in enumerate(answers):
                    values[layer["name"], call, number] = answer
                seen[layer["name"]] = answers[0]
            if len(later) == len(pending):
                raise FaceLoomError("The Keras model's graph does not hang together; the file is damaged.")
            pending = later
        return [values[tuple(output)] for output in as_list(graph["output_layers"])]

    def _compute(self, layer: Mapping[str, Any], arguments: list[torch.Tensor]) -> torch.Tensor:
        name = layer["name"]
        config = layer["config"] | {"_dense": sorted(self._dense.get(name, []), key=lambda key: (len(key), key))}
        return getattr(Layer(config, lambda key: getattr(self, f"w{self._numbers[f'{name}/{key}']}")), class_of(layer))(*arguments)


def nested(layer: Mapping[str, Any]) -> bool:
    return "layers" in layer["config"]


def as_list(ends: Any) -> list:
    """The ends of a graph; a single one is not wrapped in newer files."""
    return ends if not ends or isinstance(ends[0], (list, tuple)) else [ends]


def layers_of(graph: Mapping[str, Any]):
    """All layers, those of models in the model too."""
    for layer in graph["layers"]:
        yield layer
        if nested(layer):
            yield from layers_of(layer["config"])


def nodes_of(graph: Mapping[str, Any], inputs: Sequence[str]) -> list[tuple[Mapping[str, Any], int, list[tuple[str, int, int]]]]:
    """Every call of every layer: the layer, the call's number and the tensors it takes.

    A model in a model counts the call that built it as its first, so the calls made from outside begin at 1.
    """
    calls = []
    for layer in graph["layers"]:
        if layer["name"] in inputs:
            continue
        first = 1 if nested(layer) else 0
        for number, node in enumerate(layer["inbound_nodes"], first):
            calls.append((layer, number, [(source[0], source[1], source[2]) for source in node]))
    return calls


def read_keras(path: str | os.PathLike) -> KerasNet:
    """The network of a full-model ``.h5`` file, or of the safetensors file ``models.convert`` made of one."""
    path = os.fspath(path)
    if path.lower().endswith(".safetensors"):
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            graph = (file.metadata() or {}).get("model_config")
            if graph is None:
                raise FaceLoomError(f"{os.path.basename(path)} holds no Keras graph; convert the .h5 file again.")
            return KerasNet(json.loads(graph), {key: file.get_tensor(key) for key in file.keys()}).eval()  # noqa: SIM118
    try:
        import h5py
    except ImportError as error:
        raise FaceLoomError("Keras files (.h5) are read with h5py; run: pip install h5py, or convert the file to .safetensors.") from error
    try:
        with h5py.File(path) as file:
            graph = file.attrs.get("model_config")
            if graph is None or "model_weights" not in file:
                raise FaceLoomError(f"{os.path.basename(path)} holds only weights, not the whole Keras model with its graph.")
            graph = json.loads(graph if isinstance(graph, str) else graph.decode())
            return KerasNet(graph, _weights_of(file["model_weights"])).eval()
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


def keras_metadata(net: KerasNet) -> dict[str, str]:
    """What a safetensors file needs besides the weights to be a network again."""
    return {"model_config": json.dumps({"config": net.graph})}
