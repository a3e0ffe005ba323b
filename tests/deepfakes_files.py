"""faceswap's networks as the Keras graphs its files hold, of any size, and files in the published layouts made of them.

The names are those of a fresh Keras session that builds encoder, decoder A and decoder B in this order.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter

import torch
from faceloom.models.networks.keras_net import needed_weights


class Model:
    """A part of an autoencoder: layers are added one after the other; each answers the name of what comes out."""

    def __init__(self, name, shape, used):
        self.name, self.layers, self.used = name, [], used
        self.source = self.auto("InputLayer", None, batch_shape=[None, *shape])

    def add(self, kind, name, sources, **config):
        sources = [sources] if isinstance(sources, str) else sources
        tensors = [{"class_name": "__keras_tensor__", "config": {"keras_history": [source, 0, 0]}} for source in sources or ()]
        nodes = [{"args": tensors if len(tensors) == 1 else [tensors], "kwargs": {}}] if tensors else []
        self.layers.append({"class_name": kind, "name": name, "config": {"name": name} | config, "inbound_nodes": nodes})
        return name

    def auto(self, kind, sources, **config):
        """A layer that Keras names."""
        stem = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)).lower()
        number = self.count(stem)
        return self.add(kind, f"{stem}_{number}" if number else stem, sources, **config)

    def count(self, stem):
        self.used[stem] += 1
        return self.used[stem] - 1

    def conv(self, name, x, filters, edge=3, stride=1, bias=True):
        return self.add("Conv2D", name, x, filters=filters, kernel_size=[edge, edge], strides=[stride, stride], padding="same",
                        activation="linear", use_bias=bias)

    def leaky(self, x, slope, name=None):
        config = {"negative_slope": slope}
        return self.add("LeakyReLU", name, x, **config) if name else self.auto("LeakyReLU", x, **config)

    def down(self, x, filters):
        name = f"conv_{filters}_{self.count(f'conv_{filters}')}"
        return self.leaky(self.conv(f"{name}_conv2d", x, filters, 5, 2), .1, f"{name}_leakyrelu")

    def up(self, x, filters, active=True):
        return self.shuffle(*self.before(x, filters, active))

    def before(self, x, filters, active=True, scale=2):
        name = f"upscale_{filters}_{self.count(f'upscale_{filters}')}"
        x = self.conv(f"{name}_conv2d_conv2d", x, filters * scale * scale)
        return self.leaky(x, .1, f"{name}_conv2d_leakyrelu") if active else x, name, scale

    def shuffle(self, x, name, scale):
        return self.add("PixelShuffler", f"{name}_pixelshuffler", x, size=[scale, scale])

    def up2x(self, x, filters, active=True, scale=2):
        """Half of it sub-pixel, half enlarged."""
        wide, name, _ = self.before(x, filters // 2, active, scale)
        own = f"upscale2x_{filters}_hyb_{self.count(f'upscale2x_{filters}_hyb')}"
        small = self.conv(f"{own}_conv2d", x, filters // 2)
        sharp = self.shuffle(wide, name, scale)
        soft = self.add("UpSampling2D", f"{own}_upsampling2D", small, size=[scale, scale], interpolation="bilinear")
        return self.add("Concatenate", f"{own}_concatenate", [sharp, soft], axis=-1)

    def residual(self, x, filters, bias=True):
        name = f"residual_{filters}_{self.count(f'residual_{filters}')}"
        y = self.leaky(self.conv(f"{name}_conv2d_0", x, filters, bias=bias), .2, f"{name}_leakyrelu_1")
        y = self.auto("Add", [self.conv(f"{name}_conv2d_1", y, filters, bias=bias), x])
        return self.leaky(y, .2, f"{name}_leakyrelu_3")

    def norm(self, x):
        return self.auto("BatchNormalization", x, epsilon=1e-3, scale=True, center=True)

    def dense(self, x, units):
        return self.auto("Dense", x, units=units, activation="linear", use_bias=True)

    def out(self, x, stem, channels=3):
        name = f"{stem}_{self.count(stem)}"
        return self.add("Activation", name, self.conv(f"{name}_conv2d", x, channels, 5), activation="sigmoid")

    def layer(self, outputs, nodes):
        config = {"name": self.name, "layers": self.layers, "input_layers": [self.source, 0, 0],
                  "output_layers": [[name, 0, 0] for name in outputs] if len(outputs) > 1 else [outputs[0], 0, 0]}
        return {"class_name": "Functional", "name": self.name, "config": config, "inbound_nodes": nodes}


def wired(name, edge, encoder, coded, decoders):
    """The whole autoencoder: encoder and its output, then for A and B a decoder and its outputs."""
    def node(source, number):
        tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": [source, number, 0]}}
        return {"args": [tensor], "kwargs": {"mask": None}}

    inputs = [f"face_in_{side}" for side in "ab"]
    layers = [{"class_name": "InputLayer", "name": each, "config": {"name": each, "batch_shape": [None, edge, edge, 3]},
               "inbound_nodes": []} for each in inputs]
    layers.append(encoder.layer([coded], [node(each, 0) for each in inputs]))
    layers += [decoder.layer(outputs, [node("encoder", number)]) for number, (decoder, outputs) in enumerate(decoders)]
    ends = [[decoder.name, 1, number] for decoder, outputs in decoders for number in range(len(outputs))]
    return {"class_name": "Functional", "config": {"name": name, "layers": layers, "input_layers": [[each, 0, 0] for each in inputs],
                                                   "output_layers": ends}}


def original(edge=64, convs=(128, 256, 512, 1024), dense=1024, grid=4, inner=1024, up=512, ups=(256, 128, 64), masks=False):
    """The original, its lowmem and lightweight forms and DFL-H128, which differ in numbers only."""
    used = Counter()
    encoder = Model("encoder", [edge, edge, 3], used)
    x = encoder.source
    for filters in convs:
        x = encoder.down(x, filters)
    x = encoder.dense(encoder.dense(encoder.auto("Flatten", x), dense), grid * grid * inner)
    x = encoder.up(encoder.auto("Reshape", x, target_shape=[grid, grid, inner]), up)
    decoders = []
    for side in "ab":
        decoder = Model(f"decoder_{side}", [grid * 2, grid * 2, up], used)
        outputs = []
        for stem, channels in (("face", 3), ("mask", 1))[: 1 + masks]:
            y = decoder.source
            for filters in ups:
                y = decoder.up(y, filters)
            outputs.append(decoder.out(y, f"{stem}_out_{side}", channels))
        decoders.append((decoder, outputs))
    return wired("original", edge, encoder, x, decoders)


def dfl_h128(**sizes):
    return original(**({"edge": 128, "dense": 512, "grid": 8, "inner": 512, "ups": (512, 256, 128)} | sizes))


def dlight(size=256, base=32, dense=1664, wide=1024):
    """``base`` 32, ``wide`` 1024 as published; the decoders' widths follow."""
    used, ratio, half = Counter(), size // 64, wide // 2
    encoder = Model("encoder", [128, 128, 3], used)
    x = encoder.source
    for k in range(5):
        own = encoder.down(x, base << k)
        pooled = encoder.leaky(encoder.auto("AveragePooling2D", x, pool_size=[2, 2], strides=[2, 2], padding="valid"), .1)
        x = encoder.auto("Concatenate", [own, pooled], axis=-1)
    x = encoder.auto("Dropout", encoder.dense(encoder.auto("Flatten", x), dense), rate=.05)
    x = encoder.auto("Dropout", encoder.dense(x, 16 * wide), rate=.05)
    x = encoder.auto("Reshape", x, target_shape=[4, 4, wide])

    a = Model("decoder_a", [4, 4, wide], used)
    y = a.auto("UpSampling2D", a.source, size=[ratio, ratio], interpolation="bilinear")
    for k in (4, 8, 16, 32):
        y = a.up2x(y, wide // k)
    out_a = a.out(y, "face_out")

    b = Model("decoder_b", [4, 4, wide], used)
    y = b.leaky(b.up2x(b.source, half, False, ratio), .2)
    for bias in (True, False, False):
        y = b.residual(y, half, bias)
    y = b.leaky(b.up2x(y, half, False), .2)
    y = b.norm(b.residual(b.residual(y, half), half, False))
    y = b.residual(b.leaky(b.up2x(y, half // 2, False), .2), half // 2)
    y = b.norm(b.residual(b.leaky(b.up2x(y, half // 4, False), .2), half // 4, False))
    return wired("dlight", 128, encoder, x, [(a, [out_a]), (b, [b.out(b.up2x(y, half // 8), "face_out")])])


def random_weights(graph, seed=0):
    """Weights that keep pictures lively, by Keras' names."""
    random = torch.Generator().manual_seed(seed)

    def value(key, shape):
        if key.endswith("moving_variance"):
            return torch.rand(shape, generator=random) + .5
        fan = max(1, int(torch.tensor(shape[:-1]).prod())) if len(shape) > 1 else 25
        return torch.randn(shape, generator=random) * (1.5 if len(shape) > 1 else .5) / fan**.5

    return {key: value(key, shape) for key, shape in needed_weights(graph)[0].items()}


def write_keras(path, graph, weights):
    """As ``model.save`` of Keras 3 does."""
    import h5py

    stored = io.BytesIO()
    with h5py.File(stored, "w") as file:
        file.create_group("optimizer/vars").attrs["name"] = "adam"
        _vars(file, graph["config"], weights, "")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.14.0"}))
        archive.writestr("config.json", json.dumps(graph))
        archive.writestr("model.weights.h5", stored.getvalue())


def _vars(file, graph, weights, place):
    counts = Counter()
    for layer in graph["layers"]:
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", layer["class_name"])).lower()
        own = f"{place}layers/{kind}_{counts[kind]}" if counts[kind] else f"{place}layers/{kind}"
        counts[kind] += 1
        group = file.create_group(f"{own}/vars")
        group.attrs["name"] = layer["name"]
        if "layers" in layer["config"]:
            _vars(file, layer["config"], weights, f"{own}/")
        for number, key in enumerate(key for key in weights if key.rpartition("/")[0] == layer["name"]):
            group[str(number)] = weights[key].numpy()


def write_h5(path, graph, weights):
    """As ``model.save`` of TensorFlow's Keras 2 does: a model in the model is one group, what is not trained comes last in it."""
    import h5py

    def old(value):
        """Keras 2 writes tensors as (layer, call, output, {}), counting calls of models from 1, and names its settings otherwise."""
        if isinstance(value, list):
            return [old(each) for each in value]
        if not isinstance(value, dict):
            return value
        value = {{"negative_slope": "alpha", "batch_shape": "batch_input_shape"}.get(key, key): old(each) for key, each in value.items()}
        if "inbound_nodes" in value:
            value["inbound_nodes"] = [[_end(tensor, graph) for tensor in _flat(node["args"])] for node in value["inbound_nodes"]]
        return value

    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(old(graph))
        file.attrs["keras_version"] = "2.10.0"
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [layer["name"] for layer in graph["config"]["layers"]]
        for layer in graph["config"]["layers"]:
            inner = [each["name"] for each in layer["config"].get("layers", ())]
            names = [key for key in weights if key.rpartition("/")[0] in inner]
            names.sort(key=lambda key: "moving" in key)
            own = group.create_group(layer["name"])
            own.attrs["weight_names"] = [f"{key}:0" for key in names]
            for key in names:
                own[f"{key}:0"] = weights[key].numpy()


def _flat(value):
    return [tensor for each in value for tensor in _flat(each)] if isinstance(value, list) else [value]


def _end(tensor, graph):
    name, call, number = tensor["config"]["keras_history"]
    return [name, call + (name in {layer["name"] for layer in graph["config"]["layers"] if "layers" in layer["config"]}), number, {}]
