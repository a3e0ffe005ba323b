"""Sessions, batches and tensors."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.files.onnx import read_onnx
from faceloom.models.files.onnx_batch import with_free_batch
from faceloom.models.runtime import onnx as runtime
from faceloom.models.runtime.memory import OnnxMemoryError
from faceloom.models.runtime.onnx import open_session

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import helper, numpy_helper  # noqa: E402
from onnx_bytes import DOUBLE, FLOAT, HALF, INT64, inputs, model, node, reference, swap_double  # noqa: E402


def test_a_batch_of_one_is_freed_and_exact(tmp_path):
    path = tmp_path / "swap.onnx"
    path.write_bytes(swap_double())
    network = open_session(path, kind="swap")
    feeds, seen = inputs(5), []
    answer = network.run(feeds, lambda done, total: seen.append((done, total)), chunk=2)[0]
    np.testing.assert_allclose(answer, reference(**feeds), rtol=1e-5)
    assert network.takes_batches() and seen[-1] == (5, 5) and len(seen) == 4, "chunks of 2, 2 and 1"
    assert network.batch_mode == "reshapes"
    single = network.run({name: array[:1] for name, array in feeds.items()})[0]
    np.testing.assert_allclose(single, answer[:1], rtol=1e-6)


def test_one_identity_serves_all_faces():
    network = open_session(swap_double())
    feeds = inputs(3) | {"source": np.full((1, 512), 0.5, np.float64)}
    np.testing.assert_allclose(network.run(feeds)[0], reference(feeds["target"], np.full((3, 512), 0.5, np.float32)), rtol=1e-5)


def test_how_batches_are_run_is_decided_once_for_each_opened_network(tmp_path, monkeypatch, own_cache, caplog):
    path = tmp_path / "swap.onnx"
    path.write_bytes(swap_double())
    network = open_session(path)
    assert network.batch_mode is None
    with caplog.at_level("INFO"):
        assert network.takes_batches()
    assert "swap.onnx on cpu runs several rows together" in caplog.text
    assert not list((tmp_path / "cache").rglob("*")), "nothing on disk changes how a graph is run"
    tried, exact = [], runtime.OnnxModel._is_exact_in_batch
    monkeypatch.setattr(runtime.OnnxModel, "_is_exact_in_batch", lambda *given: tried.append(given) or exact(*given))
    feeds = inputs(3)
    np.testing.assert_allclose(network.run(feeds)[0], reference(**feeds), rtol=1e-5)
    assert not tried
    assert open_session(path).takes_batches() and tried


def test_a_batch_that_is_free_outside_and_baked_inside_is_freed_too():
    baked = model([node("Reshape", "x shape", "y")], {"x": ["n", 2, 2]}, {"y": ["n", 4]}, [("shape", np.array([1, 4], np.int64))])
    network = open_session(baked)
    x = np.random.default_rng(0).random((3, 2, 2), np.float32)
    np.testing.assert_array_equal(network.run({"x": x})[0], x.reshape(3, 4))
    assert network.takes_batches()


@pytest.mark.parametrize("stored", [True, False])
def test_baked_shapes_are_freed_wherever_they_are_kept(stored):
    """As an initializer or made by a Constant node; weights that are reshaped, which have no batch, stay as they are."""
    tables = {"shape": np.array([1, 2, 2], np.int64), "weights": np.arange(4, dtype=np.float32), "form": np.array([1, 2, 2], np.int64)}
    constants = [] if stored else [node("Constant", "", name, value=numpy_helper.from_array(table)) for name, table in tables.items()]
    steps = [node("Reshape", "x shape", "square"), node("Reshape", "weights form", "matrix"), node("Mul", "square matrix", "y")]
    network = open_session(model([*constants, *steps], {"x": [1, 4]}, {"y": [1, 2, 2]}, tables.items() if stored else ()))
    x = np.random.default_rng(0).random((3, 4), np.float32)
    np.testing.assert_allclose(network.run({"x": x})[0], (x * tables["weights"]).reshape(3, 2, 2), rtol=1e-6)
    assert network.takes_batches()


def test_a_batch_that_is_folded_into_the_channels_is_run_in_a_loop():
    """StyleGAN's trick of one group per row: a graph of one row cannot be freed, and is right all the same."""
    fold = [("fold", np.array([1, 4], np.int64)), ("unfold", np.array([1, 2, 2], np.int64))]
    steps = [node("Reshape", "x unfold", "pair"), node("ReduceSum", "pair", "sum", keepdims=1), node("Mul", "pair sum", "product"),
             node("Reshape", "product fold", "y")]
    network = open_session(model(steps, {"x": [1, 4]}, {"y": [1, 4]}, fold))
    x = np.random.default_rng(0).random((3, 4), np.float32)
    np.testing.assert_allclose(network.run({"x": x})[0], x * x.sum(1, keepdims=True), rtol=1e-6)
    assert not network.takes_batches()


