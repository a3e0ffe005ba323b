"""A graphics card that is none: CUDA tensors in ordinary memory, and an onnxruntime that runs "on" them.

Torch's work is queued: memory that an operation has just made holds garbage until torch's stream has been waited for. onnxruntime reads
memory by its address when an input is bound and again when the graph runs; where it lays its answers is used again by the next run once
nobody holds them, and every binding is checked against what the real library demands.
"""

from __future__ import annotations

import ctypes
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import onnxruntime
import torch
from torch.overrides import TorchFunctionMode

CUDA, TRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"


class CardTensor(torch.Tensor):
    """A tensor that says it lies on a card."""

    @property
    def device(self):
        return torch.device("cuda", self.card_index)

    def numpy(self, **_):
        raise TypeError("can't convert cuda device type tensor to numpy")

    def __array__(self, *_):
        raise TypeError("can't convert cuda device type tensor to numpy")


def on_card(values: torch.Tensor, index: int = 0) -> CardTensor:
    tensor = values.as_subclass(CardTensor)
    tensor.card_index = index
    return tensor


class Torch(TorchFunctionMode):
    """Torch with cards, whose stream runs behind."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.waits: list[int] = []

    def synchronize(self, index: int) -> None:
        """What was queued is done."""
        self.waits.append(index)
        self._finish()
        self.queue.clear()

    def _finish(self) -> None:
        for memory, values in self.queue:
            memory.copy_(values)

    def _hide(self) -> None:
        for memory, _ in self.queue:
            memory.fill_(-1 if not memory.is_floating_point() else float("nan"))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        cards = [value for value in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(value, CardTensor)]
        name = getattr(func, "__name__", "")
        asked = kwargs.get("device", next((value for value in args[1:] if isinstance(value, torch.device | str)), None))
        target = torch.device(asked) if asked is not None else None
        if (not cards and not (target is not None and target.type == "cuda")) or name in ("__get__", "data_ptr", "__len__", "__set__"):
            return func(*args, **kwargs)
        if len({tensor.card_index for tensor in cards}) > 1:
            raise RuntimeError("Expected all tensors to be on the same device, but found at least two devices")
        with torch._C.DisableTorchFunctionSubclass():
            self._finish()
            plain = torch.utils._pytree.tree_map(self._plain, (args, kwargs))
            made = func(*plain[0], **plain[1])
            if name == "cpu" or (target is not None and target.type == "cpu"):
                made = made.clone()
                self._hide()
                return made
            index = target.index or 0 if target is not None else cards[0].card_index
            if not isinstance(made, torch.Tensor):
                self._hide()
                return made
            shared = {tensor.as_subclass(torch.Tensor).untyped_storage().data_ptr() for tensor in cards if tensor.card_index == index}
            if made.untyped_storage().data_ptr() not in shared:
                made = made.clone()
                self.queue.append((made, made.clone()))
            self._hide()
        return on_card(made, index)

    @staticmethod
    def _plain(value):
        if isinstance(value, CardTensor):
            return value.as_subclass(torch.Tensor)
        return torch.device("cpu") if isinstance(value, torch.device | str) and str(value).startswith("cuda") else value


class Value:
    """An ``OrtValue`` on a card. Its memory is garbage as soon as nobody holds it."""

    def __init__(self, array: np.ndarray, index: int, session: Session) -> None:
        self.memory, self.index = torch.from_numpy(np.array(array, order="C")), index
        self._freed = weakref.finalize(self, session.free, self.memory)

    def numpy(self):
        raise AssertionError("the answer went through another memory")

    def __dlpack__(self, *, stream=None):
        return SimpleNamespace(value=self)

    def __dlpack_device__(self):
        return (2, self.index)


class OldValue:
    """The wrapper of older releases: what it wraps can be shared, it cannot."""

    def __init__(self, value: Value) -> None:
        self._ortvalue = value


class OldestValue:
    """That of still older ones."""

    def __init__(self, value: Value) -> None:
        self._value = value

    def numpy(self):
        return self._value.memory.numpy().copy()


class Binding:
    def __init__(self, session: Session) -> None:
        self.session, self.inputs, self.outputs, self.values = session, {}, [], []

    def bind_input(self, name, device_type, device_id, element_type, shape, buffer_ptr):
        port = next(port for port in self.session.real.get_inputs() if port.name == name)
        kind = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(int64)": np.int64}
        assert device_type == "cuda" and device_id == self.session.index, f"{name} lies on {device_type}:{device_id}"
        assert np.dtype(element_type) == kind[port.type] and isinstance(shape, tuple)
        self.inputs[name] = (np.dtype(element_type), shape, buffer_ptr)
        if port.name in self.session.host_inputs:  # IOBinding::BindInput copies what a node on the CPU will read at once
            self.session.copied[name] = self._read(name)

    def bind_output(self, name, device_type="cpu", device_id=0):
        assert device_type == "cuda" and device_id == self.session.index, "No requested allocator available"
        self.outputs.append(name)

    def _read(self, name: str) -> np.ndarray:
        dtype, shape, pointer = self.inputs[name]
        size = int(np.prod(shape)) * dtype.itemsize
        return np.frombuffer(ctypes.string_at(pointer, size) if size else b"", dtype).reshape(shape)

    def synchronize_inputs(self):
        self.session.log.append("inputs synchronised")

    def synchronize_outputs(self):
        self.session.log.append("outputs synchronised")

    def get_outputs(self):
        assert self.session.log[-1] == "outputs synchronised"
        return [self.session.wrap(value) for value in self.values]


class Session:
    """``InferenceSession`` on a card: the real one computes, on the CPU."""

    wrap = staticmethod(lambda value: value)
    host_inputs: tuple[str, ...] = ()

    def __init__(self, rig: Rig, source, options, providers) -> None:
        self.rig, self.source, self.providers, self.options = rig, source, providers, options
        self.real = rig.real(source, providers=[CPU])
        self.index = int(dict(providers)[providers[0][0]]["device_id"])
        self.log, self.copied, self.free_memory, self.rows = [], {}, [], []
        rig.current = self.index  # onnxruntime makes its own card the current one

    def get_providers(self):
        return [name for name, _ in self.providers]

    def get_provider_options(self):
        return dict(self.providers)

    def get_inputs(self):
        return self.real.get_inputs()

    def io_binding(self):
        return Binding(self)

    def free(self, memory: torch.Tensor) -> None:
        """The arena may give this memory to the next run."""
        memory.fill_(-7)

    def run(self, names, feeds, options=None):
        self.rig.current = self.index
        self.rig.before_run(self, feeds, options)
        return self.real.run(names, feeds)

    def run_with_iobinding(self, binding, options=None):
        self.rig.current = self.index
        feeds = {name: binding._read(name) for name in binding.inputs} | self.copied
        self.rig.before_run(self, feeds, options)
        answers = self.real.run(binding.outputs, feeds)
        binding.values = [Value(answer, self.index, self) for answer in answers]


def gives_back(options) -> str | None:
    """Which card's memory a run with these options gives back."""
    try:
        return options and options.get_run_config_entry("memory.enable_memory_arena_shrinkage")
    except RuntimeError:  # there is no such entry
        return None


