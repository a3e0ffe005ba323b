"""Files that look like the public networks that loaders open: their inputs and outputs, small, and with answers that can be foretold."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "swap"))
import doubles


def save(path: Path, steps: list[tuple], inputs: dict[str, list], outputs: dict[str, list], weights: dict[str, np.ndarray]) -> Path:
    """steps: (operator, inputs, output, attributes)."""
    nodes = [helper.make_node(kind, given, [made], **(rest[0] if rest else {})) for kind, given, made, *rest in steps]
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side.items()] for side in (inputs, outputs)]
    graph = helper.make_graph(nodes, "double", *ports, [numpy_helper.from_array(value, name) for name, value in weights.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def constants(path: Path, inputs: dict[str, list], outputs: dict[str, list]) -> Path:
    """A network that answers with zeros, whatever it sees."""
    weights = {f"{name}_zeros": np.zeros(shape, np.float32) for name, shape in outputs.items()}
    return save(path, [("Identity", [f"{name}_zeros"], name) for name in outputs], inputs, outputs, weights)


def swap(path: Path) -> Path:
    """hyperswap_1a_256 as tests/models/swap knows it: a dimmed target with a ramp, a colour of the source, and a mask."""
    made = doubles.save_double("hyperswap_1a_256", path.parent)
    return made.rename(path)


def recognizer(path: Path) -> Path:
    """Every 14×14 pixels' mean, through a fixed matrix."""
    matrix = np.random.default_rng(0).normal(0, 1, (192, 512)).astype(np.float32)
    steps = [("AveragePool", ["input.1"], "means", {"kernel_shape": [14, 14], "strides": [14, 14]}), ("Flatten", ["means"], "flat"),
             ("MatMul", ["flat", "matrix"], "683")]
    return save(path, steps, {"input.1": [1, 3, 112, 112]}, {"683": [1, 512]}, {"matrix": matrix})


def restorer(path: Path) -> Path:
    """GFPGAN's ports; answers with the picture it sees, a little brighter."""
    return save(path, [("Add", ["input", "light"], "output")], {"input": [1, 3, 512, 512]}, {"output": [1, 3, 512, 512]},
                {"light": np.float32([0.1])})


def parser(path: Path) -> Path:
    """BiSeNet's ports; everything is skin."""
    scores = np.zeros((1, 19, 512, 512), np.float32)
    scores[:, 1] = 1
    return save(path, [("Identity", ["scores"], "output")], {"input": [1, 3, 512, 512]}, {"output": [1, 19, 512, 512]}, {"scores": scores})


def occluder(path: Path) -> Path:
    """XSeg's ports; all is seen."""
    return save(path, [("Identity", ["ones"], "output")], {"input": [1, 256, 256, 3]}, {"output": [1, 256, 256, 1]},
                {"ones": np.ones((1, 256, 256, 1), np.float32)})


def occluder_of_magenta(path: Path) -> Path:
    """XSeg's ports; magenta hides the face, and so do four pixels around it."""
    steps = [("Transpose", ["input"], "planes", {"perm": [0, 3, 1, 2]}), ("Conv", ["planes", "purple"], "purpleness"),
             ("Sub", ["purpleness", "enough"], "more"), ("Mul", ["more", "ten"], "steep"), ("Clip", ["steep", "zero", "one"], "hidden"),
             ("MaxPool", ["hidden"], "wider", {"kernel_shape": [9, 9], "pads": [4, 4, 4, 4]}), ("Sub", ["one", "wider"], "seen"),
             ("Transpose", ["seen"], "output", {"perm": [0, 2, 3, 1]})]
    weights = {"purple": np.float32([.5, -1, .5]).reshape(1, 3, 1, 1), "enough": np.float32(.6), "ten": np.float32(10),
               "zero": np.float32(0), "one": np.float32(1)}
    return save(path, steps, {"input": [1, 256, 256, 3]}, {"output": [1, 256, 256, 1]}, weights)


def detector(path: Path) -> Path:
    """SCRFD's ports with five points; sees nothing."""
    sizes = {8: 12800, 16: 3200, 32: 800}
    outputs = {f"{what}_{stride}": [count, width] for what, width in (("score", 1), ("bbox", 4), ("kps", 10))
               for stride, count in sizes.items()}
    return constants(path, {"input.1": [1, 3, 640, 640]}, outputs)


def attributes(path: Path) -> Path:
    """genderage's ports: a woman of 47."""
    return save(path, [("Identity", ["answer"], "fc1")], {"data": [1, 3, 96, 96]}, {"fc1": [1, 3]},
                {"answer": np.float32([[1, 0, 0.47]])})


def points106(path: Path) -> Path:
    """2d106det's ports: a circle round the middle of what it sees."""
    angle = np.linspace(0, 2 * np.pi, 106, endpoint=False)
    ring = np.stack([.5 * np.cos(angle), .6 * np.sin(angle)], -1).astype(np.float32).reshape(1, 212)
    return save(path, [("Identity", ["ring"], "fc1")], {"data": [1, 3, 192, 192]}, {"fc1": [1, 212]}, {"ring": ring})


def ghost_generator(path: Path) -> Path:
    """GHOST's generator of one block, whole, in half precision."""
    import torch
    from faceloom.models.networks.aei import AEINet

    torch.manual_seed(0)
    return _saved(path, AEINet("unet", 1).half())


def ghost_arcface(path: Path) -> Path:
    """A small ArcFace with vectors of about GHOST's length."""
    import torch
    from faceloom.models.networks.iresnet import IResNet

    torch.manual_seed(0)
    net = IResNet(18)
    net.features.running_var.mul_(0.05)
    return _saved(path, net)


def _saved(path: Path, net) -> Path:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), path)
    return path