def test_running_out_of_memory_while_trying_is_not_remembered(monkeypatch):
    data = swap_double()
    for where, place in ((runtime, "create_session"), (runtime.OnnxModel, "_is_exact_in_batch")):
        network = open_session(data)
        with monkeypatch.context() as patch:
            patch.setattr(where, place, lambda *_: (_ for _ in ()).throw(OnnxMemoryError("full")))
            assert not network.takes_batches()
    assert open_session(data).takes_batches()


def test_large_networks_are_not_tried_on_the_cpu(monkeypatch):
    monkeypatch.setattr(runtime, "MAX_BYTES_TO_BATCH_ON_CPU", 1000)
    monkeypatch.setattr(runtime.OnnxModel, "_is_exact_in_batch", lambda *_: pytest.fail("tried"))
    network, feeds = open_session(swap_double()), inputs(3)
    np.testing.assert_allclose(network.run(feeds)[0], reference(**feeds), rtol=1e-5)
    assert not network.takes_batches()


def test_rows_that_touch_each_other_are_run_one_by_one(monkeypatch):
    mixing = model([node("ReduceMean", "x", "mean", axes=[0], keepdims=1), node("Sub", "x mean", "y")], {"x": [1, 4]}, {"y": [1, 4]})
    network = open_session(mixing)
    x = np.random.default_rng(0).random((3, 4), np.float32)
    np.testing.assert_array_equal(network.run({"x": x})[0], np.zeros((3, 4), np.float32))
    assert not network.takes_batches() and network.batch_mode == "one by one"
    monkeypatch.setattr(runtime.OnnxModel, "_is_exact_in_batch", lambda *_: pytest.fail("tried again"))
    assert not network.takes_batches()


def test_a_free_batch_is_believed_only_when_it_is_right():
    good = model([node("Mul", "x x", "y")], {"x": ["n", 4]}, {"y": ["n", 4]})
    assert open_session(good).takes_batches()
    lying = model([node("CumSum", "x axis", "y")], {"x": ["n", 4]}, {"y": ["n", 4]}, [("axis", np.array(0, np.int64))])
    network = open_session(lying)
    x = np.random.default_rng(0).random((3, 4), np.float32)
    np.testing.assert_array_equal(network.run({"x": x})[0], x)
    squeezing = model([node("Reshape", "x shape", "y")], {"x": [1, 4]}, {"y": [4]}, [("shape", np.array([4], np.int64))])
    assert not open_session(squeezing).takes_batches()
    folding = model([node("Reshape", "x shape", "y")], {"x": [1, 4]}, {"y": [2, 2]}, [("shape", np.array([2, -1], np.int64))])
    assert not open_session(folding).takes_batches()


def test_reshapes_of_constants_and_shared_shapes_are_left_alone():
    constant = helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([1, -1], np.int64)))
    data = model([constant, node("Reshape", "x shape", "flat"), node("Reshape", "w other", "v"), node("Add", "flat v", "y"),
                  node("Identity", "used", "z"), node("Reshape", "x used", "u")],
                 {"x": [1, 2, 2]}, {"y": [1, 4], "z": ([2], INT64), "u": [1, 4]},
                 [("w", np.arange(4, dtype=np.float32)), ("other", np.array([1, 4], np.int64)), ("used", np.array([1, -1], np.int64))])
    free = onnx.load_from_string(with_free_batch(read_onnx(data), reshapes=True))
    stored = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in free.graph.initializer}
    assert stored["other"] == [1, 4] and stored["used"] == [1, -1]
    assert numpy_helper.to_array(free.graph.node[0].attribute[0].t).tolist() == [0, -1]
    onnx.checker.check_model(free)


