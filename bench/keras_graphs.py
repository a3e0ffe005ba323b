"""FaceDancer's generators as Keras writes them down, for any way of fusing the decoder with the encoder (facts of the paper, section 3).

The published configurations differ in which way is taken at which of six places, from 8 pixels of 256 up to the last block.
"""

from __future__ import annotations

from collections import Counter

WAYS = ("affa", "d_affa", "do_affa", "concat", "add", "no_skip")
CONFIGURATION_C = ("no_skip", "no_skip", "affa", "affa", "affa", "concat")
PLACES = ("16x16", "32x32", "64x64", "128x128", "256x256", "final")
NAMES = {"Conv2D": "conv2d", "Dense": "dense", "LeakyReLU": "leaky_re_lu", "Addons>InstanceNormalization": "instance_normalization",
         "AdaIN": "ada_in", "AdaptiveAttention": "adaptive_attention", "AveragePooling2D": "average_pooling2d", "Add": "add",
         "UpSampling2D": "up_sampling2d", "GlobalAveragePooling2D": "global_average_pooling2d",
         "Concatenate": "concatenate", "TFOpLambda": "tf.math.multiply", "InputLayer": "input"}


class Builder:
    """A graph that grows layer by layer; a layer's name stands for what it answers. Names are counted as Keras counts them."""

    def __init__(self) -> None:
        self.layers: list[dict] = []
        self.counts: Counter[str] = Counter()
        self.channels: dict[str, int] = {}

    def add(self, kind: str, *sources: str, name: str | None = None, channels: int | None = None, **config) -> str:
        stem = NAMES[kind]
        if name is None:
            number = self.counts[stem] + (kind == "InputLayer")
            self.counts[stem] += 1
            name = f"{stem}_{number}" if number else stem
        nodes = [[[source, 0, 0, {}] for source in sources]] if sources else []
        if kind == "TFOpLambda":
            nodes = [[sources[0], 0, 0, {"y": [sources[1], 0, 0], "name": None}]]
        self.layers.append({"class_name": kind, "name": name, "config": {"name": name} | config, "inbound_nodes": nodes})
        self.channels[name] = channels or self.channels.get(sources[0], 0)
        return name

    def conv(self, x: str, filters: int, edge: int = 3, name: str | None = None, activation: str = "linear") -> str:
        return self.add("Conv2D", x, name=name, channels=filters, filters=filters, kernel_size=[edge, edge], strides=[1, 1], padding="same",
                        dilation_rate=[1, 1], groups=1, activation=activation, use_bias=True)

    def dense(self, x: str, units: int) -> str:
        return self.add("Dense", x, channels=units, units=units, activation="linear", use_bias=True)

    def norm(self, x: str) -> str:
        return self.add("Addons>InstanceNormalization", x, groups=self.channels[x], axis=-1, epsilon=.001, center=True, scale=True)

    def leaky(self, x: str) -> str:
        return self.add("LeakyReLU", x, alpha=.20000000298023224)

    def half(self, x: str) -> str:
        return self.add("AveragePooling2D", x, pool_size=[2, 2], strides=[2, 2], padding="valid")

    def twice(self, x: str) -> str:
        return self.add("UpSampling2D", x, size=[2, 2], interpolation="bilinear")

    def both(self, a: str, b: str) -> str:
        return self.add("Concatenate", a, b, channels=self.channels[a] + self.channels[b], axis=-1)


def down(net: Builder, x: str, filters: int, resample: bool = True) -> str:
    plain = net.conv(x, filters, 1)
    plain = net.half(plain) if resample else plain
    main = net.conv(net.leaky(net.norm(x)), filters)
    return net.add("Add", net.half(main) if resample else main, plain)


def up(net: Builder, x: str, vector: str, filters: int, resample: bool, name: str | None = None) -> str:
    plain = net.conv(x, filters, 1)
    plain = net.twice(plain) if resample else plain
    main = net.conv(net.leaky(net.add("AdaIN", net.norm(x), vector)), filters)
    return net.add("Add", net.twice(main) if resample else main, plain, name=name)


def mask(net: Builder, x: str, inner: int, outer: int, name: str) -> str:
    return net.conv(net.norm(net.leaky(net.conv(x, inner))), outer, 1, name, "sigmoid")


def fused(net: Builder, way: str, skip: str, x: str, place: str) -> str:
    """What the encoder and the decoder say, in one of ``WAYS``."""
    channels = net.channels[skip]
    if way == "no_skip":
        return x
    if way == "concat":
        return net.both(skip, x)
    if way == "add":
        return net.add("Add", skip, x)
    if way == "do_affa":
        both = net.both(skip, x)
        single = mask(net, both, channels, 1, f"{place}_hat")
        whole = mask(net, both, channels, channels, place)
        return net.add("AdaptiveAttention", net.add("TFOpLambda", whole, single, function="math.multiply", channels=channels), skip, x)
    for name in (f"{place}_0", f"{place}_1") if way == "d_affa" else (place,):
        x = net.add("AdaptiveAttention", mask(net, net.both(skip, x), channels // 4, channels, name), skip, x)
    return x


def generator(ways=CONFIGURATION_C, *, depth: int = 4, mapping: int = 256, width: int = 64, size: int = 256, vector: int = 512) -> dict:
    """The ``model_config``. depth, mapping: of the network that maps the identity. width and size: 64 and 256 as published."""
    net = Builder()
    picture = net.add("InputLayer", channels=3, batch_input_shape=[None, size, size, 3])
    who = net.add("InputLayer", channels=vector, batch_input_shape=[None, vector])
    identity = who
    for number in range(depth):
        identity = net.dense(identity, mapping)
        identity = net.leaky(identity) if number < depth - 1 else identity
    maps = [net.conv(picture, width)]
    for times in (2, 4, 8, 8, 8):
        maps.append(down(net, maps[-1], times * width))
    x = up(net, down(net, maps[-1], 8 * width, resample=False), identity, 8 * width, resample=False)
    for way, place, skip, times in zip(ways, PLACES, maps[::-1], (8, 8, 4, 2, 1, None), strict=True):
        last = times is None
        x = up(net, fused(net, way, skip, x, place), identity, 3 if last else times * width, not last,
               "final" if last and way == "concat" else None)
    return {"class_name": "Functional", "config": {"name": "model", "layers": net.layers, "output_layers": [[x, 0, 0]],
                                                   "input_layers": [[picture, 0, 0], [who, 0, 0]]}}


def identity_graph(size: int = 112, vector: int = 512) -> dict:
    """A small network that makes a vector of a face, in place of the published one, which is run once per source."""
    net = Builder()
    face = net.add("InputLayer", channels=3, batch_input_shape=[None, size, size, 3])
    pooled = net.add("GlobalAveragePooling2D", net.leaky(net.conv(face, 32)))
    out = net.dense(pooled, vector)
    return {"class_name": "Functional", "config": {"name": "identity", "layers": net.layers, "input_layers": [[face, 0, 0]],
                                                   "output_layers": [[out, 0, 0]]}}
