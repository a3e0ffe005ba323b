"""ArcFace networks of ONNX files in torch: the same answer as onnxruntime, with a gradient."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from faceloom.models.crops.crop import crop_faces
from faceloom.models.detect import detect_faces
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.onnx import read_onnx
from faceloom.models.identity.differentiable import align_crops, alignment_matrices, as_differentiable
from faceloom.models.identity.load import load_recognizer
from faceloom.models.options.detect import DetectSettings
from faceloom.models.pixels.affine import compose
from faceloom.models.runtime.as_torch import torch_from_onnx
from faceloom.models.runtime.method import Loading
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture(scope="module")
def recognizer(shared):
    return load_recognizer(shared / "models" / "mobilefacenet_128.onnx", Loading(providers="cpu"))


def session_answer(data: bytes, pictures: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: pictures})[0]


def iresnet(blocks: int = 2) -> bytes:
    """A small network of iresnet's operations as insightface's exporter writes them (w600k_r50 has 24 such blocks)."""
    random, nodes, weights = np.random.default_rng(0), [], {}

    def put(name, *shape, positive=False):
        value = random.normal(size=shape).astype(np.float32) / max(1, int(np.prod(shape[1:]))) ** 0.5
        weights[name] = np.abs(value) + 0.5 if positive else value
        return name

    def norm(x, y, c):
        names = [put(f"{y}.w", c, positive=True), put(f"{y}.b", c), put(f"{y}.m", c), put(f"{y}.v", c, positive=True)]
        nodes.append(helper.make_node("BatchNormalization", [x, *names], [y], epsilon=2e-5, momentum=0.9))
        return y

    def conv(x, y, c, d, stride=1, kernel=3):
        nodes.append(helper.make_node("Conv", [x, put(f"{y}.k", d, c, kernel, kernel), put(f"{y}.o", d)], [y], strides=[stride] * 2,
                                      kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4, dilations=[1, 1], group=1))
        return y

    def slope(x, y, c):
        nodes.append(helper.make_node("PRelu", [x, put(f"{y}.s", c, 1, 1)], [y]))
        return y

    x, c = slope(conv("input.1", "stem", 3, 8), "stem.p", 8), 8
    for i in range(blocks):
        d = c * 2
        main = norm(conv(slope(conv(norm(x, f"{i}.a", c), f"{i}.c1", c, d), f"{i}.p", d), f"{i}.c2", d, d, 2), f"{i}.n", d)
        nodes.append(helper.make_node("Add", [main, norm(conv(x, f"{i}.s", c, d, 2, 1), f"{i}.sn", d)], [f"{i}.out"]))
        x, c = f"{i}.out", d
    edge = 112 // 2**blocks
    nodes.append(helper.make_node("Flatten", [norm(x, "last", c)], ["flat"], axis=1))
    nodes.append(helper.make_node("Gemm", ["flat", put("fc.w", 16, c * edge * edge), put("fc.b", 16)], ["fc"], alpha=1.0, beta=1.0,
                                  transB=1))
    norm("fc", "683", 16)
    graph = helper.make_graph(nodes, "iresnet", [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["None", 3, 112, 112])],
                              [helper.make_tensor_value_info("683", TensorProto.FLOAT, [1, 16])],
                              [numpy_helper.from_array(value, name) for name, value in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6).SerializeToString()


def test_equals_onnxruntime_on_the_real_network(recognizer):
    pictures = torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    ours = torch_from_onnx(recognizer.model.file)(pictures)
    theirs = recognizer.model.run({recognizer.model.inputs[0].name: pictures.numpy()})[0]
    assert np.abs(theirs).max() > 1 and np.abs(ours.numpy() - theirs).max() < 1e-4


def test_equals_onnxruntime_on_iresnet():
    data = iresnet()
    pictures = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    theirs = np.concatenate([session_answer(data, pictures[i:i + 1].numpy()) for i in range(2)])
    assert np.abs(torch_from_onnx(read_onnx(data))(pictures).numpy() - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_equals_onnxruntime_on_what_exporters_write_for_flattening():
    """PyTorch's dynamic exports compute the shape: Shape, Gather, Unsqueeze, Concat, Reshape; and normalise with ReduceL2, Div."""
    arrays = {"i": np.array(0, np.int64), "rest": np.array([-1], np.int64), "gain": np.float32([[2.0]])}
    nodes = [helper.make_node("Shape", ["x"], ["shape"]), helper.make_node("Gather", ["shape", "i"], ["batch"], axis=0),
             helper.make_node("Unsqueeze", ["batch"], ["first"], axes=[0]),
             helper.make_node("Concat", ["first", "rest"], ["wanted"], axis=0),
             helper.make_node("AveragePool", ["x"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
             helper.make_node("LeakyRelu", ["pooled"], ["leaky"], alpha=0.2), helper.make_node("Sigmoid", ["leaky"], ["gate"]),
             helper.make_node("Mul", ["leaky", "gate"], ["gated"]), helper.make_node("Reshape", ["gated", "wanted"], ["flat"]),
             helper.make_node("ReduceL2", ["flat"], ["length"], axes=[1], keepdims=1),
             helper.make_node("Div", ["flat", "length"], ["unit"]),
             helper.make_node("Mul", ["unit", "gain"], ["y"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 48])],
                              [numpy_helper.from_array(value, name) for name, value in arrays.items()])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6).SerializeToString()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert np.abs(torch_from_onnx(read_onnx(data))(x).numpy() - session_answer(data, x.numpy())).max() < 1e-6


