"""ONNX files, sessions, batches and chunks, and torch checkpoints."""

from __future__ import annotations

import builtins
import contextlib
import gc
import logging
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from faceloom.models import providers, runtime
from faceloom.models.errors import FaceLoomError
from faceloom.models.onnx_file import Port, read_onnx, sniff
from faceloom.models.progress import silent
from faceloom.models.providers import Machine, candidates, fall_back_warning
from faceloom.models.runtime import OnnxMemoryError, is_out_of_memory, open_session, plain_session, run_chunks
from faceloom.models.signature import channels_of, edge_of, expect_kind, kind_of
from faceloom.models.weights import PlainDevices, TorchModel, load_weights
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FLOAT, HALF, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path / "cache"))


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


# The file format


def test_ports_and_initializers_are_read_as_the_onnx_package_reads_them(shared):
    for path in sorted((shared / "models").glob("*.onnx")):
        ours, theirs = read_onnx(path), onnx.load(path)
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in theirs.graph.initializer}
        assert [tensor.name for tensor in ours.initializers] == list(stored)
        for tensor in ours.initializers:
            np.testing.assert_array_equal(tensor.array(), stored[tensor.name])
            assert tensor.shape == stored[tensor.name].shape and tensor.dtype == stored[tensor.name].dtype
        assert [port.name for port in ours.inputs] == [port.name for port in theirs.graph.input if port.name not in stored]
        assert [port.name for port in ours.outputs] == [port.name for port in theirs.graph.output]
        assert ours.operators == tuple(each.op_type for each in theirs.graph.node)


@pytest.mark.parametrize("array", [
    np.array([1.5, -2], np.float32), np.array([[1.5, -2]], np.float64), np.array([1.5, -2], np.float16), np.array([1, -2], np.int64),
    np.array([1, 200], np.uint8), np.array([-5, 7], np.int32), np.array([True, False]), np.float32(3)], ids=lambda a: str(a.dtype))
@pytest.mark.parametrize("raw", [True, False])
def test_initializers_of_every_kind(array, raw):
    tensor = numpy_helper.from_array(np.asarray(array), "t")
    if not raw:
        tensor = helper.make_tensor("t", tensor.data_type, np.shape(array), np.ravel(array).tolist())
    graph = helper.make_graph([], "g", [], [helper.make_tensor_value_info("y", FLOAT, [1])], [tensor])
    stored = read_onnx(helper.make_model(graph).SerializeToString()).initializers[0]
    np.testing.assert_array_equal(stored.array(), array)
    assert stored.array().dtype == np.asarray(array).dtype and stored.array().shape == np.shape(array)


def test_symbolic_and_unknown_shapes():
    file = read_onnx(model([node("Identity", "x", "y")], {"x": ["n", 3, None, 8], "k": ([], DOUBLE)}, {"y": (None, HALF)}))
    assert file.inputs == (Port("x", (None, 3, None, 8), np.dtype(np.float32)), Port("k", (), np.dtype(np.float64)))
    assert file.outputs == (Port("y", None, np.dtype(np.float16)),)


def test_inputs_that_are_initializers_are_no_inputs():
    data = model([node("Add", "x w", "y")], {"x": [1, 2], "w": [1, 2]}, {"y": [1, 2]}, [("w", np.ones((1, 2), np.float32))])
    assert [port.name for port in read_onnx(data).inputs] == ["x"]
    free = onnx.load_from_string(read_onnx(data).with_free_batch())
    assert [port.type.tensor_type.shape.dim[0].dim_param for port in free.graph.input] == ["batch", ""]


def test_the_map_is_the_last_of_its_shape():
    two = model([node("Identity", "x", "y")], {"x": [1]}, {"y": [1]},
                [("a", EMAP), ("emap", EMAP + 1), ("c", np.zeros((512, 2), np.float32))])
    assert read_onnx(two).initializer((512, 512)).name == "emap" and read_onnx(two).initializer((3, 3)) is None


