"""Stand-ins for inswapper_128 with its very inputs and outputs: one that costs nothing, and one that costs what it costs.

They need the ``onnx`` package, which comes with insightface.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

EDGE, LATENT = 128, 512
# Output channels of the strided encoder, and how many AdaIN blocks work at its last size.
CHANNELS, BLOCKS = (128, 256, 512, 1024), 6


@dataclass(frozen=True)
class Double:
    """A written network. multiply_adds: for one face, what inswapper's authors call FLOP; emap apart, parameters are learnt numbers."""

    path: Path
    parameters: int
    multiply_adds: int


class _Graph:
    """Nodes and weights in order; every method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list = []
        self.weights: list = []
        self.parameters = self.multiply_adds = 0
        self._pool = np.random.default_rng(0).standard_normal(1 << 20, np.float32)  # repeated: only its cost has to be real

    def node(self, kind: str, inputs: list[str], outputs: int = 1, **attributes) -> str | list[str]:
        from onnx import helper

        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names if outputs > 1 else names[0]

    def constant(self, value: np.ndarray | list) -> str:
        from onnx import numpy_helper

        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def random(self, *shape: int, scale: float) -> str:
        """Normal numbers of this standard deviation, counted as parameters."""
        self.parameters += int(np.prod(shape))
        return self.constant(np.resize(self._pool * np.float32(scale), shape))

    def conv(self, x: str, channels_in: int, channels_out: int, kernel: int, edge: int, stride: int = 1) -> str:
        """Mirrored border, convolution to ``edge`` × ``edge`` pixels; keeps the size of what a ReLU follows."""
        reach = kernel // 2
        padded = self.node("Pad", [x, self.constant(np.array([0, 0, reach, reach] * 2, np.int64))], mode="reflect")
        weight = self.random(channels_out, channels_in, kernel, kernel, scale=(2 / (channels_in * kernel * kernel)) ** 0.5)
        bias = self.random(channels_out, scale=0.01)
        self.multiply_adds += channels_in * channels_out * kernel * kernel * edge * edge
        return self.node("Conv", [padded, weight, bias], strides=[stride, stride])

    def linear(self, x: str, size_in: int, size_out: int) -> str:
        self.multiply_adds += size_in * size_out
        return self.node("Gemm", [x, self.random(size_in, size_out, scale=size_in**-0.5), self.random(size_out, scale=0.01)])

    def adain(self, x: str, source: str, channels: int) -> str:
        """Adaptive instance normalisation (Huang and Belongie 2017): planes without mean and scale, then those of the source."""
        plain = self.node("InstanceNormalization", [x, self.constant(np.ones(channels, np.float32)),
                                                    self.constant(np.zeros(channels, np.float32))])
        halves = self.node("Split", [self.linear(source, LATENT, 2 * channels)], 2, axis=1)
        gain, shift = (self.node("Unsqueeze", [half, self.constant(np.array([2, 3], np.int64))]) for half in halves)
        return self.node("Add", [self.node("Mul", [plain, gain]), shift])

    def twice(self, x: str) -> str:
        """Bilinear enlargement."""
        return self.node("Resize", [x, "", self.constant(np.array([1, 1, 2, 2], np.float32))], mode="linear")

    def save(self, path: Path, output: str) -> Double:
        """Ports as inswapper's, the emap last among the initializers, where insightface looks for it."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        emap = np.resize(self._pool / np.float32(LATENT**0.5), (LATENT, LATENT))
        self.nodes.append(helper.make_node("Identity", [output], ["output"]))
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                 for name, shape in (("target", [1, 3, EDGE, EDGE]), ("source", [1, LATENT]), ("output", [1, 3, EDGE, EDGE]))]
        graph = helper.make_graph(self.nodes, "inswapper", ports[:2], ports[2:], [*self.weights, numpy_helper.from_array(emap, "emap")])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
        return Double(path, self.parameters, self.multiply_adds)


def save_trivial(path: Path) -> Double:
    """The negative of the target, tinted by the source."""
    graph = _Graph()
    tint = graph.node("Unsqueeze", [graph.linear("source", LATENT, 3), graph.constant(np.array([2, 3], np.int64))])
    negative = graph.node("Sub", [graph.constant(np.ones((1, 1, 1, 1), np.float32)), "target"])
    return graph.save(path, graph.node("Add", [negative, graph.node("Mul", [tint, graph.constant(np.float32(0.05))])]))


def save_full_cost(path: Path, channels: tuple[int, ...] = CHANNELS, blocks: int = BLOCKS) -> Double:
    """Writes random weights in layers of inswapper's shapes: SimSwap's generator (Chen et al. 2020, §3) with 1024 channels in its blocks.

    channels, blocks: others than inswapper's, for a network of less cost.
    """
    graph = _Graph()
    x = graph.node("Relu", [graph.conv("target", 3, channels[0], 7, EDGE)])
    edge = EDGE
    for i, (before, after) in enumerate(pairwise(channels)):
        stride = 1 if i == 0 else 2
        edge //= stride
        x = graph.node("Relu", [graph.conv(x, before, after, 3, edge, stride)])
    wide = channels[-1]
    for _ in range(blocks):
        inner = graph.node("Relu", [graph.adain(graph.conv(x, wide, wide, 3, edge), "source", wide)])
        x = graph.node("Add", [x, graph.adain(graph.conv(inner, wide, wide, 3, edge), "source", wide)])
    for before, after in pairwise(channels[::-1]):
        if edge < EDGE:
            x, edge = graph.twice(x), edge * 2
        x = graph.node("Relu", [graph.conv(x, before, after, 3, edge)])
    return graph.save(path, graph.node("Sigmoid", [graph.conv(x, channels[0], 3, 7, EDGE)]))
