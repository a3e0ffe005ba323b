"""Runs ONNX networks on arrays and tensors, in batches that fit into memory.

A session belongs to its ``OnnxModel`` and is freed with it; nothing is kept in module globals.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch

from ..errors import FaceLoomError
from ..files.kinds import check_graph_kind
from ..files.onnx import OnnxFile, Port, read_onnx
from ..files.onnx_batch import with_free_batch
from ..files.onnx_external import check_external_files
from ..progress import Progress, silent
from .memory import OnnxMemoryError, is_out_of_memory, mentions_memory, release_cached_memory, request_card_memory, run_chunks
from .providers import CARD_PROVIDERS, log, onnxruntime
from .session import card_of, create_session, first_line

Result = TypeVar("Result")
Values = np.ndarray | torch.Tensor

# The batch modes (``OnnxModel.batch_mode``), and how the log names them.
ONE_BY_ONE = "one by one"
BATCH_MODES = {"as it is": "together", "inputs": "together, with the first dimension of its inputs freed",
               "reshapes": "together, with the first dimension of its inputs and of its reshapes freed", ONE_BY_ONE: "one by one"}
# On the CPU, networks of more bytes than this are as fast one by one, and trying a batch would take seconds.
MAX_BYTES_TO_BATCH_ON_CPU = 64 << 20

# Bytes that a face network works in per pixel of its largest image (GFPGAN at 512 works in 542 MB).
BYTES_PER_PIXEL = 2200
# On a graphics card a chunk has as many rows as work in so many bytes.
MAX_WORKING_BYTES = 2 << 30
# What a session on a graphics card works in beyond this is given back after the last chunk.
ARENA_BYTES_TO_KEEP = 256 << 20


class OnnxModel:
    """An opened ONNX network.

    inputs, outputs: ports as the file states them. providers: short names in use; the first one computes. warning: what the user should
    know about where it runs, or "". file: the parsed file, for its initializers.

    batch_mode: how more than one row is run: ``"as it is"`` (the file's own graph takes batches), ``"inputs"`` or ``"reshapes"`` (the graph
    with its first dimension freed takes them), ``"one by one"``, or None until it is decided. It is decided the first time more rows than
    one are run, by comparing a batch with the same rows run one by one, and holds for this opened network only.
    """

    def __init__(self, name: str, source: str | bytes, file: OnnxFile, providers: str | Sequence[str], threads: int | None) -> None:
        self.name = name
        self.file = file
        self.inputs = file.inputs
        self.outputs = file.outputs
        self._threads = threads
        self._key = _key_of(source)
        self.batch_mode: str | None = None
        self._working_bytes = 0  # that the session has on its card besides the weights
        self._session: Any  # onnxruntime's ``InferenceSession``; the package is optional
        self._session, self.providers, self.warning = create_session(name, source, file, providers, threads, self._key)
        self._card = card_of(self._session)
        self._can_shrink_arena = self._card is not None and self.providers[0] == "cuda"
        log.info("%s", self.describe())
        if self.warning:
            log.warning("%s: %s", name, self.warning)

    def __repr__(self) -> str:
        return f"OnnxModel({self.describe()})"

    def describe(self) -> str:
        """Return one line for the log and the node: ``inswapper_128.onnx on cuda``."""
        return f"{self.name} on {self.providers[0]}"

    def input(self, name: str) -> Port:
        """Return the input of this name; FaceLoomError if there is none."""
        port = next((port for port in self.inputs if port.name == name), None)
        if port is None:
            raise FaceLoomError(f"{self.name} has no input {name}, only {', '.join(port.name for port in self.inputs)}.")
        return port

    @overload
    def run(self, feeds: Mapping[str, np.ndarray], progress: Progress = silent, chunk: int = 16) -> list[np.ndarray]: ...
    @overload
    def run(self, feeds: Mapping[str, torch.Tensor], progress: Progress = silent, chunk: int = 16) -> list[torch.Tensor]: ...
    @overload
    def run(self, feeds: Mapping[str, Values], progress: Progress = silent, chunk: int = 16) -> Sequence[Values]: ...

    def run(self, feeds: Mapping[str, Values], progress: Progress = silent, chunk: int = 16) -> Sequence[Values]:
        """Compute all outputs for arrays or tensors ``[N, ...]`` by input name, any N.

        At most ``chunk`` rows are run in one call, on a graphics card no more than work in ``MAX_WORKING_BYTES``. Inputs of fewer than two
        dimensions, and those with a first dimension of 1, are the same for all rows. Values are cast to the types that the graph states.
        Outputs in half or double precision are returned as float32; all are arrays, or tensors on the device of the first tensor where
        there is one. ``progress`` counts rows. FaceLoomError where the network fails or one row does not fit into memory.
        """
        counts = [len(values) for values in feeds.values() if values.ndim > 1]
        if 0 in counts:  # running one row is the only way to know the shapes of the outputs
            one_row = {name: _one_row(values) for name, values in feeds.items()}
            return [output[:0] for output in self.run(one_row)]
        count = max(counts, default=1)
        shapes = [*(values.shape for values in feeds.values()), *self._output_shapes()]
        bytes_per_row = BYTES_PER_PIXEL * max(_pixels_per_row(shape) for shape in shapes)
        chunk = chunk if count > 1 and self.takes_batches() else 1
        if self.providers[0] in CARD_PROVIDERS:
            chunk = max(1, min(chunk, count, MAX_WORKING_BYTES // bytes_per_row))

        def rows_of(values: Values, span: range) -> Values:
            return values if values.ndim < 2 or len(values) == 1 else values[span.start : span.stop]

        def run_span(span: range) -> Sequence[Values]:
            chunk_feeds = {name: _repeat_row(rows_of(values, span), len(span)) for name, values in feeds.items()}
            return self._run_chunk(chunk_feeds, bytes_per_row * len(span), span.stop == count)

        chunks = run_chunks(run_span, range(count), chunk, progress, self._make_room)
        return [_concatenate(parts) for parts in zip(*chunks, strict=True)]

    @overload
    def run_once(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]: ...
    @overload
    def run_once(self, feeds: Mapping[str, torch.Tensor]) -> list[torch.Tensor]: ...
    @overload
    def run_once(self, feeds: Mapping[str, Values]) -> Sequence[Values]: ...

    def run_once(self, feeds: Mapping[str, Values]) -> Sequence[Values]:
        """Call the session once, for all rows, and return its outputs in the types it gives.

        Inputs are cast to the types that the graph states. For tensors, tensors on the device of the first one are returned; between
        CUDA (or CPU) tensors and a session on the same device nothing is copied through another memory. Nobody is asked for memory.
        """
        return self._run_session(feeds, None)

    def _run_chunk(self, feeds: Mapping[str, Values], working_bytes: int, last: bool) -> Sequence[Values]:
        """Run one chunk. working_bytes: that it will work in on a card. last: whether they may be given back afterwards."""
        if self.providers[0] in CARD_PROVIDERS and working_bytes > self._working_bytes:
            request_card_memory(working_bytes - self._working_bytes)
            self._working_bytes = working_bytes
        if last and self._working_bytes > ARENA_BYTES_TO_KEEP and self._card and self._can_shrink_arena:
            try:
                return self._run_session(feeds, self._arena_shrinking_options(self._card))
            except FaceLoomError as error:
                if "memory arena shrink" not in str(error):
                    raise
            self._can_shrink_arena = False  # this onnxruntime manages the card's memory without an arena
        return self.run_once(feeds)

    def _arena_shrinking_options(self, card: torch.device):
        """Return the options of a run after which the card's memory is given back, except that of the weights."""
        options = onnxruntime().RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", f"gpu:{card.index}")
        self._working_bytes = 0
        return options

    def _run_session(self, feeds: Mapping[str, Values], options) -> Sequence[Values]:
        """Call the session once: bound to the tensors' memory where they are on its device, else with arrays."""
        tensors = [values for values in feeds.values() if isinstance(values, torch.Tensor)]
        device = tensors[0].device if tensors else None
        if device and device.type == (self._card or torch.device("cpu")).type:
            return self._run_bound(feeds, device, self._card or device, options)
        arrays = {name: np.asarray(_as_array(values), self.input(name).dtype, order="C") for name, values in feeds.items()}
        outputs = self._call(lambda: self._session.run(None, arrays, options))
        return [torch.from_numpy(output).to(device) for output in outputs] if device else outputs

    def _make_room(self) -> None:
        """Free what memory can be freed, after a chunk did not fit."""
        self._working_bytes = 0
        release_cached_memory()
        if self.providers[0] in CARD_PROVIDERS:
            request_card_memory(None)

    def _call(self, run: Callable[[], Result]) -> Result:
        """Return ``run()``. onnxruntime's errors become FaceLoomError, and torch's current card, which onnxruntime changes, is restored."""
        try:
            with torch.cuda.device(self._card) if self._card else nullcontext():
                return run()
        except Exception as error:
            if is_out_of_memory(error):
                raise OnnxMemoryError(f"{self.name} ran out of memory.") from error
            provider = self.providers[0]
            where, remedy = ("", "") if provider == "cpu" else (f" on {provider}", "; choose another provider where it is loaded")
            raise FaceLoomError(f"{self.name} failed in onnxruntime{where}: {first_line(error)}{remedy}") from error

    def _output_shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the outputs that the file states, with 1 for sizes it does not state."""
        return [tuple(size or 1 for size in port.shape or ()) for port in self.outputs]

    def takes_batches(self) -> bool:
        """Whether several rows can be run together and give the same outputs as one by one. It is tried once, on random input.

        It is not tried on the CPU for a large network, which gains nothing by it, nor on TensorRT, which takes minutes to build an engine
        for another shape.
        """
        if self.providers[0] == "tensorrt":
            return False
        if self.batch_mode is None and (self.providers[0] != "cpu" or len(self.file.data) <= MAX_BYTES_TO_BATCH_ON_CPU):
            self.batch_mode = self._find_batch_mode()
            if self.batch_mode is not None:
                log.info("%s runs several rows %s", self.describe(), BATCH_MODES[self.batch_mode])
        return self.batch_mode not in (None, ONE_BY_ONE)

    def _find_batch_mode(self) -> str | None:
        """Try the batch modes and keep the session of the first that is right. Returns the mode; None where memory ran out, since it may
        fit another time."""
        free = all(port.shape and port.shape[0] is None for port in self.inputs if port.shape is None or len(port.shape) > 1)
        for mode in ("as it is" if free else "inputs", "reshapes"):
            try:
                session = self._session if mode == "as it is" else self._open_freed(mode)
                exact = session is not None and self._call(partial(self._is_exact_in_batch, session))
            except OnnxMemoryError:
                return None
            if exact:
                self._session = session
                return mode
        return ONE_BY_ONE

    def _is_exact_in_batch(self, session) -> bool:
        """Whether two random rows, run together in ``session``, give the outputs that this network's session gives one by one."""
        random = np.random.default_rng(0)
        two_rows = {port.name: _random_input(port, random) for port in self.inputs}
        rows = [{name: array[i : i + 1] if array.ndim > 1 else array for name, array in two_rows.items()} for i in (0, 1)]
        quiet = onnxruntime().RunOptions()
        quiet.log_severity_level = 4
        try:
            outputs = session.run(None, two_rows, quiet)
        except Exception as error:  # onnxruntime has no narrower class for a graph that cannot take the shape
            if is_out_of_memory(error):
                raise
            return False
        one_by_one = [self._session.run(None, row) for row in rows]
        # Cards multiply in TF32, and in another order for another number of rows.
        tolerance = 1e-4 if self.providers[0] == "cpu" else 2e-2
        expected = [np.concatenate(parts) if parts[0].ndim else parts[0] for parts in zip(*one_by_one, strict=True)]
        return all(_allclose(*pair, tolerance) for pair in zip(outputs, expected, strict=True))

    def _open_freed(self, mode: str):
        """Open a session of the graph with a free batch dimension; None if it does not open on the provider of this network."""
        if self.file.external:  # bytes in memory would not find the weights beside the file
            return None
        try:
            freed = with_free_batch(self.file, mode == "reshapes")
            session, used, warning = create_session(self.name, freed, self.file, self.providers[0], self._threads, self._key)
        except OnnxMemoryError:
            raise
        except FaceLoomError:
            return None
        if used[0] != self.providers[0] and mentions_memory(warning):
            raise OnnxMemoryError(warning)
        return session if used[0] == self.providers[0] else None

    def _run_bound(self, feeds: Mapping[str, Values], device: torch.device, card: torch.device, options) -> list[torch.Tensor]:
        """Run the session on the memory of the tensors and return its outputs as tensors on ``device``. card: the session's device.

        onnxruntime makes the outputs on the same device, and torch takes them over without a copy. onnxruntime works on a stream of its
        own, which does not wait for torch's: all inputs are finished before they are bound, also because inputs that a node on the CPU
        reads are copied when they are bound. The run has finished when onnxruntime returns. On a card the outputs are copied within it:
        their memory belongs to the session, which uses it for the next run or gives it back.
        """
        inputs = {}
        for name, values in feeds.items():
            dtype = _torch_dtype(self.input(name).dtype or np.dtype(np.float32))
            inputs[name] = _to_tensor(values).detach().to(card, dtype).contiguous()
        if card.type == "cuda":
            torch.cuda.current_stream(card).synchronize()

        def run() -> list:
            binding = self._session.io_binding()
            for name, tensor in inputs.items():
                dtype = self.input(name).dtype or np.dtype(np.float32)
                binding.bind_input(name, card.type, card.index or 0, dtype, tuple(tensor.shape), tensor.data_ptr())
            for port in self.outputs:
                binding.bind_output(port.name, card.type, card.index or 0)
            binding.synchronize_inputs()
            self._session.run_with_iobinding(binding, options)
            binding.synchronize_outputs()
            return binding.get_outputs()

        outputs = [_as_tensor(value) for value in self._call(run)]
        if card.type == "cuda":
            outputs = [output.to(device, copy=True) for output in outputs]
            torch.cuda.current_stream(card).synchronize()
        return outputs


