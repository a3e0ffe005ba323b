"""An ONNX network as a function of named arrays: any number of rows in one call, whatever batch it was exported for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .catalogue import guess_row, row_of_file
from .errors import FaceLoomError
from .folders import Folders, Found, default_folders, find
from .onnx_graph import free_batch
from .progress import Progress, silent

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(uint8)": np.uint8,
         "tensor(int64)": np.int64, "tensor(int32)": np.int32}

# A row may differ by this share of the answer's range between a batch and a call of its own; more than rounding can explain is a graph
# that mixes its rows. Half a step of an 8-bit picture.
SAME = 0.5 / 255
# Rows per call. Larger batches gain nothing measurable and cost memory.
ROWS = 16

OpenSession = Callable[["str | bytes"], object]


@dataclass(frozen=True)
class Port:
    """One input or output. shape: None where any length goes."""

    name: str
    shape: tuple[int | None, ...]
    type: np.dtype

    def __str__(self) -> str:
        return f"{self.name} {'×'.join('?' if size is None else str(size) for size in self.shape)}"


class Network:
    """A network on disk, opened when it is first needed.

    A graph exported for exactly one row is tried with a free batch dimension the first time more rows than one are asked for; if it
    answers a batch as it answers the rows one by one, it stays that way, otherwise the rows are run in a loop.
    """

    def __init__(self, path: str | Path, open_session: OpenSession | None = None) -> None:
        self.path = Path(path)
        self._open = open_session or _open_session
        self._session = self._open(str(self.path))
        self.inputs = tuple(_port(value) for value in self._session.get_inputs())
        self.outputs = tuple(_port(value) for value in self._session.get_outputs())
        self._single = any(port.shape[:1] == (1,) and len(port.shape) > 1 for port in self.inputs)
        self._tried = False

    def input(self, name: str) -> Port:
        """The input called ``name``."""
        return next(port for port in self.inputs if port.name == name)

    def run(self, feeds: Mapping[str, np.ndarray], progress: Progress = silent) -> list[np.ndarray]:
        """All outputs for ``feeds``: arrays by input name whose first dimension is the row; an array for an input of one dimension
        goes to every row as it is. Floating-point answers come back as float32. ``progress`` counts rows."""
        feeds = {name: np.asarray(value, self.input(name).type) for name, value in feeds.items()}
        rows = {name for name in feeds if len(self.input(name).shape) > 1}
        count = max(len(feeds[name]) for name in rows)
        if count > 1 and self._single and not self._tried:
            self._free({name: value[:1] for name, value in feeds.items() if name in rows}, feeds)
        step = 1 if self._single else ROWS
        parts = []
        for start in range(0, count, step):
            part = {name: value[start:start + step] if name in rows else value for name, value in feeds.items()}
            parts.append(self._session.run(None, part))
            progress(min(start + step, count), count)
        return [_plain(np.concatenate(part) if len(part) > 1 else part[0]) for part in zip(*parts, strict=True)]

    def _free(self, first: dict[str, np.ndarray], feeds: dict[str, np.ndarray]) -> None:
        """Reopen with a free batch dimension if that changes nothing but the number of rows."""
        self._tried = True
        fixed, self._session = self._session, None  # two copies of the weights need not be in memory at once
        del fixed
        try:
            session = self._open(free_batch(self.path.read_bytes(), set(first)))
            if _rows_apart(session, first, feeds):
                self._session, self._single = session, False
        except FaceLoomError:
            pass  # the graph cannot be read with another batch; it is run row by row
        finally:
            if self._session is None:
                self._session = self._open(str(self.path))


def _rows_apart(session, first: dict[str, np.ndarray], feeds: dict[str, np.ndarray]) -> bool:
    """Whether two different rows together give what each gives alone."""
    other = {name: np.ascontiguousarray(value[..., ::-1]) for name, value in first.items()}
    shared = {name: value for name, value in feeds.items() if name not in first}
    try:
        both = session.run(None, shared | {name: np.concatenate([first[name], other[name]]) for name in first})
        alone = [session.run(None, shared | row) for row in (first, other)]
    except Exception as error:
        if type(error).__module__.split(".")[0] != "onnxruntime":
            raise
        return False
    for together, *single in zip(both, *alone, strict=True):
        apart = np.concatenate(single).astype(np.float32)
        if together.shape != apart.shape or np.abs(together.astype(np.float32) - apart).max(initial=0) > SAME * max(np.ptp(apart), 1e-6):
            return False
    return True


def _port(value) -> Port:
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in value.shape or ())
    return Port(value.name, shape, np.dtype(TYPES.get(value.type, np.float32)))


def _plain(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array


def _open_session(model: str | bytes):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=onnxruntime.get_available_providers())


def locate(path_or_name: str | Path, kind: str, folders: Folders | None = None) -> Found:
    """The file for a path, or for a name in the models folders, and the catalogue's row for it or for what its name begins with."""
    path = Path(path_or_name)
    if path.is_file():
        return Found(path, row_of_file(path.name) or guess_row(path.name, kind))
    return find(str(path_or_name), folders or default_folders(), kind)


def kind_of(network: Network) -> str:
    """What a graph looks like from outside, in a few words."""
    picture = next((port for port in network.inputs if len(port.shape) == 4), None)
    answers = [port.shape for port in network.outputs]
    widths = [shape[-1] for shape in answers if len(shape) in (1, 2)]
    planes = [shape[1] for shape in answers if len(shape) == 4]
    if picture is None:
        vector = network.inputs[0].shape[-1:] if network.inputs else ()
        return "an embedding converter" if vector == (512,) == tuple(widths[:1]) else f"a network of another kind ({_inputs_of(network)})"
    if len(network.inputs) > 1:
        return f"a network with {len(network.inputs)} inputs ({_inputs_of(network)})"
    if len(answers) >= 6 or any(20 in shape[1:] for shape in answers if len(shape) == 3):
        return "a face detector"
    if picture.shape[2:] == (96, 96) and widths == [3]:
        return "an age and sex model"
    if 212 in widths or any(shape[-2:-1] in ((68,), (106,)) for shape in answers):
        return "a landmark model"
    if len(answers) == 1 and widths and widths[0] in (128, 256, 512):
        return "a face recognizer"
    if 19 in planes:
        return "a face parser"
    if picture.shape[-1] == 3 or 1 in planes:
        return "an occlusion model"
    if 3 in planes:
        return "a face restorer or upscaler"
    return f"a network of another kind ({_inputs_of(network)})"


def _inputs_of(network: Network) -> str:
    return ", ".join(str(port) for port in network.inputs)