def test_weights_in_another_file_are_known(tmp_path):
    path = tmp_path / "big.onnx"
    onnx.save(onnx.load_from_string(swap_double()), path, save_as_external_data=True, location="big.data", size_threshold=1000)
    file = read_onnx(path)
    assert file.external and not read_onnx(swap_double()).external
    with pytest.raises(FaceLoomError, match="stored elsewhere"):
        file.initializer((512, 512)).array()
    network = open_session(path)
    target, source = np.zeros((2, 3, 16, 16), np.float32), np.ones((2, 512), np.float32)
    np.testing.assert_allclose(network.run({"target": target, "source": source})[0], reference(target, source), rtol=1e-5)
    assert not network.batches(), "bytes in memory would not find the other file"
    (tmp_path / "big.data").rename(tmp_path / "renamed.data")
    with pytest.raises(FaceLoomError, match=r"^big\.onnx keeps its weights in big\.data, which is not beside it; put both into one fo"):
        open_session(path)


@pytest.mark.parametrize(("head", "words"), [
    (b"<!DOCTYPE html><html>", "a web page that was saved in its place"), (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
    (b"PK\x03\x04....", "a zip file or a PyTorch checkpoint"), (pickle.dumps({"a": 1}), "a Python pickle"),
    (b"\x89HDF\r\n\x1a\n", "a Keras"), ((2).to_bytes(8, "little") + b"{}", "a safetensors file")])
def test_other_files_are_called_by_their_name(tmp_path, head, words):
    path = tmp_path / "model.onnx"
    path.write_bytes(head + bytes(100))
    with pytest.raises(FaceLoomError, match=rf"model\.onnx is not an ONNX model but .*{words}"):
        open_session(path)


def test_files_that_are_no_or_half_a_model(tmp_path):
    data, path = swap_double(), tmp_path / "model.onnx"
    for cut in (3, 200, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(FaceLoomError, match=r"model\.onnx is not (a whole|an) ONNX model"):
            open_session(path)
    no_answer = helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString()
    for bad in (b"\x00" * 50, b"\x0f" * 50, b"\xff" * 50, b"\x08\x01", no_answer):
        path.write_bytes(bad)
        with pytest.raises(FaceLoomError, match=r"model\.onnx is not (a whole|an) ONNX model"):
            open_session(path)
    for other in (b"hello world\n" * 50, b'{"error": "not found"}', b"\x89PNG\r\n\x1a\n" + bytes(500)):
        path.write_bytes(other)
        with pytest.raises(FaceLoomError, match=r"^model\.onnx is not an ONNX model\.$"):
            open_session(path)
    path.write_bytes(b"")
    with pytest.raises(FaceLoomError, match="is empty"):
        open_session(path)
    with pytest.raises(FaceLoomError, match="There is no file"):
        open_session(tmp_path / "none.onnx")
    assert sniff(data[:64]) is None


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=400, deadline=None)
def test_a_damaged_file_never_fails_otherwise(place, flip):
    data = bytearray(SMALL)
    data[place % len(data)] ^= flip
    with contextlib.suppress(FaceLoomError):
        file = read_onnx(bytes(data))
        file.with_free_batch(reshapes=True)
        file.lacking(Path())
        for tensor in file.initializers:
            tensor.array()


def test_a_graph_that_onnxruntime_refuses():
    unknown = model([node("NoSuchOperator", "x", "y")], {"x": [1]}, {"y": [1]})
    with pytest.raises(FaceLoomError, match=r"odd cannot be opened by onnxruntime: .*NoSuchOperator"):
        open_session(unknown, name="odd")


# What kind it is


def ports(*shapes):
    return [Port(f"p{i}", shape, None) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize(("kind", "inputs", "outputs"), [
    ("swap", [(1, 3, 128, 128), (1, 512)], [(1, 3, 128, 128)]),
    ("swap", [(1, 512), (None, 3, 256, 256)], [(1, 3, 256, 256), (1, 1, 256, 256)]),
    ("swap", [(1, 3, 112, 112), (1, 3, 256, 256)], [(1, 3, 256, 256)]),
    ("swap", [(1, 224, 224, 3)], [(1, 224, 224, 1), (1, 224, 224, 3), (1, 224, 224, 1)]),
    ("restorer", [(1, 3, 512, 512), (1,)], [(1, 3, 512, 512)]),
    ("converter", [(1, 512)], [(1, 512)]),
    ("detector", [(1, 3, None, None)], [(None, 1)] * 9),
    ("detector", [(1, 3, 640, 640)], [(1, 20, 8400)]),
    ("parser", [(1, 3, 512, 512)], [(1, 19, 512, 512)]),
    ("occluder", [(1, 256, 256, 3)], [(1, 256, 256, 1)]),
    ("recognizer", [(None, 3, 112, 112)], [(1, 512)]),
    ("landmarker", [(None, 3, 192, 192)], [(1, 212)]),
    ("landmarker", [(1, 3, 256, 256)], [(1, 68, 3), (1, 68, 64, 64)]),
    ("attributes", [(None, 3, 96, 96)], [(1, 3)]),
    (None, [(1, 3, 64, 64)], [(1, 7, 7)]), (None, [(1, 4)], [(1, 2)]), (None, [None], [None]), (None, [(1, 3, 8, 8)], [None]),
    (None, [(1, 3, 8, 8)], [(1, 2)])])
def test_kinds_are_told_apart(kind, inputs, outputs):
    assert kind_of(ports(*inputs), ports(*outputs)) == kind
    if kind:
        expect_kind("x.onnx", kind, ports(*inputs), ports(*outputs))
    if kind not in (None, "swap"):
        with pytest.raises(FaceLoomError, match=r"x\.onnx is an? .*, not a swap model"):
            expect_kind("x.onnx", "swap", ports(*inputs), ports(*outputs))


def test_pictures_in_both_layouts():
    assert [channels_of(port) for port in ports((1, 3, 9, 8), (1, 9, 8, 3), (1, 19, 4, 4))] == [3, 3, 19]
    assert [channels_of(port) for port in ports((1, None, 4, 4), (3, 4))] == [None, None]
    assert [edge_of(port) for port in ports((1, 3, 9, 8), (1, 9, 8, 3), (1, 3, None, 8), (3, 4))] == [9, 9, None, None]


def test_the_real_networks_are_known_and_refused_elsewhere(shared):
    folder = shared / "models"
    assert open_session(folder / "mobilefacenet_128.onnx", kind="recognizer").describe() == "mobilefacenet_128.onnx on cpu"
    with pytest.raises(FaceLoomError, match=r"scrfd_2\.5g_bnkps\.onnx is a face detector, not a swap model"):
        open_session(folder / "scrfd_2.5g_bnkps.onnx", kind="swap")


# Running


def inputs(count: int, size: int = 16) -> dict[str, np.ndarray]:
    random = np.random.default_rng(count)
    return {"target": random.random((count, 3, size, size), np.float32), "source": random.random((count, 512), np.float32)}


def test_a_batch_of_one_is_freed_and_exact(tmp_path):
    path = tmp_path / "swap.onnx"
    path.write_bytes(swap_double())
    network = open_session(path, kind="swap")
    feeds, seen = inputs(5), []
    answer = network.run(feeds, lambda done, total: seen.append((done, total)), chunk=2)[0]
    np.testing.assert_allclose(answer, reference(**feeds), rtol=1e-5)
    assert network.batches() and seen[-1] == (5, 5) and len(seen) == 4, "chunks of 2, 2 and 1"
    assert list(runtime.read_json(runtime.cache_folder() / "batches.json").values()) == ["reshapes"]
    single = network.run({name: array[:1] for name, array in feeds.items()})[0]
    np.testing.assert_allclose(single, answer[:1], rtol=1e-6)


def test_one_identity_serves_all_faces():
    network = open_session(swap_double())
    feeds = inputs(3) | {"source": np.full((1, 512), 0.5, np.float64)}
    np.testing.assert_allclose(network.run(feeds)[0], reference(feeds["target"], np.full((3, 512), 0.5, np.float32)), rtol=1e-5)


def test_what_was_found_about_batches_is_remembered(tmp_path, monkeypatch):
    path = tmp_path / "swap.onnx"
    path.write_bytes(swap_double())
    assert open_session(path).batches()
    monkeypatch.setattr(runtime, "_exact", lambda *_: pytest.fail("tried again"))
    network = open_session(path)
    feeds = inputs(3)
    np.testing.assert_allclose(network.run(feeds)[0], reference(**feeds), rtol=1e-5)


def test_a_batch_that_is_free_outside_and_baked_inside_is_freed_too():
    baked = model([node("Reshape", "x shape", "y")], {"x": ["n", 2, 2]}, {"y": ["n", 4]}, [("shape", np.array([1, 4], np.int64))])
    network = open_session(baked)
    x = np.random.default_rng(0).random((3, 2, 2), np.float32)
    np.testing.assert_array_equal(network.run({"x": x})[0], x.reshape(3, 4))
    assert network.batches()


def test_running_out_of_memory_while_trying_is_not_remembered(monkeypatch):
    data = swap_double()
    for place in ("_create", "_exact"):
        network = open_session(data)
        with monkeypatch.context() as patch:
            patch.setattr(runtime, place, lambda *_: (_ for _ in ()).throw(OnnxMemoryError("full")))
            assert not network.batches()
    assert open_session(data).batches()


def test_large_networks_are_not_tried_on_the_cpu(monkeypatch):
    monkeypatch.setattr(runtime, "WORTHWHILE", 1000)
    monkeypatch.setattr(runtime, "_exact", lambda *_: pytest.fail("tried"))
    network, feeds = open_session(swap_double()), inputs(3)
    np.testing.assert_allclose(network.run(feeds)[0], reference(**feeds), rtol=1e-5)
    assert not network.batches()


def test_rows_that_touch_each_other_are_run_one_by_one(monkeypatch):
    mixing = model([node("ReduceMean", "x", "mean", axes=[0], keepdims=1), node("Sub", "x mean", "y")], {"x": [1, 4]}, {"y": [1, 4]})
    network = open_session(mixing)
    x = np.random.default_rng(0).random((3, 4), np.float32)
    np.testing.assert_array_equal(network.run({"x": x})[0], np.zeros((3, 4), np.float32))
    assert not network.batches()
    again = open_session(mixing)
    monkeypatch.setattr(runtime, "_exact", lambda *_: pytest.fail("tried again"))
    assert not again.batches()


def test_a_free_batch_is_believed_only_when_it_is_right():
    good = model([node("Mul", "x x", "y")], {"x": ["n", 4]}, {"y": ["n", 4]})
    assert open_session(good).batches()
    lying = model([node("CumSum", "x axis", "y")], {"x": ["n", 4]}, {"y": ["n", 4]}, [("axis", np.array(0, np.int64))])
    network = open_session(lying)
    x = np.random.default_rng(0).random((3, 4), np.float32)
    np.testing.assert_array_equal(network.run({"x": x})[0], x)
    squeezing = model([node("Reshape", "x shape", "y")], {"x": [1, 4]}, {"y": [4]}, [("shape", np.array([4], np.int64))])
    assert not open_session(squeezing).batches()
    folding = model([node("Reshape", "x shape", "y")], {"x": [1, 4]}, {"y": [2, 2]}, [("shape", np.array([2, -1], np.int64))])
    assert not open_session(folding).batches()


def test_reshapes_of_constants_and_shared_shapes_are_left_alone():
    constant = helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([1, -1], np.int64)))
    data = model([constant, node("Reshape", "x shape", "flat"), node("Reshape", "w other", "v"), node("Add", "flat v", "y"),
                  node("Identity", "used", "z"), node("Reshape", "x used", "u")],
                 {"x": [1, 2, 2]}, {"y": [1, 4], "z": ([2], INT64), "u": [1, 4]},
                 [("w", np.arange(4, dtype=np.float32)), ("other", np.array([1, 4], np.int64)), ("used", np.array([1, -1], np.int64))])
    free = onnx.load_from_string(read_onnx(data).with_free_batch(reshapes=True))
    stored = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in free.graph.initializer}
    assert stored["other"] == [1, 4] and stored["used"] == [1, -1]
    assert numpy_helper.to_array(free.graph.node[0].attribute[0].t).tolist() == [0, -1]
    onnx.checker.check_model(free)


