"""Where sessions run, and what users are told about it."""

from __future__ import annotations

import builtins
import logging
import re

import pytest
import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.runtime import providers
from faceloom.models.runtime.memory import OnnxMemoryError
from faceloom.models.runtime.onnx import open_session
from faceloom.models.runtime.providers import Machine, fall_back_warning, providers_to_try

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx_bytes import swap_double  # noqa: E402

ALL = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "DmlExecutionProvider", "CPUExecutionProvider"]


def test_providers_are_tried_best_first():
    assert providers_to_try("auto", ALL) == ["CUDAExecutionProvider", "DmlExecutionProvider", "CPUExecutionProvider"]
    assert providers_to_try("tensorrt", ALL) == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert providers_to_try(("directml", "cuda"), ALL) == ["DmlExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert providers_to_try("cpu", ALL) == providers_to_try("cuda", ["CPUExecutionProvider"]) == ["CPUExecutionProvider"]
    assert providers_to_try("CUDAExecutionProvider", ALL)[0] == "CUDAExecutionProvider"
    with pytest.raises(FaceLoomError, match="no execution provider called gpu; use auto or one of cuda"):
        providers_to_try("gpu", ALL)


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

    def create(source, options, providers, enable_fallback):
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
