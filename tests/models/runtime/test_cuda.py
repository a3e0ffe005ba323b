"""Networks on a graphics card: what is bound, when, on which card, what stays, and who makes room.

There is no card here. ``card.py`` stands in for torch's and onnxruntime's side of one and checks what theirs would demand.
"""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.runtime import memory
from faceloom.models.runtime import onnx as runtime
from faceloom.models.runtime.onnx import open_session

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from card import CPU, CUDA, TRT, OldestValue, OldValue, Rig, Session, gives_back
from onnx_bytes import DOUBLE, HALF, INT64, inputs, model, node, reference, swap_double

MIXED = model([node("Cast", "w", "v", to=HALF), node("Mul", "x v", "y"), node("Size", "x", "n"), node("Add", "n k", "m")],
              {"x": (["n", 4], HALF), "w": ([1], DOUBLE), "k": ([], INT64)}, {"y": (["n", 4], HALF), "m": ([], INT64)})


@pytest.fixture
def rig(monkeypatch):
    rig = Rig(monkeypatch)
    with rig.torch:
        yield rig


@pytest.fixture
def asked(monkeypatch):
    """What was asked of whoever shares the card, in bytes."""
    sizes = []
    monkeypatch.setattr(memory, "_memory_freer", sizes.append)
    return sizes


def tensors(count: int, device: str = "cuda:0") -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array).to(device) for name, array in inputs(count).items()}


def lies(tensor: torch.Tensor) -> np.ndarray:
    """What really lies in a card's memory now, whoever has waited for whom."""
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(torch.Tensor).clone().numpy()


@pytest.mark.parametrize("host_inputs", [(), ("w", "k")])
def test_what_is_bound_is_finished_contiguous_and_of_the_declared_type(rig, monkeypatch, host_inputs):
    monkeypatch.setattr(Session, "host_inputs", host_inputs)
    network = open_session(MIXED)
    assert network.providers == ("cuda", "cpu")
    x = np.random.default_rng(0).random((4, 3), np.float32)
    feeds = {"x": torch.from_numpy(x).to("cuda:0").permute(1, 0), "w": np.array([2.0]), "k": torch.tensor(5).to("cuda:0")}
    y, m = network.run_once(feeds)
    assert (y.device, y.dtype, m.dtype) == (torch.device("cuda:0"), torch.float16, torch.int64)
    np.testing.assert_allclose(lies(y), 2 * x.T, rtol=2e-3)
    assert int(lies(m)) == 17


def test_all_rows_in_chunks_and_one_row_for_all(rig):
    network = open_session(swap_double(batch="n"))
    feeds = tensors(5)
    feeds["source"] = feeds["source"][:1]
    answer = network.run(feeds, chunk=2)[0]
    rig.torch.synchronize(0)
    wanted = inputs(5)
    np.testing.assert_allclose(lies(answer), reference(wanted["target"], np.repeat(wanted["source"][:1], 5, 0)), rtol=1e-5)
    assert network._session.rows[-3:] == [2, 2, 1] and answer.device == torch.device("cuda:0")


@pytest.mark.parametrize("wrap", [lambda value: value, OldValue, OldestValue])
def test_an_answer_is_not_the_next_run_s(rig, monkeypatch, wrap):
    monkeypatch.setattr(Session, "wrap", staticmethod(wrap))
    network = open_session(swap_double(batch="n"))
    answers = [network.run(tensors(count))[0] for count in (2, 2, 3)]
    session = weakref.ref(network._session)
    del network
    gc.collect()
    assert session() is None
    for answer, count in zip(answers, (2, 2, 3), strict=True):
        assert answer.device == torch.device("cuda:0")
        np.testing.assert_allclose(lies(answer), reference(**inputs(count)), rtol=1e-5)


def test_the_session_is_on_torch_s_card_and_leaves_it_current(rig):
    first = open_session(swap_double(batch="n"))
    rig.current = 1
    second = open_session(swap_double(batch="n"))
    assert (first._session.index, second._session.index, rig.current) == (0, 1, 1)
    feeds = tensors(2, "cuda:1")
    for network in (first, second):  # the first's tensors come from the other card, and the answers go back there
        answer = network.run(feeds)[0]
        assert answer.device == torch.device("cuda:1") and rig.current == 1
        rig.torch.synchronize(1)
        np.testing.assert_allclose(lies(answer), reference(**inputs(2)), rtol=1e-5)
    assert first.run(inputs(2))[0].dtype == np.float32 and rig.current == 1