def test_inner_shapes_do_not_contradict_the_freed_batch():
    inner = [helper.make_tensor_value_info("h", FLOAT, [1, 4])]
    data = model([node("Mul", "x x", "h"), node("Mul", "h x", "y")], {"x": [1, 4]}, {"y": [1, 4]}, value_info=inner)
    free = onnx.load_from_string(read_onnx(data).with_free_batch())
    assert not free.graph.value_info and free.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    x = np.random.default_rng(0).random((3, 4), np.float32)
    np.testing.assert_allclose(open_session(data).run({"x": x})[0], x**3, rtol=1e-6)


def test_types_are_cast_both_ways_and_scalars_shared():
    mixed = model([node("Cast", "w", "v", to=HALF), node("Mul", "x v", "y"), node("Size", "x", "n")],
                  {"x": ([1, 4], HALF), "w": ([1], DOUBLE)}, {"y": ([1, 4], HALF), "n": ([], INT64)})
    network = open_session(mixed)
    x = np.random.default_rng(0).random((3, 4)).astype(np.float64)
    y, _ = network.run({"x": x, "w": np.array([2], np.float32)})
    assert y.dtype == np.float32 and not network.batches(), "the size of the batch is among its answers"
    np.testing.assert_allclose(y, 2 * x, rtol=2e-3)
    assert network.run_once({"x": x[:1], "w": np.array([2.0])})[0].dtype == np.float16
    assert network.run_once({"x": x[:1], "w": torch.tensor([2.0])})[0].dtype == torch.float16
    y, _ = network.run({"x": torch.from_numpy(x), "w": torch.tensor([2.0])})
    assert y.dtype == torch.float32
    np.testing.assert_allclose(y.numpy(), 2 * x, rtol=2e-3)