def test_inner_shapes_do_not_contradict_the_freed_batch():
    inner = [helper.make_tensor_value_info("h", FLOAT, [1, 4])]
    data = model([node("Mul", "x x", "h"), node("Mul", "h x", "y")], {"x": [1, 4]}, {"y": [1, 4]}, value_info=inner)
    free = onnx.load_from_string(with_free_batch(read_onnx(data)))
    assert not free.graph.value_info and free.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    x = np.random.default_rng(0).random((3, 4), np.float32)
    np.testing.assert_allclose(open_session(data).run({"x": x})[0], x**3, rtol=1e-6)


def test_types_are_cast_both_ways_and_scalars_shared():
    mixed = model([node("Cast", "w", "v", to=HALF), node("Mul", "x v", "y"), node("Size", "x", "n")],
                  {"x": ([1, 4], HALF), "w": ([1], DOUBLE)}, {"y": ([1, 4], HALF), "n": ([], INT64)})
    network = open_session(mixed)
    x = np.random.default_rng(0).random((3, 4)).astype(np.float64)
    y, _ = network.run({"x": x, "w": np.array([2], np.float32)})
    assert y.dtype == np.float32 and not network.takes_batches(), "the size of the batch is among its answers"
    np.testing.assert_allclose(y, 2 * x, rtol=2e-3)
    assert network.run_once({"x": x[:1], "w": np.array([2.0])})[0].dtype == np.float16
    assert network.run_once({"x": x[:1], "w": torch.tensor([2.0])})[0].dtype == torch.float16
    y, _ = network.run({"x": torch.from_numpy(x), "w": torch.tensor([2.0])})
    assert y.dtype == torch.float32
    np.testing.assert_allclose(y.numpy(), 2 * x, rtol=2e-3)


def test_one_number_of_no_dimensions():
    network = open_session(model([node("Mul", "x w", "y")], {"x": ["n", 2], "w": []}, {"y": ["n", 2]}))
    x = np.random.default_rng(0).random((3, 2), np.float32)
    for w in (np.full((), 0.5), torch.tensor(0.5)):
        np.testing.assert_array_equal(network.run({"x": x, "w": w})[0], x / 2)
        np.testing.assert_array_equal(network.run({"x": torch.from_numpy(x), "w": w})[0], x / 2)


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
    out = network.run_once({name: torch.from_numpy(array) for name, array in feeds.items()})[0]
    del network
    gc.collect()
    junk = [torch.full_like(out, 7.0) for _ in range(8)]
    np.testing.assert_allclose(out.numpy(), reference(**feeds), rtol=1e-5)
    assert len(junk) == 8


def test_tensors_go_through_without_arrays():
    network = open_session(swap_double(batch="n"))
    feeds = inputs(2)
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    out = network.run_once({**tensors, "target": tensors["target"].permute(0, 1, 3, 2)})
    np.testing.assert_allclose(out[0].numpy(), reference(feeds["target"].transpose(0, 1, 3, 2), feeds["source"]), rtol=1e-5)
    unknown = open_session(model([node("Mul", "x x", "y")], {"x": ["n", "m"]}, {"y": ["n", "m"]}))
    np.testing.assert_array_equal(unknown.run_once({"x": torch.full((2, 3), 3.0)})[0].numpy(), np.full((2, 3), 9, np.float32))
    network.providers = ("directml", "cpu")
    np.testing.assert_allclose(network.run_once({k: v.to("cpu") for k, v in tensors.items()})[0].numpy(), reference(**feeds), rtol=1e-5)


def test_tensors_elsewhere_than_the_session_are_copied():
    network = open_session(swap_double(batch="n"))
    network.providers = ("cuda", "cpu")
    feeds = inputs(2)
    out = network.run_once({name: torch.from_numpy(array) for name, array in feeds.items()})
    np.testing.assert_allclose(out[0].numpy(), reference(**feeds), rtol=1e-5)


def test_mistakes_are_sentences():
    network = open_session(swap_double(), name="double")
    with pytest.raises(FaceLoomError, match="double has no input face, only target, source"):
        network.run_once({"face": np.zeros((1, 3, 16, 16), np.float32)})
    with pytest.raises(FaceLoomError, match=r"double failed in onnxruntime: .*target"):
        network.run_once({"target": np.zeros((1, 3, 4), np.float32), "source": np.zeros((1, 512), np.float32)})
    assert repr(network) == "OnnxModel(double on cpu)"