def test_tensors_in_main_memory_and_arrays_come_back_there(rig):
    network = open_session(swap_double(batch="n"))
    feeds = inputs(3)
    np.testing.assert_allclose(network.run(feeds)[0], reference(**feeds), rtol=1e-5)
    answer = network.run({name: torch.from_numpy(array) for name, array in feeds.items()})[0]
    assert answer.device == torch.device("cpu") and type(answer) is torch.Tensor
    np.testing.assert_allclose(answer.numpy(), reference(**feeds), rtol=1e-5)


def test_tensors_on_a_card_for_a_session_on_the_cpu(rig):
    network = open_session(swap_double(batch="n"), providers="cpu")
    answer = network.run(tensors(2))[0]
    assert answer.device == torch.device("cuda:0")
    rig.torch.synchronize(0)
    np.testing.assert_allclose(lies(answer), reference(**inputs(2)), rtol=1e-5)


@pytest.mark.parametrize("provider", ["cpu", "auto"])
def test_no_rows(rig, provider):
    network = open_session(swap_double(), providers=provider)
    feeds = inputs(2) | {"target": np.zeros((0, 3, 16, 16), np.float32)}
    assert network.run(feeds | {"source": feeds["source"][:1]})[0].shape == (0, 3, 16, 16)
    empty = tensors(2)
    answer = network.run({"target": empty["target"][:0], "source": empty["source"][:0]})[0]
    assert answer.shape == (0, 3, 16, 16) and answer.device == torch.device("cuda:0")


# Room


def test_room_is_asked_for_before_a_session_and_before_it_works(rig, asked):
    network = open_session(swap_double(256, batch="n"))
    weights = 512 * 512 * 4 + 4 * 8
    assert asked == [weights + (256 << 20)]
    each = 2200 * 256 * 256
    network.run(inputs(1, 256))
    network.run(inputs(1, 256))
    assert asked[1:] == [each], "what it has it need not ask for again"
    network.run(inputs(3, 256))
    assert asked[2:] == [2 * each]
    open_session(swap_double(), providers="cpu").run(inputs(2))
    assert len(asked) == 3


def test_what_much_work_took_goes_back(rig, asked):
    network = open_session(swap_double(256, batch="n"))
    assert network.takes_batches()
    session = network._session
    session.log.clear()
    network.run(inputs(5, 256), chunk=3)
    assert [gives_back(options) for options in session.log] == [None, "gpu:0"], "the last chunk alone"
    network.run(inputs(5, 256), chunk=3)
    assert asked[-2:] == [3 * 2200 * 256 * 256] * 2, "so it is asked for again"
    network.run(inputs(1, 256))
    assert session.log[-1] is None, "a little is kept"


def test_an_onnxruntime_that_cannot_give_back_still_runs(rig):
    rig.arena = False
    network = open_session(swap_double(256, batch="n"))
    for _ in range(2):
        np.testing.assert_allclose(network.run(inputs(2, 256))[0], reference(**inputs(2, 256)), rtol=1e-5)
    assert [gives_back(options) for options in network._session.log[-3:]] == ["gpu:0", None, None], "it is asked once"


def test_chunks_on_a_card_are_what_works_in_two_gigabytes(rig):
    network = open_session(swap_double(1024, batch="n"))
    assert network.takes_batches()
    session = network._session
    session.rows.clear()
    network.run({"target": np.zeros((3, 3, 1024, 1024), np.float32), "source": np.zeros((3, 512), np.float32)})
    assert session.rows == [1, 1, 1]


def test_out_of_memory_makes_room_and_takes_fewer_rows(rig, asked):
    network = open_session(swap_double(batch="n"))
    assert network.takes_batches()
    session = network._session
    session.rows.clear()
    rig.limit = 2
    answer = network.run(tensors(5))[0]
    rig.torch.synchronize(0)
    np.testing.assert_allclose(lies(answer), reference(**inputs(5)), rtol=1e-5)
    assert session.rows == [5, 2, 2, 1] and asked.count(None) == 1
    rig.limit = 0
    session.rows.clear()
    with pytest.raises(FaceLoomError, match="not enough memory for even one face"):
        network.run(tensors(1))
    assert session.rows == [1, 1] and asked.count(None) == 2, "one row is tried again with all the room there is"


def test_torch_out_of_memory_on_the_way_in_takes_fewer_rows_too(rig, asked, monkeypatch):
    network = open_session(swap_double(batch="n"))
    feeds, real = tensors(4), runtime._to_tensor

    def tight(values):
        if len(values) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(values)

    monkeypatch.setattr(runtime, "_to_tensor", tight)
    answer = network.run(feeds)[0]
    rig.torch.synchronize(0)
    np.testing.assert_allclose(lies(answer), reference(**inputs(4)), rtol=1e-5)
    assert asked.count(None) == 1


# Opening