def test_tensors_go_in_chunks_and_rows_for_all_are_repeated():
    network = open_session(swap_double(batch="n"))
    feeds = inputs(5)
    tensors = {"target": torch.from_numpy(feeds["target"]), "source": torch.from_numpy(feeds["source"][:1])}
    seen = []
    answer = network.run(tensors, lambda done, total: seen.append((done, total)), chunk=2)[0]
    np.testing.assert_allclose(answer.numpy(), reference(feeds["target"], np.repeat(feeds["source"][:1], 5, 0)), rtol=1e-5)
    assert seen == [(0, 5), (2, 5), (4, 5), (5, 5)]


def test_an_answer_stays_when_the_network_is_gone():
    """The answer is onnxruntime's own memory, which must live as long as the tensor."""
    network = open_session(swap_double(batch="n"))
    feeds = inputs(2)
    out = network.run_torch({name: torch.from_numpy(array) for name, array in feeds.items()})[0]
    del network
    gc.collect()
    junk = [torch.full_like(out, 7.0) for _ in range(8)]
    np.testing.assert_allclose(out.numpy(), reference(**feeds), rtol=1e-5)
    assert len(junk) == 8


def test_tensors_go_through_without_arrays():
    network = open_session(swap_double(batch="n"))
    feeds = inputs(2)
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    out = network.run_torch({**tensors, "target": tensors["target"].permute(0, 1, 3, 2)})
    np.testing.assert_allclose(out[0].numpy(), reference(feeds["target"].transpose(0, 1, 3, 2), feeds["source"]), rtol=1e-5)
    unknown = open_session(model([node("Mul", "x x", "y")], {"x": ["n", "m"]}, {"y": ["n", "m"]}))
    np.testing.assert_array_equal(unknown.run_torch({"x": torch.full((2, 3), 3.0)})[0].numpy(), np.full((2, 3), 9, np.float32))
    network.providers = ("directml", "cpu")
    np.testing.assert_allclose(network.run_torch({k: v.to("cpu") for k, v in tensors.items()})[0].numpy(), reference(**feeds), rtol=1e-5)