def open_session(source: str | os.PathLike | bytes, *, providers: str | Sequence[str] = "auto", kind: str | None = None,
                 name: str | None = None, threads: int | None = None) -> OnnxModel:
    """Open an ONNX file, or the bytes of one.

    providers: ``auto``, or a name such as ``cuda``, ``tensorrt``, ``directml``, ``coreml``, ``openvino``, ``cpu``, or several in order; the
    CPU is always tried last, and its use is a warning where it was not asked for. kind: the kind the network must be of (a key of
    ``catalogue.KINDS``); None: any. name: for messages, by default the file's. threads: for the CPU; None: torch's number. FaceLoomError
    where the file is no whole ONNX model, of another kind, without its weights, or cannot be opened by onnxruntime.
    """
    file = read_onnx(source)
    label = name or ("model" if isinstance(source, bytes) else Path(source).name)
    if kind:
        check_graph_kind(label, kind, file.inputs, file.outputs)
    check_external_files(file, label, None if isinstance(source, bytes) else Path(source))
    onnxruntime()  # what is wrong with the file is said first, and without it
    return OnnxModel(label, source if isinstance(source, bytes) else str(source), file, providers, threads)


def _key_of(source: str | bytes) -> str:
    """Return a text that tells this file, as it is now, and this onnxruntime from all others."""
    if isinstance(source, bytes):
        file_key = hashlib.sha256(source).hexdigest()
    else:
        status = os.stat(source)
        file_key = f"{Path(source).resolve()} {status.st_size} {status.st_mtime_ns}"
    return f"{file_key} {onnxruntime().__version__}"