class Rig:
    """A machine with graphics cards, for ``monkeypatch``.

    opening: by provider, what opening a session there raises, one after the other. limit: rows that fit into one call. there: what this
    onnxruntime was built for.
    """

    def __init__(self, monkeypatch, there=(CUDA, CPU), count: int = 2) -> None:
        self.real = onnxruntime.InferenceSession
        self.opening: dict[str, list[Exception]] = {}
        self.missing: set[str] = set()
        self.arena, self.limit, self.current, self.calls, self.sessions = True, None, 0, [], weakref.WeakSet()
        self.torch = Torch()
        monkeypatch.setattr(onnxruntime, "InferenceSession", self.open)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(there))
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: self.current)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: SimpleNamespace(
            synchronize=lambda: self.torch.synchronize(torch.device(device).index)))
        monkeypatch.setattr(torch.cuda, "device", self.device)
        monkeypatch.setattr(torch, "from_dlpack", self.from_dlpack)

    @contextmanager
    def device(self, device):
        before, self.current = self.current, torch.device(device).index
        try:
            yield
        finally:
            self.current = before

    def from_dlpack(self, value):
        if not isinstance(value, Value):
            return torch.utils.dlpack.from_dlpack(value)
        shared = on_card(value.memory, value.index)
        shared.owner = value.__dlpack__().value
        return shared

    def open(self, source, options, providers, **more):
        assert more == {"enable_fallback": 0}, "the library itself would quietly go on on the CPU"
        name = providers[0][0]
        self.calls.append([provider for provider, _ in providers])
        if self.opening.get(name):
            raise self.opening[name].pop(0)
        if name in self.missing or name == CPU:
            return self.real(source, options, providers=[CPU])
        session = Session(self, source, options, providers)
        self.sessions.add(session)
        return session

    def before_run(self, session: Session, feeds, options) -> None:
        rows = max(len(values) for values in feeds.values() if values.ndim)
        session.rows.append(rows)
        session.log.append(options)
        if not self.arena and gives_back(options):
            raise RuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Did not find an arena based allocator registered for device-id "
                               "combination in the memory arena shrink list: gpu:0")
        if self.limit is not None and rows > self.limit:
            raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : CUDA failure 2: out of memory")