def test_an_operation_without_gradient_is_named(recognizer):
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])]
    graph = helper.make_graph([helper.make_node("NonZero", ["x"], ["y"])], "g", given,
                              [helper.make_tensor_value_info("y", TensorProto.INT64, [2, None])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.checker.check_model(model)
    with pytest.raises(FaceLoomError, match="uses NonZero"):
        torch_from_onnx(read_onnx(model.SerializeToString()))


def test_made_in_inference_mode_it_still_differentiates(recognizer):
    """ComfyUI runs nodes under inference mode; guidance leaves it."""
    with torch.inference_mode():
        embedder = as_differentiable(recognizer)
        pictures = torch.rand(1, 3, 112, 112)
        with torch.inference_mode(False), torch.enable_grad():
            leaf = pictures.clone().requires_grad_(True)
            cosine = embedder(leaf)[0, 0]
            slope = torch.autograd.grad(cosine, leaf)[0]
    with torch.no_grad():
        step = 1e-2 * slope / slope.norm()
        change = embedder(pictures + step)[0, 0] - embedder(pictures - step)[0, 0]
    assert float(change) == pytest.approx(2e-2 * float(slope.norm()), rel=0.05)


def test_the_built_in_recognizer_has_no_gradient():
    from faceloom.models.identity.dlib import DlibRecognizer

    with pytest.raises(FaceLoomError, match="dlib recognizer has no gradient"):
        as_differentiable(DlibRecognizer())


@pytest.fixture(scope="module")
def scene(hopper):
    faces = detect_faces(hopper, settings=DetectSettings(keep="first"))
    return faces, crop_faces(hopper, faces)


class TestAlignment:
    def test_a_crop_gives_the_embedding_of_the_photograph(self, recognizer, hopper, scene):
        """Through the canonical crop by a constant grid, or straight from the photograph: the same person to three digits."""
        faces, crops = scene
        embedder = as_differentiable(recognizer)
        straight = torch.from_numpy(recognizer.embed(hopper, faces))
        matrices = alignment_matrices(1, 512, embedder.contract, faces.items, faces.framing)
        assert float((embedder(align_crops(crops.movedim(-1, 1), matrices, 112)) @ straight.T)[0, 0]) > 0.998
        assumed = alignment_matrices(1, 512, embedder.contract)  # no faces connected: the template's own place
        assert float((embedder(align_crops(crops.movedim(-1, 1), assumed, 112)) @ straight.T)[0, 0]) > 0.99

    def test_constant_colour_and_positions(self):
        """A ramp along x comes out as the coordinate it was read at."""
        ramp = torch.arange(256.0)[None, None, None].expand(1, 1, 256, 256)
        matrix = np.array([[[0.25, 0.0, -4.0], [0.0, 0.25, -2.0]]])
        out = align_crops(ramp, matrix, 56)
        wanted = (torch.arange(56.0) + 4) / 0.25
        assert (out[0, 0, 20] - wanted).abs().max() < 1e-3

    def test_shrinking_does_not_alias(self):
        checks = (torch.arange(256) % 2).float()[None, None, None].expand(1, 1, 256, 256)
        assert (align_crops(checks, np.array([[[0.25, 0, 0], [0, 0.25, 0]]]), 60)[..., 2:-2] - 0.5).abs().max() < 0.01

    def test_alignment_of_a_resized_crop(self, recognizer, scene):
        faces, _ = scene
        embedder = as_differentiable(recognizer)
        matrices = alignment_matrices(1, 512, embedder.contract, faces.items, faces.framing)
        again = alignment_matrices(1, 256, embedder.contract, faces.items, faces.framing)
        from_half = np.array([[2, 0, 0.5], [0, 2, 0.5]])  # a pixel of the crop at 256 in the one at 512, middle to middle
        assert np.allclose(compose(matrices, from_half), again, atol=1e-6)