def _torch_dtype(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _as_tensor(value) -> torch.Tensor:
    """Return an ``OrtValue`` as a tensor on the same memory. Older releases share only the value it wraps, still older ones copy."""
    shared = next((shareable for shareable in (value, getattr(value, "_ortvalue", None)) if hasattr(shareable, "__dlpack__")), None)
    return torch.from_numpy(value.numpy()) if shared is None else torch.from_dlpack(shared)


def _as_array(values: Values) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values


def _to_tensor(values: Values) -> torch.Tensor:
    return values if isinstance(values, torch.Tensor) else torch.from_numpy(np.array(values))  # torch warns of read-only arrays


def _one_row(values: Values) -> Values:
    """Return the first row of an input, zeros where it has no rows; inputs without rows as they are."""
    if values.ndim < 2 or len(values):
        return values[:1] if values.ndim > 1 else values
    shape = (1, *values.shape[1:])
    return values.new_zeros(shape) if isinstance(values, torch.Tensor) else np.zeros(shape, values.dtype)


def _pixels_per_row(shape: Sequence[int]) -> int:
    """Return the number of pixels of one row ``[B, C, H, W]`` or ``[B, H, W, C]``: the product of its two largest sizes."""
    return math.prod(sorted(shape[1:])[-2:])


def _repeat_row(values: Values, count: int) -> Values:
    """Repeat an input of one row for ``count`` rows without copying it; other inputs are returned as they are."""
    if values.ndim < 2 or len(values) == count:
        return values
    shape = (count, *values.shape[1:])
    return values.expand(shape) if isinstance(values, torch.Tensor) else np.broadcast_to(values, shape)


def _concatenate(parts: Sequence[Values]) -> Values:
    """Join the outputs of all chunks; floating-point ones become float32."""
    first = parts[0]
    if isinstance(first, torch.Tensor):
        tensors = [part for part in parts if isinstance(part, torch.Tensor)]  # all are, where the first is
        whole = torch.cat(tensors) if first.ndim and len(parts) > 1 else first
        return whole.to(torch.float32) if whole.is_floating_point() else whole
    whole = np.concatenate(parts) if first.ndim and len(parts) > 1 else first
    return whole.astype(np.float32, copy=False) if whole.dtype.kind == "f" else whole


def _allclose(output: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    """Whether two outputs differ by no more than ``tolerance`` of the largest expected number; in half precision by no more than 2 %."""
    if output.shape != expected.shape:
        return False
    tolerance = max(tolerance, 2e-2) if output.dtype == np.float16 else tolerance
    scale = float(np.abs(expected.astype(np.float64)).max(initial=1e-3))
    return bool(np.abs(output.astype(np.float64) - expected.astype(np.float64)).max(initial=0) <= tolerance * scale)


def _random_input(port: Port, random: np.random.Generator) -> np.ndarray:
    """Make a random input of two rows, or without rows for a port of fewer than two dimensions; sizes the file does not state are 64."""
    shape = tuple(size if isinstance(size, int) else 64 for size in (port.shape or ()))
    if len(shape) > 1:
        shape = (2, *shape[1:])
    dtype = port.dtype or np.dtype(np.float32)
    return random.uniform(0, 1 if dtype.kind == "f" else 256, shape).astype(dtype)
