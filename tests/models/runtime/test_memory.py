"""Running out of memory, and chunks that fit."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.progress import silent
from faceloom.models.runtime.memory import OnnxMemoryError, is_out_of_memory, run_chunks
from faceloom.models.runtime.onnx import open_session

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx_bytes import inputs, reference, swap_double  # noqa: E402


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


def test_room_is_made_when_what_failed_is_gone():
    made, left = [], []

    def work(items):
        big = torch.zeros(4)
        made.append(weakref.ref(big))
        if len(made) < 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(items)

    assert run_chunks(work, [1, 2, 3, 4], 4, make_room=lambda: left.append([ref() for ref in made])) == [1] * 4
    assert left == [[None], [None, None]], "the exception no longer holds what the call had made"


@pytest.mark.parametrize("words", [
    "CUDA failure 2: out of memory ; GPU=0", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "[TensorRT] Error Code 2: OutOfMemory (no further information)", "cudaErrorMemoryAllocation", "8007000E Not enough memory resources",
    "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9", "std::bad_alloc"])
def test_words_of_every_library_for_a_full_memory(words):
    assert is_out_of_memory(RuntimeError(words)) and not is_out_of_memory(RuntimeError("CUDA failure 700: an illegal memory access"))


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


def test_a_session_out_of_memory_halves_its_batch():
    network = open_session(swap_double(batch="n"))
    real, rows = network._session, []

    class Tight:
        def run(self, names, feeds, options):
            rows.append(len(feeds["target"]))
            if rows[-1] > 2:
                raise RuntimeError("bad_alloc")
            return real.run(names, feeds, options)

    feeds = inputs(5)
    assert network.takes_batches()
    network._session = Tight()
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


def test_onnxruntime_s_allocation_errors_are_recognized(monkeypatch):
    network = open_session(swap_double(), name="double")

    class Full:
        def run(self, *_):
            raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : BFCArena::AllocateRawInternal Failed to allocate memory")

    network._session = Full()
    with pytest.raises(OnnxMemoryError, match="double ran out of memory"):
        network.run_once({"target": np.zeros((1, 3, 16, 16)), "source": np.zeros((1, 512))})
