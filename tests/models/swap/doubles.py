"""Stand-ins for the public swap networks: same inputs, outputs, shapes and types, and a function that makes any mistake visible.

What every network expects is written down here a second time, in numbers, so that the catalogue is checked and not repeated.
A double answers  0.4·(R, 0.5·G, 0.25·B) of the target it sees  +  a ramp in its own pixels  +  a colour made of the source.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

V1 = np.array([[39.73, 51.138], [72.27, 51.138], [56, 68.493], [42.463, 87.01], [69.537, 87.01]]) / 112
V2 = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]) / 112
A128 = (V2 * 112 + (8, 0)) / 128
FFHQ = np.array([[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935], [201.26117, 371.41043],
                 [313.08905, 371.15118]]) / 512
MTCNN = np.array([[.36562865, .46733799], [.63305391, .46585885], [.50019127, .61942959], [.39032951, .77598822], [.61178945, .77476328]])
DFL = np.array([[.35342266, .39285716], [.62797622, .39285716], [.48660713, .5401786], [.38839287, .68750011], [.59821427, .68750011]])

IMAGENET = ((.485, .456, .406), (.229, .224, .225))
PLAIN = ((0, 0, 0), (1, 1, 1))
HALF = ((.5, .5, .5), (.5, .5, .5))


@dataclass(frozen=True)
class Truth:
    """What the authors of one network expect. latent: the steps from a recognizer's raw vector. half: computes in half precision; what
    goes in and comes out is single precision all the same. masks: of every mask it answers, the axis (0: x) along which it rises."""

    template: np.ndarray
    size: int
    into: tuple = PLAIN
    out: tuple = PLAIN
    latent: tuple[str, ...] = ()
    space: str = "w600k"
    masks: tuple[int, ...] = ()
    names: tuple[str, str] = ("target", "source")
    outputs: tuple[str, ...] = ("output",)
    source_picture: tuple[np.ndarray, int] | None = None
    half: bool = False
    single: bool = True
    adapter: str | None = None


INSWAPPER = Truth(A128, 128, latent=("unit", "emap", "unit"))
HYPERSWAP = Truth(A128, 256, HALF, HALF, ("unit",), masks=(0,), outputs=("output", "mask"))
GHOST = Truth(V1, 256, HALF, HALF, ("crossface_ghost",))
INSTYLE = replace(INSWAPPER, size=256)
TRUTHS = {
    "inswapper_128": INSWAPPER,
    "inswapper_128_fp16": replace(INSWAPPER, half=True),
    "reswapper_128": replace(INSWAPPER, single=False),
    "reswapper_256": replace(INSWAPPER, size=256),
    "hyperswap_1a_256": HYPERSWAP,
    "hyperswap_1b_256": HYPERSWAP,
    "hyperswap_1c_256": HYPERSWAP,
    "simswap_256": Truth(V1, 256, IMAGENET, PLAIN, ("crossface_simswap", "unit")),
    "simswap_unofficial_512": Truth(V1, 512, latent=("crossface_simswap", "unit")),
    "simswap_512_unoff": Truth(V1, 512, latent=("unit",), space="simswap", names=("input", "onnx::Gemm_1")),
    "ghost_1_256": GHOST,
    "ghost_2_256": GHOST,
    "ghost_3_256": GHOST,
    "ghost_unet_1_block": Truth(V1, 256, HALF, HALF, space="ghost", outputs=("781",)),
    "ghost_unet_2_block": Truth(V1, 256, HALF, HALF, space="ghost", outputs=("1165",)),
    "ghost_unet_3_block": Truth(V1, 256, HALF, HALF, space="ghost", outputs=("1549",)),
    "hififace_unofficial_256": Truth(MTCNN, 256, HALF, HALF, ("crossface_hififace", "unit"), masks=(0,), outputs=("output", "mask")),
    "blendswap_256": Truth(FFHQ, 256, source_picture=(V2, 112)),
    "uniface_256": Truth(FFHQ, 256, HALF, HALF, source_picture=(FFHQ, 256)),
    "alphaface_256": Truth(A128, 256),
    "instyleswapper_256_a": INSTYLE,
    "instyleswapper_256_b": INSTYLE,
    "instyleswapper_256_c": replace(INSTYLE, half=True),
    "cscs_256": Truth(FFHQ, 256, HALF, HALF, ("unit",), space="cscs", names=("input_1", "input_2"), adapter="cscs_adapter"),
    "deepfacelive": Truth(DFL, 224, masks=(1, 0), names=("in_face:0", ""),
                          outputs=("out_face_mask:0", "out_celeb_face:0", "out_celeb_face_mask:0")),
}

_RANDOM = np.random.default_rng(7)
EMAP = _RANDOM.normal(0, .1, (512, 512)).astype(np.float32) + np.diag(np.linspace(0, 2, 512)).astype(np.float32)
PAINT = _RANDOM.normal(0, .06, (512, 3)).astype(np.float32)
CONVERTERS = {
    f"crossface_{name}": (_RANDOM.normal(0, .05, (512, 512)) + np.eye(512)).astype(np.float32) for name in ("ghost", "hififace", "simswap")
}
# Vectors of length about 20 (raw) must not saturate the picture either.
RAW_LENGTH = 20.0


def convert(name: str, vectors: np.ndarray) -> np.ndarray:
    """What the converter double answers: not linear, so that the length that goes in matters."""
    return np.tanh(vectors @ CONVERTERS[name]) * 4


def gain(truth: Truth) -> float:
    """How strongly the colour answers to the latent: unit latents as they are, raw ones less."""
    if truth.latent[-1:] == ("unit",):
        return 1.0
    return 1 / RAW_LENGTH


def truth_latent(truth: Truth, raw: np.ndarray) -> np.ndarray:
    """The latent of ``[512]`` by this file's own account."""
    value = raw.astype(np.float64)
    for step in truth.latent:
        value = value / np.linalg.norm(value) if step == "unit" else value @ EMAP if step == "emap" else convert(step, value)
    return value


