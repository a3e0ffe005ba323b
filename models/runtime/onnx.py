"""Running networks: ONNX sessions that say where they really run, batches that fit, torch networks that others may move.

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
from typing import TypeVar

import numpy as np
import torch

from ..errors import FaceLoomError
from ..files.checkpoints import load_weights
from ..files.kinds import check_graph_kind
from ..files.onnx import OnnxFile, Port, read_onnx
from ..files.onnx_batch import with_free_batch
from ..progress import Progress, silent
from .devices import DeviceManager, PlainDevices, TorchModel
from .memory import OnnxMemoryError, is_out_of_memory, mentions_memory, release_cached_memory, request_card_memory, run_chunks
from .providers import CARD_PROVIDERS, log, onnxruntime
from .session import card_of, create_session, first_line

__all__ = ["DeviceManager", "OnnxModel", "PlainDevices", "TorchModel", "load_weights", "open_session", "run_chunks"]

Result = TypeVar("Result")
Values = np.ndarray | torch.Tensor

# Batch modes (``OnnxModel.batch_mode``), as the log tells them.
ONE_BY_ONE = "one by one"
TOLD = {"as it is": "together", "inputs": "together, with the first dimension of its inputs freed",
        "reshapes": "together, with the first dimension of its inputs and of its reshapes freed", ONE_BY_ONE: "one by one"}
# On the CPU, networks of more bytes than this are as fast one by one, and trying a batch would take seconds.
WORTHWHILE = 64 << 20

# Bytes a face network works in per pixel of its largest picture: GFPGAN at 512 has 542 MB at once. On a graphics card a chunk is as
# many rows as work in TOGETHER, and what was worked in beyond KEPT goes back when the last is done.
PER_PIXEL, TOGETHER, KEPT = 2200, 2 << 30, 256 << 20


class OnnxModel:
    """An opened network.

    inputs, outputs: ports as the file declares them. providers: short names in use, the first one computes. warning: what the user should
    know about where it runs, or "". file: the parsed file, for initializers.

    batch_mode: how more than one row is run: ``"as it is"`` (the file's own graph takes batches), ``"inputs"`` or ``"reshapes"`` (the graph
    with its first dimension freed takes them), ``"one by one"``, or None as long as that has not been decided. It is decided the first
    time more rows than one are run, by comparing a batch with the same rows run one by one, and holds for this opened network only.
    """

    def __init__(self, name: str, source: str | bytes, file: OnnxFile, providers: str | Sequence[str], threads: int | None) -> None:
        self.name = name
        self.file = file
        self.inputs = file.inputs
        self.outputs = file.outputs
        self._threads = threads
        self._key = _key(source)
        self.batch_mode: str | None = None
        self._held = 0  # bytes beside the weights that the session has on its card
        self._session, self.providers, self.warning = create_session(name, source, file, providers, threads, self._key)
        self._card = card_of(self._session)
        self._gives_back = self._card is not None and self.providers[0] == "cuda"
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
        """All outputs for arrays or tensors ``[N, ...]`` by input name, any N, at most ``chunk`` rows in one call, on a graphics card
        also no more than work in ``TOGETHER`` bytes.

        Inputs of fewer than two dimensions, and those with a first dimension of 1, are the same for all rows. Values are cast to the
        declared types; answers in half or double precision come back as float32, as arrays for arrays and as tensors on the device of
        the first tensor where there is one. ``progress`` counts rows.
        """
        counts = [len(values) for values in feeds.values() if values.ndim > 1]
        if 0 in counts:  # only the graph knows the shapes of its answers
            one = {name: _one_row(values) for name, values in feeds.items()}
            return [values[:0] for values in self.run(one)]
        count = max(counts, default=1)
        each = PER_PIXEL * max(_pixels(shape) for shape in [*(values.shape for values in feeds.values()), *self._answers()])
        chunk = chunk if count > 1 and self.batches() else 1
        if self.providers[0] in CARD_PROVIDERS:
            chunk = max(1, min(chunk, count, TOGETHER // each))

        def rows(values: Values, span: range) -> Values:
            return values if values.ndim < 2 or len(values) == 1 else values[span.start : span.stop]

        def part(span: range) -> list[Values]:
            given = {name: _repeated(rows(values, span), len(span)) for name, values in feeds.items()}
            return self._answer(given, each * len(span), span.stop == count)

        parts = run_chunks(part, range(count), chunk, progress, self._make_room)
        return [_plain(same) for same in zip(*parts, strict=True)]

    def run_once(self, feeds: Mapping[str, Values]) -> list[Values]:
        """One call of the session with everything as it is given, types apart; nobody is asked for room. Tensors are answered with
        tensors, on CUDA (and CPU) without a copy through another memory."""
        return self._fed(feeds, None)

    def _answer(self, feeds: Mapping[str, Values], memory: int, last: bool) -> list[Values]:
        """memory: bytes it takes to work in. last: whether they may go back afterwards."""
        if self.providers[0] in CARD_PROVIDERS and memory > self._held:
            request_card_memory(memory - self._held)
            self._held = memory
        if last and self._held > KEPT and self._gives_back:
            try:
                return self._fed(feeds, self._giving_back())
            except FaceLoomError as error:
                if "memory arena shrink" not in str(error):
                    raise
            self._gives_back = False  # this onnxruntime holds the card's memory in another way
        return self.run_once(feeds)

    def _giving_back(self):
        """Options for a run after which the card's memory goes back, but for the weights."""
        options = onnxruntime().RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", f"gpu:{self._card.index}")
        self._held = 0
        return options

    def _fed(self, feeds: Mapping[str, Values], options) -> list[Values]:
        tensors = [values for values in feeds.values() if isinstance(values, torch.Tensor)]
        device = tensors[0].device if tensors else None
        if device and device.type == (self._card or torch.device("cpu")).type:
            return self._run_bound(feeds, device, self._card or device, options)
        arrays = {name: np.asarray(_array(values), self.input(name).dtype, order="C") for name, values in feeds.items()}
        answers = self._call(lambda: self._session.run(None, arrays, options))
        return [torch.from_numpy(answer).to(device) for answer in answers] if device else answers

    def _make_room(self) -> None:
        self._held = 0
        release_cached_memory()
        if self.providers[0] in CARD_PROVIDERS:
            request_card_memory(None)

    def _call(self, run: Callable[[], Result]) -> Result:
        """``run()``, with onnxruntime's errors as sentences, and torch's current card afterwards as before: onnxruntime changes it."""
        try:
            with torch.cuda.device(self._card) if self._card else nullcontext():
                return run()
        except Exception as error:
            if is_out_of_memory(error):
                raise OnnxMemoryError(f"{self.name} ran out of memory.") from error
            where = self.providers[0]
            on, cure = ("", "") if where == "cpu" else (f" on {where}", "; choose another provider where it is loaded")
            raise FaceLoomError(f"{self.name} failed in onnxruntime{on}: {first_line(error)}{cure}") from error

    def _answers(self) -> list[tuple[int, ...]]:
        """Shapes of the outputs, as far as the file says them."""
        return [tuple(size or 1 for size in port.shape or ()) for port in self.outputs]

    def batches(self) -> bool:
        """Whether several rows may go through together and come out as if alone. Tried once for each opened network, on random input.

        On the CPU a large network gains nothing by it, so there it is not even tried. TensorRT builds an engine for the shapes it sees,
        in minutes, so there only one shape is shown to it.
        """
        if self.providers[0] == "tensorrt":
            return False
        if self.batch_mode is None and (self.providers[0] != "cpu" or len(self.file.data) <= WORTHWHILE):
            self.batch_mode = self._try_batches()
            if self.batch_mode is not None:
                log.info("%s runs several rows %s", self.describe(), TOLD[self.batch_mode])
        return self.batch_mode not in (None, ONE_BY_ONE)

    def _try_batches(self) -> str | None:
        """The batch mode, and the session that goes with it; None where there was no memory to try, since there may be another time."""
        free = all(port.shape and port.shape[0] is None for port in self.inputs if port.shape is None or len(port.shape) > 1)
        for mode in ("as it is" if free else "inputs", "reshapes"):
            try:
                together = self._session if mode == "as it is" else self._freed(mode)
                exact = together is not None and self._call(partial(self._exact, together))
            except OnnxMemoryError:
                return None
            if exact:
                self._session = together
                return mode
        return ONE_BY_ONE

    def _exact(self, together) -> bool:
        """Whether two random items through ``together`` come out as they do through this session, one after the other."""
        random = np.random.default_rng(0)
        pair = {port.name: _random_input(port, random) for port in self.inputs}
        halves = [{name: array[i : i + 1] if array.ndim > 1 else array for name, array in pair.items()} for i in (0, 1)]
        quiet = onnxruntime().RunOptions()
        quiet.log_severity_level = 4
        try:
            both = together.run(None, pair, quiet)
        except Exception as error:  # onnxruntime has no narrower class for a graph that cannot take the shape
            if is_out_of_memory(error):
                raise
            return False
        singles = [self._session.run(None, half) for half in halves]
        # Cards multiply in TF32, and not in the same order for another number of rows.
        close = 1e-4 if self.providers[0] == "cpu" else 2e-2
        wanted = [np.concatenate(pair) if pair[0].ndim else pair[0] for pair in zip(*singles, strict=True)]
        return all(_alike(*pair, close) for pair in zip(both, wanted, strict=True))

    def _freed(self, mode: str):
        """A session of the graph with a free batch dimension; None if that does not open where the file does."""
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
        """Bind the tensors' own memory; onnxruntime makes the outputs on the same card, and torch takes them over where they lie.

        onnxruntime works on a stream of its own, which knows nothing of torch's: whatever is given is finished before, also because
        inputs that a node on the CPU reads are copied when they are bound. It has finished when it returns (unless it is told not to
        wait). On a card answers are copied within it: their memory is the session's, for the next run and to give back.
        """
        given = {}
        for name, values in feeds.items():
            kind = _torch_type(self.input(name).dtype or np.dtype(np.float32))
            given[name] = _tensor(values).detach().to(card, kind).contiguous()
        if card.type == "cuda":
            torch.cuda.current_stream(card).synchronize()

        def run() -> list:
            binding = self._session.io_binding()
            for name, tensor in given.items():
                kind = self.input(name).dtype or np.dtype(np.float32)
                binding.bind_input(name, card.type, card.index or 0, kind, tuple(tensor.shape), tensor.data_ptr())
            for port in self.outputs:
                binding.bind_output(port.name, card.type, card.index or 0)
            binding.synchronize_inputs()
            self._session.run_with_iobinding(binding, options)
            binding.synchronize_outputs()
            return binding.get_outputs()

        answers = [_taken_over(value) for value in self._call(run)]
        if card.type == "cuda":
            answers = [answer.to(device, copy=True) for answer in answers]
            torch.cuda.current_stream(card).synchronize()
        return answers


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
        check_graph_kind(label, kind, file.inputs, file.outputs)
    lacking = None if isinstance(source, bytes) else file.missing_weights_file(Path(source).parent)
    if lacking:
        raise FaceLoomError(f"{label} keeps its weights in {lacking}, which is not beside it; put both into one folder.")
    return OnnxModel(label, source if isinstance(source, bytes) else str(source), file, providers, threads)


