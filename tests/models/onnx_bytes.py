"""Small ONNX graphs as bytes, and what a swap network's stand-in answers."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64


def model(nodes, inputs, outputs, initializers=(), **extra) -> bytes:
    """ONNX bytes. inputs, outputs: name -> shape or (shape, type)."""

    def ports(table):
        pairs = {name: value if isinstance(value, tuple) else (value, FLOAT) for name, value in table.items()}
        return [helper.make_tensor_value_info(name, kind, shape) for name, (shape, kind) in pairs.items()]

    stored = [numpy_helper.from_array(array, name) for name, array in initializers]
    graph = helper.make_graph(nodes, "double", ports(inputs), ports(outputs), stored, **extra)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def node(operator: str, inputs: str, output: str, **attributes):
    return helper.make_node(operator, inputs.split(), output.split(), **attributes)


EMAP = np.arange(512 * 512, dtype=np.float32).reshape(512, 512) / 512**2


def swap_double(size: int = 16, batch=1) -> bytes:
    """Answers the target plus the first number of ``source @ emap``; the batch of 1 is baked into a reshape."""
    return model(
        [node("MatMul", "source emap", "latent"), node("ReduceMean", "latent", "mean", axes=[1]), node("Reshape", "mean shape", "spot"),
         node("Add", "target spot", "output")],
        {"target": [batch, 3, size, size], "source": [batch, 512]}, {"output": [batch, 3, size, size]},
        [("shape", np.array([1 if batch == 1 else 0, 1, 1, 1], np.int64)), ("emap", EMAP)])  # fmt: skip


def reference(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    return target + (source @ EMAP).mean(1)[:, None, None, None]


SMALL = model([node("Reshape", "x shape", "y")], {"x": ["n", 2, 2]}, {"y": [1, 4]}, [("shape", np.array([1, 4], np.int64))])


def inputs(count: int, size: int = 16) -> dict[str, np.ndarray]:
    random = np.random.default_rng(count)
    return {"target": random.random((count, 3, size, size), np.float32), "source": random.random((count, 512), np.float32)}