def test_tensors_elsewhere_than_the_session_are_copied():
    network = open_session(swap_double(batch="n"))
    network.providers = ("cuda", "cpu")
    feeds = inputs(2)
    out = network.run_torch({name: torch.from_numpy(array) for name, array in feeds.items()})
    np.testing.assert_allclose(out[0].numpy(), reference(**feeds), rtol=1e-5)


def test_mistakes_are_sentences():
    network = open_session(swap_double(), name="double")
    with pytest.raises(FaceLoomError, match="double has no input face, only target, source"):
        network.run_once({"face": np.zeros((1, 3, 16, 16), np.float32)})
    with pytest.raises(FaceLoomError, match=r"double failed in onnxruntime: .*target"):
        network.run_once({"target": np.zeros((1, 3, 4), np.float32), "source": np.zeros((1, 512), np.float32)})
    assert repr(network) == "OnnxModel(double on cpu)"
    assert [port.name for port in plain_session(swap_double()).get_inputs()] == ["target", "source"]


# Where it runs


ALL = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "DmlExecutionProvider", "CPUExecutionProvider"]


def test_providers_are_tried_best_first():
    assert candidates("auto", ALL) == ["CUDAExecutionProvider", "DmlExecutionProvider", "CPUExecutionProvider"]
    assert candidates("tensorrt", ALL) == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert candidates(("directml", "cuda"), ALL) == ["DmlExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert candidates("cpu", ALL) == candidates("cuda", ["CPUExecutionProvider"]) == ["CPUExecutionProvider"]
    assert candidates("CUDAExecutionProvider", ALL)[0] == "CUDAExecutionProvider"
    with pytest.raises(FaceLoomError, match="no execution provider called gpu; use auto or one of cuda"):
        candidates("gpu", ALL)


@pytest.mark.parametrize(("request_", "there", "used", "tried", "gpu", "words"), [
    ("auto", ALL, "cuda", {}, "cuda", ""),
    ("auto", ["CPUExecutionProvider"], "cpu", {}, "", ""),
    ("cpu", ALL, "cpu", {}, "cuda", ""),
    ("auto", ["CPUExecutionProvider"], "cpu", {}, "cuda", "on cpu because the installed build has no cuda support: `pip uninstall"),
    ("auto", ["CPUExecutionProvider"], "cpu", {}, "rocm", "pip install onnxruntime-migraphx"),
    ("cuda", ["CPUExecutionProvider"], "cpu", {}, "", "pip install onnxruntime-gpu"),
    ("tensorrt", ALL, "cuda", {"tensorrt": "no libnvinfer"}, "cuda", r"on cuda because tensorrt did not load \(no libnvinfer\): inst"),
    ("auto", ALL, "cpu", {"cuda": "no cuDNN", "directml": "x"}, "cuda", r"on cpu because cuda did not load \(no cuDNN\): install the"),
    ("coreml", ["CPUExecutionProvider"], "cpu", {}, "", ""),
])  # fmt: skip
def test_a_slower_provider_than_need_be_is_a_warning_with_its_cure(request_, there, used, tried, gpu, words):
    text = fall_back_warning(request_, there, used, tried, Machine(gpu))
    assert bool(text) == bool(words)
    assert re.search(words, text), text


def test_the_provider_in_use_is_what_really_loaded(monkeypatch, caplog):
    import onnxruntime

    real = onnxruntime.InferenceSession
    asked = []

    def create(source, options, providers):
        asked.append([name for name, _ in providers])
        if providers[0][0] == "CUDAExecutionProvider":
            raise RuntimeError("libcudnn.so.9: cannot open shared object file\nmore")
        return real(source, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ALL)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: asked.append("preloaded"), raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", create)
    with caplog.at_level(logging.WARNING, "faceloom"):
        network = open_session(swap_double(), name="double")
    assert asked == ["preloaded", ["CUDAExecutionProvider", "CPUExecutionProvider"], ["DmlExecutionProvider", "CPUExecutionProvider"],
                     ["CPUExecutionProvider"]]
    assert network.providers == ("cpu",) and "cuda did not load (libcudnn.so.9: cannot open shared object file)" in network.warning
    assert caplog.messages == [f"double: {network.warning}"]


def test_this_machine(monkeypatch):
    for there, hip, gpu in ((False, None, ""), (True, None, "cuda"), (True, "6.4", "rocm")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(torch.version, "hip", hip)
        assert Machine.here() == Machine(gpu)


def test_without_onnxruntime_there_is_one_sentence(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(FaceLoomError, match="`pip install onnxruntime-gpu` for NVIDIA cards, `pip install onnxruntime` for every"):
        open_session(swap_double())
    monkeypatch.undo()
    assert providers.onnxruntime().__name__ == "onnxruntime"


def test_too_big_a_model_is_said_to_be(monkeypatch):
    import onnxruntime

    def full(*_, **__):
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(onnxruntime, "InferenceSession", full)
    with pytest.raises(OnnxMemoryError, match=r"big\.onnx is too big for the memory"):
        open_session(swap_double(), name="big.onnx")


# Chunks


def test_chunks_shrink_until_they_fit():
    sizes, seen = [], []

    def work(items):
        sizes.append(len(items))
        if len(items) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [item * 2 for item in items]

    parts = run_chunks(work, list(range(10)), 16, lambda done, total: seen.append((done, total)))
    assert [item for part in parts for item in part] == [item * 2 for item in range(10)]
    assert sizes == [10, 5, 2, 2, 2, 2, 2] and seen[-1] == (10, 10)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("Failed to allocate memory for requested buffer"), OnnxMemoryError("x")])
def test_one_item_that_does_not_fit_is_an_error(error):
    def work(items):
        raise error

    with pytest.raises(FaceLoomError, match="not enough memory for even one face") as raised:
        run_chunks(work, [1, 2, 3], 4)
    assert raised.value.__cause__ is error and is_out_of_memory(error)


def test_other_errors_pass_through_chunks():
    for error in (RuntimeError("shapes differ"), FaceLoomError("no"), KeyError("k")):
        with pytest.raises(type(error), match=str(error.args[0])):
            run_chunks(lambda items, error=error: (_ for _ in ()).throw(error), [1], 1)
    assert run_chunks(len, [], 4) == [] and run_chunks(len, torch.zeros(5, 2), 2) == [2, 2, 1]


def test_a_session_out_of_memory_halves_its_batch(monkeypatch):
    network = open_session(swap_double(batch="n"))
    real, rows = network.run_once, []

    def tight(feeds):
        rows.append(len(feeds["target"]))
        if rows[-1] > 2:
            raise OnnxMemoryError("double ran out of memory.")
        return real(feeds)

    feeds = inputs(5)
    assert network.batches()
    monkeypatch.setattr(network, "run_once", tight)
    np.testing.assert_allclose(network.run(feeds)[0], reference(**feeds), rtol=1e-5)
    assert rows == [5, 2, 2, 1]


def test_interrupting():
    class Stop(Exception):
        pass

    def stop(done, total):
        if done:
            raise Stop

    with pytest.raises(Stop):
        run_chunks(lambda items: None, [1, 2, 3], 1, stop)
    silent(0, 1)


def test_onnxruntime_s_allocation_errors_are_recognised(monkeypatch):
    network = open_session(swap_double(), name="double")

    class Full:
        def run(self, *_):
            raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : BFCArena::AllocateRawInternal Failed to allocate memory")

    network._session = Full()
    with pytest.raises(OnnxMemoryError, match="double ran out of memory"):
        network.run_once({"target": np.zeros((1, 3, 16, 16)), "source": np.zeros((1, 512))})


# Torch checkpoints


WEIGHTS = {"a.weight": torch.arange(4.0), "a.bias": torch.ones(2, dtype=torch.float16)}


def same(loaded: dict, expected: dict = WEIGHTS) -> bool:
    return list(loaded) == list(expected) and all(torch.equal(loaded[name], expected[name]) for name in expected)


@pytest.mark.parametrize("wrap", [
    lambda w: w, lambda w: {"state_dict": w}, lambda w: {"params": {"a.weight": torch.zeros(1)}, "params_ema": w},
    lambda w: {"module." + name: value for name, value in w.items()}, lambda w: {"state_dict": {"model_state_dict": w}, "epoch": 3},
    lambda w: {**w, "steps": 7}])
def test_wrappers_are_taken_off(tmp_path, wrap):
    path = tmp_path / "net.pth"
    torch.save(wrap(WEIGHTS), path)
    assert same(load_weights(path))
    torch.save(wrap(WEIGHTS), path, _use_new_zipfile_serialization=False)
    assert same(load_weights(path))


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "net.safetensors"
    save_file(WEIGHTS, path)
    assert same(dict(sorted(load_weights(path).items(), reverse=True)))
    renamed = path.rename(tmp_path / "net.pth")
    assert set(load_weights(renamed)) == set(WEIGHTS)
    renamed.write_bytes(renamed.read_bytes()[:20])
    with pytest.raises(FaceLoomError, match="not a whole safetensors file"):
        load_weights(renamed)


def test_parts_of_a_file_with_several_networks(tmp_path):
    path = tmp_path / "ftm_final.pth"
    torch.save({"e": WEIGHTS, "s": {"x": torch.zeros(1)}}, path)
    assert same(load_weights(path, key="e"))
    with pytest.raises(FaceLoomError, match=r"ftm_final\.pth holds no weights at its top level, only the parts e, s\."):
        load_weights(path)
    with pytest.raises(FaceLoomError, match="has no part called z"):
        load_weights(path, key="z")
    torch.save([1, 2], path)
    with pytest.raises(FaceLoomError, match="holds no weights"):
        load_weights(path)


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/faceloom-pwned"),))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_objects_are_refused_unread(tmp_path, zipped):
    path = tmp_path / "arcface_checkpoint.tar"
    for thing in (torch.nn.Linear(2, 2), {"state_dict": WEIGHTS, "hook": Payload()}):
        torch.save(thing, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(FaceLoomError, match=r"holds Python objects.*refused; convert it once.*convert arcface_checkpoint\.tar"):
            load_weights(path)
    assert not Path("/tmp/faceloom-pwned").exists()


def test_files_that_are_no_checkpoint(tmp_path):
    path = tmp_path / "net.pth"
    with pytest.raises(FaceLoomError, match="There is no file"):
        load_weights(path)
    path.write_bytes(b"<html>" + bytes(80))
    with pytest.raises(FaceLoomError, match=r"net\.pth is not a PyTorch checkpoint but a web page"):
        load_weights(path)
    torch.save(WEIGHTS, path)
    whole = path.read_bytes()
    for bad in (whole[: len(whole) // 2], b"", b"nonsense" * 9, whole[:100]):
        path.write_bytes(bad)
        with pytest.raises(FaceLoomError, match="not a whole PyTorch checkpoint"):
            load_weights(path)


def test_others_may_decide_where_a_network_lives():
    class Manager:
        def __init__(self):
            self.calls = []

        def adopt(self, net):
            self.calls.append(net)
            return "handle"

        def ready(self, handle, memory):
            self.calls.append((handle, memory))
            return torch.device("cpu")

    manager, net = Manager(), torch.nn.Linear(2, 2)
    holder = TorchModel("linear", net, manager)
    assert holder.ready(1000) == (net, torch.device("cpu")) and manager.calls == [net, ("handle", 1000)]
    assert not net.training and not net.weight.requires_grad and holder.describe() == "linear on cpu"
    moved = TorchModel("linear", torch.nn.Linear(2, 2), PlainDevices("meta"))
    assert moved.ready()[1] == moved.net.weight.device == torch.device("meta")
