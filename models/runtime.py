"""Running networks: ONNX sessions that say where they really run, batches that fit, torch networks that others may move.

A session belongs to its ``OnnxModel`` and is freed with it; nothing is kept in module globals.
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from .errors import FaceLoomError
from .folders import cache_folder, read_json, write_json
from .onnx_file import OnnxFile, Port, read_onnx
from .progress import Progress, silent
from .providers import OPTIONS, Machine, candidates, fall_back_warning, log, onnxruntime, short_name
from .signature import expect_kind
from .weights import DeviceManager, PlainDevices, TorchModel, load_weights

__all__ = ["DeviceManager", "OnnxModel", "PlainDevices", "TorchModel", "load_weights", "open_session", "run_chunks"]

Result = TypeVar("Result")
Values = np.ndarray | torch.Tensor

# Ways of feeding a batch that need another graph than the file's.
FREED = ("inputs", "reshapes")
# On the CPU, networks of more bytes than this are as fast one by one, and trying a batch would take seconds.
WORTHWHILE = 64 << 20

MEMORY_WORDS = ("out of memory", "failed to allocate", "bad_alloc", "alloc_failed", "bfcarena", "not enough memory")


class OnnxModel:
    """An opened network.

    inputs, outputs: ports as the file declares them. providers: short names in use, the first one computes. warning: what the user should
    know about where it runs, or "". file: the parsed file, for initializers.

    A graph exported for exactly one row is tried with a free first dimension the first time more rows are asked for; if it answers a batch
    as it answers the rows one by one it stays that way, otherwise rows are run in a loop. The finding is remembered on disk.
    """

    def __init__(self, name: str, source: str | bytes, file: OnnxFile, providers: str | Sequence[str], threads: int | None) -> None:
        self.name = name
        self.file = file
        self.inputs = file.inputs
        self.outputs = file.outputs
        self._threads = threads
        self._key = _key(source)
        self._way = read_json(_store()).get(self._key)  # how batches go in: None until it has been tried
        known = file.with_free_batch(self._way == "reshapes") if self._way in FREED else source
        self._session, self.providers, self.warning = _create(name, known, providers, threads)
        log.info("%s", self.describe())
        if self.warning:
            log.warning("%s: %s", name, self.warning)

    def __repr__(self) -> str:
        return f"OnnxModel({self.describe()})"

    def describe(self) -> str:
        """One line for the log and the node: ``inswapper_128.onnx on cuda``."""
        return f"{self.name} on {self.providers[0]}"

    def input(self, name: str) -> Port:
        """The input of this name."""
        port = next((port for port in self.inputs if port.name == name), None)
        if port is None:
            raise FaceLoomError(f"{self.name} has no input {name}, only {', '.join(port.name for port in self.inputs)}.")
        return port

    def run(self, feeds: Mapping[str, Values], progress: Progress = silent, chunk: int = 16) -> list[Values]:
        """All outputs for arrays or tensors ``[N, ...]`` by input name, any N, at most ``chunk`` rows in one call.

        Inputs of fewer than two dimensions, and those with a first dimension of 1, are the same for all rows. Values are cast to the
        declared types; answers in half or double precision come back as float32, as arrays for arrays and as tensors on the device of
        the first tensor where there is one. ``progress`` counts rows.
        """
        count = max(len(values) for values in feeds.values() if values.ndim > 1)

        def rows(values: Values, span: range) -> Values:
            return values if values.ndim < 2 or len(values) == 1 else values[span.start : span.stop]

        def part(span: range) -> list[Values]:
            return self.run_once({name: _repeated(rows(values, span), len(span)) for name, values in feeds.items()})

        parts = run_chunks(part, range(count), chunk if count > 1 and self.batches() else 1, progress)
        return [_plain(same) for same in zip(*parts, strict=True)]

    def run_once(self, feeds: Mapping[str, Values]) -> list[Values]:
        """One call of the session with everything as it is given, types apart. Tensors are answered with tensors, see ``run_torch``."""
        tensors = [values for values in feeds.values() if isinstance(values, torch.Tensor)]
        if tensors:
            return self.run_torch({name: torch.as_tensor(values, device=tensors[0].device) for name, values in feeds.items()})
        arrays = {name: np.ascontiguousarray(array, self.input(name).dtype) for name, array in feeds.items()}
        return _guard(self.name, lambda: self._session.run(None, arrays))

    def run_torch(self, feeds: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Like ``run_once``, on tensors and back to the device of the first; on CUDA (and CPU) without a copy through another memory."""
        device = next(iter(feeds.values())).device
        kind = "cuda" if self.providers[0] in ("cuda", "tensorrt") else "cpu"
        if device.type == kind:
            return self._run_bound(feeds, device)
        arrays = {name: np.ascontiguousarray(tensor.detach().cpu().numpy(), self.input(name).dtype) for name, tensor in feeds.items()}
        return [torch.from_numpy(out).to(device) for out in _guard(self.name, lambda: self._session.run(None, arrays))]

    def batches(self) -> bool:
        """Whether several rows may go through together and come out as if alone. Tried once on random input, and remembered.

        On the CPU a large network gains nothing by it, so there it is not even tried.
        """
        if self._way is None and (self.providers[0] != "cpu" or len(self.file.data) <= WORTHWHILE):
            self._way = self._try_batches()
        return self._way not in (None, "never")

    def _try_batches(self) -> str | None:
        free = all(port.shape and port.shape[0] is None for port in self.inputs if port.shape is None or len(port.shape) > 1)
        found = "never"
        for way in ("as it is" if free else "inputs", "reshapes"):
            try:
                together = self._session if way == "as it is" else self._freed(way)
                exact = together is not None and _exact(together, self._session, self.inputs)
            except OnnxMemoryError:  # it may fit another time
                return None
            if exact:
                self._session, found = together, way
                break
        write_json(_store(), {**read_json(_store()), self._key: found})
        return found

    def _freed(self, way: str):
        """A session of the graph with a free batch dimension; None if that does not open."""
        if self.file.external:  # bytes in memory would not find the weights beside the file
            return None
        try:
            return _create(self.name, self.file.with_free_batch(way == "reshapes"), self.providers[0], self._threads)[0]
        except OnnxMemoryError:
            raise
        except FaceLoomError:
            return None

    def _run_bound(self, feeds: Mapping[str, torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        """Bind the tensors' own memory; onnxruntime makes the outputs on the same device, and torch takes them over where they lie."""
        binding = self._session.io_binding()
        index = device.index or 0
        alive = []
        for name, tensor in feeds.items():
            dtype = self.input(name).dtype or np.dtype(np.float32)
            tensor = tensor.detach().to(device, _torch_type(dtype)).contiguous()
            alive.append(tensor)
            binding.bind_input(name, device.type, index, dtype, tuple(tensor.shape), tensor.data_ptr())
        for port in self.outputs:
            binding.bind_output(port.name, device.type, index)
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
        _guard(self.name, lambda: self._session.run_with_iobinding(binding))
        return [_taken_over(value).to(device) for value in binding.get_outputs()]


def open_session(source: str | os.PathLike | bytes, *, providers: str | Sequence[str] = "auto", kind: str | None = None,
                 name: str | None = None, threads: int | None = None) -> OnnxModel:
    """Open an ONNX file (or its bytes).

    providers: ``auto``, or a name such as ``cuda``, ``tensorrt``, ``directml``, ``coreml``, ``openvino``, ``cpu``, or several in order; the
    CPU is always the last resort, with a warning. kind: refuse a network of another kind (a key of ``catalogue.KINDS``). threads: for the
    CPU, default torch's number (one per physical core).
    """
    onnxruntime()
    file = read_onnx(source)
    label = name or ("model" if isinstance(source, bytes) else Path(source).name)
    if kind:
        expect_kind(label, kind, file.inputs, file.outputs)
    lacking = None if isinstance(source, bytes) else file.lacking(Path(source).parent)
    if lacking:
        raise FaceLoomError(f"{label} keeps its weights in {lacking}, which is not beside it; put both into one folder.")
    return OnnxModel(label, source if isinstance(source, bytes) else str(source), file, providers, threads)


def plain_session(source: str | os.PathLike | bytes, providers: str | Sequence[str] = "auto"):
    """An ``onnxruntime.InferenceSession`` on the provider that really loads, for code that keeps its own; a warning goes to the log."""
    return open_session(source, providers=providers)._session


def run_chunks(fn: Callable[..., Result], items: Sequence, chunk: int, progress: Progress = silent) -> list[Result]:
    """``fn`` on slices of at most ``chunk`` items, in order. Out of memory halves the slice and tries it again, down to one item."""
    results, done = [], 0
    chunk = max(1, chunk)
    while done < len(items):
        progress(done, len(items))
        try:
            results.append(fn(items[done : done + chunk]))
        except (MemoryError, RuntimeError, FaceLoomError) as error:
            if not is_out_of_memory(error):
                raise
            if chunk == 1:
                raise FaceLoomError("There is not enough memory for even one face; unload other models, or use the CPU.") from error
            chunk = max(1, min(chunk, len(items) - done) // 2)
            _release()
            continue
        done = min(done + chunk, len(items))
    progress(len(items), len(items))
    return results


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or onnxruntime ran out of memory (onnxruntime says so only in words)."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError, OnnxMemoryError)):
        return True
    text = str(error).lower()
    return any(words in text for words in MEMORY_WORDS)


def _store() -> Path:
    """What was found about batches: how a graph takes them, by file and library."""
    return cache_folder() / "batches.json"


def _key(source: str | bytes) -> str:
    if isinstance(source, bytes):
        which = hashlib.sha256(source).hexdigest()
    else:
        status = os.stat(source)
        which = f"{Path(source).resolve()} {status.st_size} {status.st_mtime_ns}"
    return f"{which} {onnxruntime().__version__}"


class OnnxMemoryError(FaceLoomError):
    """A network did not fit into memory."""


def _release() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _torch_type(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _taken_over(value) -> torch.Tensor:
    """An ``OrtValue`` as a tensor on the same memory; releases of onnxruntime that cannot share it copy."""
    return torch.from_dlpack(value) if hasattr(value, "__dlpack__") else torch.from_numpy(value.numpy())


def _repeated(values: Values, count: int) -> Values:
    """Values for one row as values for ``count`` rows; others as they are."""
    if values.ndim < 2 or len(values) == count:
        return values
    shape = (count, *values.shape[1:])
    return values.expand(shape) if isinstance(values, torch.Tensor) else np.broadcast_to(values, shape)


def _plain(parts: Sequence[Values]) -> Values:
    """The answers to all chunks as one, in float32 where they are fractions."""
    first = parts[0]
    if isinstance(first, torch.Tensor):
        whole = torch.cat(list(parts)) if first.ndim and len(parts) > 1 else first
        return whole.to(torch.float32) if whole.is_floating_point() else whole
    whole = np.concatenate(parts) if first.ndim and len(parts) > 1 else first
    return whole.astype(np.float32, copy=False) if whole.dtype.kind == "f" else whole


def _guard(name: str, call: Callable[[], Result]) -> Result:
    """onnxruntime's errors as sentences."""
    try:
        return call()
    except Exception as error:
        if is_out_of_memory(error):
            raise OnnxMemoryError(f"{name} ran out of memory.") from error
        raise FaceLoomError(f"{name} failed in onnxruntime: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _create(name: str, source: str | bytes, request: str | Sequence[str], threads: int | None):
    """A session on the first provider that really loads: ``(session, short names in use, warning)``."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # its threads would slow what follows
    there = ort.get_available_providers()
    tried: dict[str, str] = {}  # why each provider before the one in use did not load
    for provider in candidates(request, there):
        if provider == "CUDAExecutionProvider" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        chain = [(full, dict(OPTIONS.get(full, {}))) for full in dict.fromkeys((provider, "CPUExecutionProvider"))]
        try:
            session = ort.InferenceSession(source, options, providers=chain)
        except Exception as error:
            if provider == "CPUExecutionProvider":
                raise _unopened(name, error) from error
            tried[short_name(provider)] = _first_line(error)
            continue
        used = session.get_providers()
        if used[0] == provider:
            break
        tried[short_name(provider)] = "its libraries could not be loaded"
    warning = fall_back_warning(request, there, short_name(used[0]), tried, Machine.here())
    return session, tuple(short_name(provider) for provider in used), warning


def _unopened(name: str, error: Exception) -> FaceLoomError:
    if is_out_of_memory(error):
        return OnnxMemoryError(f"{name} is too big for the memory that is free; close other programs or use a smaller model.")
    return FaceLoomError(f"{name} cannot be opened by onnxruntime: {_first_line(error)}")


def _exact(together, alone, inputs: Sequence[Port]) -> bool:
    """Whether two random items through ``together`` come out as they do through ``alone``, one after the other."""
    random = np.random.default_rng(0)
    pair = {port.name: _random_input(port, random) for port in inputs}
    halves = [{name: array[i : i + 1] if array.ndim > 1 else array for name, array in pair.items()} for i in (0, 1)]
    quiet = onnxruntime().RunOptions()
    quiet.log_severity_level = 4
    try:
        both = together.run(None, pair, quiet)
    except Exception as error:  # onnxruntime has no narrower class for a graph that cannot take the shape
        if is_out_of_memory(error):
            raise OnnxMemoryError("The model ran out of memory.") from error
        return False
    singles = [alone.run(None, half) for half in halves]
    for index, batched in enumerate(both):
        wanted = np.concatenate([single[index] for single in singles]) if singles[0][index].ndim else singles[0][index]
        if batched.shape != wanted.shape:
            return False
        tolerance = 2e-2 if batched.dtype == np.float16 else 1e-4
        scale = float(np.abs(wanted.astype(np.float64)).max(initial=1e-3))
        if not np.abs(batched.astype(np.float64) - wanted.astype(np.float64)).max(initial=0) <= tolerance * scale:
            return False
    return True


def _random_input(port: Port, random: np.random.Generator) -> np.ndarray:
    """Two items for a port of two or more dimensions; free sizes become 64."""
    shape = tuple(size if isinstance(size, int) else 64 for size in (port.shape or ()))
    if len(shape) > 1:
        shape = (2, *shape[1:])
    dtype = port.dtype or np.dtype(np.float32)
    return random.uniform(0, 1 if dtype.kind == "f" else 256, shape).astype(dtype)