def _key(source: str | bytes) -> str:
    if isinstance(source, bytes):
        which = hashlib.sha256(source).hexdigest()
    else:
        status = os.stat(source)
        which = f"{Path(source).resolve()} {status.st_size} {status.st_mtime_ns}"
    return f"{which} {onnxruntime().__version__}"


def _torch_type(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _taken_over(value) -> torch.Tensor:
    """An ``OrtValue`` as a tensor on the same memory. Older releases share only what it wraps, still older ones nothing: they copy."""
    shared = next((each for each in (value, getattr(value, "_ortvalue", None)) if hasattr(each, "__dlpack__")), None)
    return torch.from_numpy(value.numpy()) if shared is None else torch.from_dlpack(shared)


def _array(values: Values) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values


def _tensor(values: Values) -> torch.Tensor:
    return values if isinstance(values, torch.Tensor) else torch.from_numpy(np.array(values))  # torch warns of read-only arrays


def _one_row(values: Values) -> Values:
    """Nothing, once, for what has no rows."""
    if values.ndim < 2 or len(values):
        return values[:1] if values.ndim > 1 else values
    shape = (1, *values.shape[1:])
    return values.new_zeros(shape) if isinstance(values, torch.Tensor) else np.zeros(shape, values.dtype)


def _pixels(shape: Sequence[int]) -> int:
    """Of one row, whichever way its channels lie."""
    return math.prod(sorted(shape[1:])[-2:])


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


def _alike(answer: np.ndarray, wanted: np.ndarray, close: float) -> bool:
    """Whether two answers differ by no more than ``close`` of the largest number, or what half precision allows."""
    if answer.shape != wanted.shape:
        return False
    close = max(close, 2e-2) if answer.dtype == np.float16 else close
    scale = float(np.abs(wanted.astype(np.float64)).max(initial=1e-3))
    return bool(np.abs(answer.astype(np.float64) - wanted.astype(np.float64)).max(initial=0) <= close * scale)


def _random_input(port: Port, random: np.random.Generator) -> np.ndarray:
    """Two items for a port of two or more dimensions; free sizes become 64."""
    shape = tuple(size if isinstance(size, int) else 64 for size in (port.shape or ()))
    if len(shape) > 1:
        shape = (2, *shape[1:])
    dtype = port.dtype or np.dtype(np.float32)
    return random.uniform(0, 1 if dtype.kind == "f" else 256, shape).astype(dtype)