def test_a_full_card_is_tried_again_with_room(rig, asked):
    rig.opening[CUDA] = [RuntimeError("CUDA failure 2: out of memory ; GPU=0")]
    network = open_session(swap_double())
    assert network.providers[0] == "cuda" and not network.warning and None in asked
    rig.opening[CUDA] = [RuntimeError("Failed to allocate memory for requested buffer of size 9")] * 2
    network = open_session(swap_double())
    assert network.providers == ("cpu",)
    assert "cuda did not load (Failed to allocate" in network.warning and "close other programs" in network.warning
    assert "cuDNN" not in network.warning


def test_a_batch_that_finds_no_room_leaves_the_session_where_it_is(rig):
    data = swap_double()
    network = open_session(data)
    rig.opening[CUDA] = [RuntimeError("CUDA failure 2: out of memory")] * 4
    answer = network.run(tensors(3))[0]
    rig.torch.synchronize(0)
    np.testing.assert_allclose(lies(answer), reference(**inputs(3)), rtol=1e-5)
    assert network._session.rows == [1, 1, 1] and network._session.get_providers()[0] == CUDA
    rig.opening.clear()
    assert open_session(data).takes_batches(), "it may fit another time"
    refused = open_session(swap_double(32))
    rig.opening[CUDA] = [RuntimeError("this provider takes no free dimensions")] * 2
    assert not refused.takes_batches()


def test_tensorrt_has_cuda_behind_it_and_a_folder_for_each_file(monkeypatch, tmp_path, own_cache):
    rig = Rig(monkeypatch, (TRT, CUDA, CPU))
    rig.current = 1
    paths = [tmp_path / "model.onnx", tmp_path / "other" / "model.onnx"]
    paths[1].parent.mkdir()
    folders = set()
    for path in paths:
        path.write_bytes(swap_double())
        network = open_session(path, providers="tensorrt")
        assert rig.calls[-1] == [TRT, CUDA, CPU] and network.providers[0] == "tensorrt"
        options = network._session.get_provider_options()[TRT]
        assert (options["device_id"], options["trt_fp16_enable"]) == ("1", "0")
        assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"]
        folders.add(options["trt_engine_cache_path"])
        assert network._session.get_provider_options()[CUDA]["arena_extend_strategy"] == "kSameAsRequested"
    assert len(folders) == 2 and all(Path(folder).is_dir() and tmp_path / "cache" in Path(folder).parents for folder in folders)


def test_tensorrt_sees_one_shape(monkeypatch, own_cache):
    data = swap_double()
    assert open_session(data, providers="cpu").takes_batches(), "and another session of the file does not matter"
    Rig(monkeypatch, (TRT, CUDA, CPU))
    network = open_session(data, providers="tensorrt")
    np.testing.assert_allclose(network.run(inputs(3))[0], reference(**inputs(3)), rtol=1e-5)
    assert network._session.rows == [1, 1, 1] and not network.takes_batches()
    assert network._session.source == data, "as its authors exported it"


def test_tensorrt_that_is_not_there_leaves_cuda_with_whole_batches(monkeypatch, own_cache):
    rig = Rig(monkeypatch, (TRT, CUDA, CPU))
    rig.missing = {TRT}
    network = open_session(swap_double(), providers="tensorrt")
    assert network.providers[0] == "cuda" and "on cuda because tensorrt did not load" in network.warning
    network.run(inputs(3))
    assert network._session.rows[-1] == 3


def test_batches_on_a_card_may_differ_as_its_arithmetic_does(rig, monkeypatch):
    """Convolutions in TF32 are right to three digits, and by other algorithms for other numbers of rows."""
    real = Session.run

    def rounded(self, names, feeds, options=None):
        answers = real(self, names, feeds, options)
        rows = len(feeds["target"])
        return [answer * np.float32(1 + 1e-3 * rows) for answer in answers]

    monkeypatch.setattr(Session, "run", rounded)
    assert open_session(swap_double()).takes_batches()
    assert open_session(swap_double(batch="n"), name="free").takes_batches()


def test_what_fails_on_a_provider_says_where(rig):
    network = open_session(swap_double(), name="double")
    with pytest.raises(FaceLoomError, match=r"double failed in onnxruntime on cuda: .*target.*; choose another provider"):
        network.run_once({"target": np.zeros((1, 3, 4), np.float32), "source": np.zeros((1, 512), np.float32)})


def test_bytes_are_not_kept_and_a_session_goes_without_the_collector(rig):
    network = open_session(swap_double(), providers="cpu")
    assert network.takes_batches() and network._session._model_bytes is None
    network.run(inputs(2))
    session = weakref.ref(network._session)
    gc.disable()
    try:
        del network
        assert session() is None
    finally:
        gc.enable()
