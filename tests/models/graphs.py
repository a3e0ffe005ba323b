"""Small ONNX graphs that stand in for public networks, and the geometry to say what they must answer.

What the networks expect is written down in the tests a second time, in numbers, so that the catalogue is checked and not repeated.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGENET = ((.485, .456, .406), (.229, .224, .225))
PLAIN = ((0, 0, 0), (1, 1, 1))
HALF = ((.5, .5, .5), (.5, .5, .5))

FFHQ = np.array([[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935], [201.26117, 371.41043],
                 [313.08905, 371.15118]]) / 512
A128 = (np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
        + np.array([8, 0])) / 128
DFL = np.array([[.35342266, .39285716], [.62797622, .39285716], [.48660713, .5401786], [.38839287, .68750011], [.59821427, .68750011]])


class Graph:
    """A graph that is written node by node. half: in fp16."""

    def __init__(self, half: bool = False) -> None:
        self.half = half
        self.kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        self.nodes, self.weights, self.inputs, self.outputs = [], [], [], []

    def input(self, name: str, shape: list, kind: int | None = None) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind or self.kind, shape))
        return name

    def output(self, name: str, value: str, shape: list) -> None:
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, self.kind, shape))

    def weight(self, value, kind=None) -> str:
        label = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, kind or (np.float16 if self.half else np.float32)), label))
        return label

    def node(self, kind: str, *inputs: str, **attributes) -> str:
        label = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [label], **attributes))
        return label

    def planes(self, value) -> str:
        return self.weight(np.asarray(value, np.float64).reshape(1, -1, 1, 1))

    def picture(self, value: str, into: tuple, *, nhwc: bool = False, bgr: bool = False) -> str:
        """The RGB planes 0..1 of what the network was trained to be fed."""
        if nhwc:
            value = self.node("Transpose", value, perm=[0, 3, 1, 2])
        value = self.node("Add", self.node("Mul", value, self.planes(into[1])), self.planes(into[0]))
        return self.node("Gather", value, self.weight([2, 1, 0], np.int64), axis=1) if bgr else value

    def save(self, path: Path) -> Path:
        graph = helper.make_graph(self.nodes, "double", self.inputs, self.outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        model.ir_version = 8
        onnx.checker.check_model(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, str(path))
        return path


def fit(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Similarity by linear least squares, ``[2, 3]``."""
    x, y = points.T
    one, zero = np.ones_like(x), np.zeros_like(x)
    system = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, c, d = np.linalg.lstsq(system, np.concatenate([onto[:, 0], onto[:, 1]]), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]])


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def inverse(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]


def grid(height: int, width: int) -> np.ndarray:
    """``[height, width, 2]`` pixel positions."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float64)