def ramp(size: int) -> np.ndarray:
    """``[size, size, 3]``: what the double adds at its own pixels."""
    v, u = np.mgrid[:size, :size] / size
    return np.stack([.25 * u, .25 * v, .12 + .12 * (u + v) / 2], -1)


def source_weights(size: int) -> np.ndarray:
    """``[size, size, 3]``: how a source picture becomes a colour (its weighted mean)."""
    v, u = np.mgrid[:size, :size] / size
    return np.stack([u, v, 1 - u], -1) * (.3, .25, .2)


def save_double(name: str, folder: Path, *, truth: Truth | None = None, morph: bool = False, mixes_rows: bool = False,
                fixed: bool = False) -> Path:
    """Write the double of a catalogue row. fixed: with the batch of one baked into a Reshape, as hyperswap's exporter does; mixes_rows: a
    graph that is only right for one row."""
    truth = truth or TRUTHS[name]
    nhwc = name == "deepfacelive"
    size, kind = truth.size, TensorProto.FLOAT
    rows = 1 if truth.single and not nhwc else "batch"
    nodes, weights = [], []

    def weight(label: str, value) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value, np.float16 if truth.half else np.float32), label))
        return label

    def node(kind: str, inputs: list[str], output: str, **attributes) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def whole(label: str, value) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value, np.int64), label))
        return label

    def inner(label: str) -> str:
        return node("Cast", [label], f"{label}_half", to=TensorProto.FLOAT16) if truth.half else label

    def answer(value: str, label: str) -> None:
        node("Cast", [value], label, to=kind)

    def planes(value) -> np.ndarray:
        return np.asarray(value, np.float32).reshape(1, 3, 1, 1)

    target_name, source_name = truth.names
    target = inner(target_name)
    shape = [rows, size, size, 3] if nhwc else [rows, 3, size, size]
    inputs = [helper.make_tensor_value_info(target_name, kind, shape)]
    if nhwc:
        target = node("Transpose", [target], "planes", perm=[0, 3, 1, 2])
        target = node("Gather", [target, whole("flip", [2, 1, 0])], "rgb", axis=1)
    target = node("Mul", [target, weight("std", planes(truth.into[1]))], "scaled")
    target = node("Add", [target, weight("mean", planes(truth.into[0]))], "picture")
    seen = node("Mul", [target, weight("plane_weights", planes((.4, .2, .1)))], "seen")
    total = node("Add", [seen, weight("ramp", ramp(size).transpose(2, 0, 1)[None])], "with_ramp")
    if truth.source_picture:
        edge = truth.source_picture[1]
        inputs.append(helper.make_tensor_value_info(source_name, kind, [rows, 3, edge, edge]))
        weighted = node("Mul", [inner(source_name), weight("source_weights", source_weights(edge).transpose(2, 0, 1)[None])], "weighted")
        colour = node("ReduceMean", [weighted], "colour", axes=[2, 3], keepdims=1)
        total = node("Add", [total, colour], "with_source")
    elif not nhwc:
        inputs.append(helper.make_tensor_value_info(source_name, kind, [rows, 512]))
        colour = node("MatMul", [inner(source_name), weight("paint", PAINT * gain(truth))], "dots")
        if mixes_rows:
            colour = node("ReduceMean", [colour], "mean_row", axes=[0], keepdims=1)
        colour = node("Reshape", [colour, whole("one", [1, 3, 1, 1] if fixed else [-1, 3, 1, 1])], "colour")
        total = node("Add", [total, colour], "with_source")
        total = node("Add", [total, weight("middle", planes((.15, .15, .15)))], "lifted")
    elif morph:
        inputs.append(helper.make_tensor_value_info("morph_value:0", kind, [1]))
        total = node("Add", [total, node("Mul", ["morph_value:0", weight("fifth", [.2])], "morphed")], "with_morph")
    total = node("Sub", [total, weight("out_mean", planes(truth.out[0]))], "centred")
    total = node("Div", [total, weight("out_std", planes(truth.out[1]))], "answer")
    picture_name = truth.outputs[1] if nhwc else truth.outputs[0]
    if nhwc:
        total = node("Gather", [total, "flip"], "bgr", axis=1)
        total = node("Transpose", [total], "nhwc", perm=[0, 2, 3, 1])
    answer(total, picture_name)
    outputs, axes = [], iter(truth.masks)
    for label in truth.outputs:
        if label == picture_name:
            outputs.append(helper.make_tensor_value_info(label, kind, shape))
            continue
        own = .1 + .8 * ramp(size)[..., next(axes)] / .25
        own = own[None, :, :, None] if nhwc else own[None, None]
        still = node("ReduceMean", [seen], f"{label}_rows", axes=[1, 2, 3], keepdims=1)
        still = node("Mul", [still, weight(f"{label}_zero", np.zeros((1, 1, 1, 1)))], f"{label}_nought")
        answer(node("Add", [still, weight(f"{label}_map", own)], f"{label}_shown"), label)
        outputs.append(helper.make_tensor_value_info(label, kind, [rows, size, size, 1] if nhwc else [rows, 1, size, size]))
    if "emap" in truth.latent:
        weights.append(numpy_helper.from_array(EMAP.astype(np.float16) if truth.half else EMAP, "emap"))
        weights.append(numpy_helper.from_array(np.zeros((3, 3), np.float32), "last_but_not_the_emap"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("someone.dfm" if nhwc else f"{name}.onnx")
    return save(path, nodes, inputs, outputs, weights)


def edited(path: Path, change: Callable[[onnx.GraphProto], None], name: str | None = None) -> Path:
    """Write a graph again after ``change`` was made to it, under another file name if one is given."""
    model = onnx.load(str(path))
    change(model.graph)
    path = path.with_name(name or path.name)
    onnx.save(model, str(path))
    return path


def call(**names: str) -> Callable[[onnx.GraphProto], None]:
    """A change that gives inputs and outputs other names (of an input or output by its place: ``input0``, ``output1``)."""
    def change(graph: onnx.GraphProto) -> None:
        for side in ("input", "output"):
            for place, port in enumerate(getattr(graph, side)):
                other, port.name = port.name, names.get(f"{side}{place}", port.name)
                for node in graph.node:
                    for values in (node.input, node.output):
                        values[:] = [port.name if value == other else value for value in values]

    return change


def reorder(*order: int) -> Callable[[onnx.GraphProto], None]:
    """A change that answers in another order."""
    def change(graph: onnx.GraphProto) -> None:
        outputs = [graph.output[place] for place in order]
        del graph.output[:]
        graph.output.extend(outputs)

    return change


def retype(kind: int) -> Callable[[onnx.GraphProto], None]:
    """A change that takes and answers numbers of another type."""
    def change(graph: onnx.GraphProto) -> None:
        for port in [*graph.input, *graph.output]:
            port.type.tensor_type.elem_type = kind
        for port in graph.input:
            for node in graph.node:
                node.input[:] = [f"{value}_single" if value == port.name else value for value in node.input]
        for node in graph.node:
            node.output[:] = [f"{value}_single" if value in [port.name for port in graph.output] else value for value in node.output]
        for port in graph.input:
            graph.node.insert(0, helper.make_node("Cast", [port.name], [f"{port.name}_single"], to=TensorProto.FLOAT))
        graph.node.extend(helper.make_node("Cast", [f"{port.name}_single"], [port.name], to=kind) for port in graph.output)

    return change


def save_converter(name: str, folder: Path) -> Path:
    """Write the double of an embedding converter."""
    weights = [numpy_helper.from_array(CONVERTERS[name], "w"), numpy_helper.from_array(np.float32([4]), "four")]
    steps = [("MatMul", ["input", "w"], "a"), ("Tanh", ["a"], "b"), ("Mul", ["b", "four"], "output")]
    nodes = [helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps]
    row = [helper.make_tensor_value_info(label, TensorProto.FLOAT, [1, 512]) for label in ("input", "output")]
    folder.mkdir(parents=True, exist_ok=True)
    return save(folder / f"{name}.onnx", nodes, row[:1], row[1:], weights)


def save(path: Path, nodes, inputs, outputs, weights) -> Path:
    """Write a graph."""
    model = helper.make_model(helper.make_graph(nodes, "double", inputs, outputs, weights), opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path
