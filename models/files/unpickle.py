"""The weights of checkpoints that were saved as whole Python objects (DiffFace's and SimSwap's ArcFace), read without running anything.

A pickle is a program: it names functions and has them called. Here every name stands for an empty thing of ours, nothing is imported, and
of calls only those that torch itself writes for tensors mean anything. Tensors are noted down while the pickle is read and made afterwards.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..errors import FaceLoomError

# What a damaged or hostile file can raise while it is read.
DAMAGED = (pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, LookupError, RuntimeError, MemoryError, OverflowError,
           struct.error, zipfile.BadZipFile, NotImplementedError)
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16, "CharStorage": torch.int8,
    "ByteStorage": torch.uint8, "BoolStorage": torch.bool, "UntypedStorage": torch.uint8,
}  # fmt: skip
# Packages whose classes and functions may be called while an ordinary object is put together again; here they give empty things.
_ORDINARY = {"torch", "numpy", "collections", "types", "functools", "argparse", "pathlib", "_codecs", "copyreg", "copy_reg"}
# More modules in a file, or numbers in a tensor, than any network has: a file made to fill the memory.
_MODULES, _NUMBERS = 100_000, 1 << 33


def read_objects(path: Path) -> Any:
    """What a PyTorch file of either format holds: modules as their state dicts, tensors, plain data; everything else as empty things.

    A file whose top level holds one module and no tensors beside it is that module's state dict. A pickle that asks for anything to be
    called but what makes tensors and plain containers is refused.
    """
    try:
        with path.open("rb") as stream:
            zipped = zipfile.is_zipfile(stream)
            stream.seek(0)
            data, storages = _read_zip(stream) if zipped else _read_legacy(stream)
            plain = _Walk(storages).plain(data)
    except FaceLoomError as error:
        raise FaceLoomError(f"{path.name} {error}") from error
    except DAMAGED as error:
        raise FaceLoomError(f"{path.name} is not a whole PyTorch checkpoint; fetch it again.") from error
    if isinstance(plain, State):
        return plain
    found = [value for value in plain.values() if isinstance(value, State | torch.Tensor)] if isinstance(plain, Mapping) else []
    return found[0] if len(found) == 1 and isinstance(found[0], State) else plain


class State(dict):
    """A module's state dict."""


@dataclass(frozen=True)
class _Storage:
    """Numbers in a file, by their key; ``offset`` of them belong to others."""

    key: str
    dtype: torch.dtype
    offset: int = 0


@dataclass(frozen=True)
class _Tensor:
    """A tensor as a pickle describes it."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def __setstate__(self, state: Any) -> None:
        """Hooks and the like are of no use here."""


class _Kind(type):
    """Of a class or function that the pickle names. It cannot be changed, and calling it gives an empty thing or is refused."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls.__module__.split(".")[0] not in _ORDINARY:
            raise FaceLoomError(f"asks for {cls.__module__}.{cls.__qualname__} to be run, which weights never need, so it is refused.")
        return cls.__new__(cls)

    def __setattr__(cls, name: str, value: Any) -> None:
        raise FaceLoomError("changes a class, which weights never need, so it is refused.")


class _Thing(metaclass=_Kind):
    """An object whose class is not here: it keeps the state it was saved with and ignores the rest."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Thing:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        object.__setattr__(self, "state", state)

    def __call__(self, *args: Any, **kwargs: Any) -> _Thing:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    add = append


class _Known:
    """A function of ours in place of one of torch's; the pickle can call it and cannot change it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        object.__setattr__(self, "_make", make)

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)

    def __setstate__(self, state: Any) -> None:
        raise AttributeError("__setstate__")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any, dtype: torch.dtype | None = None) -> _Tensor:
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("not a tensor")
    return _Tensor(storage, storage.offset + offset, tuple(size), tuple(stride), dtype or storage.dtype)


def _typed_tensor(storage: Any, offset: Any, size: Any, stride: Any, gradient: Any, hooks: Any, dtype: Any, *rest: Any) -> _Tensor:
    name = getattr(dtype, "__qualname__", "")
    found = {str(known).removeprefix("torch."): known for known in _STORAGES.values()}.get(name)
    if found is None:
        raise FaceLoomError(f"holds numbers of the kind {name or dtype!r}, which are not read here.")
    return _tensor(storage, offset, size, stride, dtype=found)


def _parameter(data: Any = None, *rest: Any) -> Any:
    return data


def _again(kind: Any, *rest: Any) -> Any:
    """``copyreg._reconstructor``: an object without having its class called."""
    if not isinstance(kind, _Kind):
        raise ValueError("not a class")
    return kind.__new__(kind)


_KNOWN = {
    ("torch._utils", "_rebuild_tensor"): _Known(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Known(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Known(_typed_tensor),
    ("torch._utils", "_rebuild_parameter"): _Known(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): _Known(_parameter),
    ("torch.nn.parameter", "Parameter"): _Known(_parameter),
    ("copyreg", "_reconstructor"): _Known(_again),
    ("copy_reg", "_reconstructor"): _Known(_again),
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "frozenset"): frozenset,
}


class _Reader(pickle.Unpickler):
    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream, encoding="utf-8")
        self.kinds: dict[tuple[str, str], _Kind] = {}
        self.dtypes: dict[str, torch.dtype] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Nothing is ever looked up: one of ours, or an empty class of that name."""
        known = _KNOWN.get((module, name))
        if known is not None:
            return known
        return self.kinds.setdefault((module, name), _Kind(name, (_Thing,), {"__module__": module, "__qualname__": name}))

    def persistent_load(self, saved: Any) -> Any:
        what, *rest = saved
        if what == "module":  # old files bring their classes' source text along
            return rest[0]
        kind, key, _, _, *view = rest
        dtype = _STORAGES.get(getattr(kind, "__qualname__", ""))
        if what != "storage" or not isinstance(key, str) or dtype is None:
            raise FaceLoomError(f"holds numbers of the kind {getattr(kind, '__qualname__', kind)!r}, which are not read here.")
        self.dtypes[key] = dtype
        offset = view[0][1] if view and view[0] is not None else 0
        return _Storage(key, dtype, int(offset))


def _read_zip(stream: BinaryIO) -> tuple[Any, Callable[[_Storage], bytes]]:
    archive = zipfile.ZipFile(stream)
    names = {info.filename: info for info in archive.infolist()}
    folder = next(name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl"))
    if any(info.compress_type != zipfile.ZIP_STORED for info in names.values()):
        raise FaceLoomError("is a packed archive, not a PyTorch checkpoint; unpack it.")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise FaceLoomError("was saved on a big-endian machine; save it again on a usual one.")
    with archive.open(f"{folder}data.pkl") as pickled:
        data = _Reader(pickled).load()
    return data, lambda storage: archive.read(f"{folder}data/{storage.key}")


def _read_legacy(stream: BinaryIO) -> tuple[Any, Callable[[_Storage], bytes]]:
    """Torch's format before 1.6: pickles of a magic number, the version, the machine, the object and the storages' keys, then numbers."""
    if (_Reader(stream).load(), _Reader(stream).load()) != (_MAGIC, _PROTOCOL):
        raise FaceLoomError("is a Python pickle, not a PyTorch checkpoint.")
    _Reader(stream).load()
    reader = _Reader(stream)
    data = reader.load()
    places: dict[str, tuple[int, int]] = {}
    for key in _Reader(stream).load():
        (count,) = struct.unpack("<q", stream.read(8))
        length = count * reader.dtypes[key].itemsize
        places[key] = stream.tell(), length
        stream.seek(length, 1)

    def numbers(storage: _Storage) -> bytes:
        start, length = places[storage.key]
        stream.seek(start)
        return stream.read(length)

    return data, numbers


class _Walk:
    """What was noted down, as plain data; tensors that share numbers in the file share them here."""

    def __init__(self, numbers: Callable[[_Storage], bytes]) -> None:
        self.numbers = numbers
        self.made: dict[tuple[str, torch.dtype], torch.Tensor] = {}
        self.modules = 0
        self.dicts: dict[int, dict] = {}

    def plain(self, value: Any) -> Any:
        """Modules as state dicts, in dicts too."""
        if isinstance(value, _Tensor):
            return self.tensor(value)
        if isinstance(value, dict):
            if id(value) not in self.dicts:  # one that is in many places is read once
                self.dicts[id(value)] = {key: self.plain(each) for key, each in value.items() if isinstance(key, str)}
            return self.dicts[id(value)]
        if isinstance(value, _Thing) and _is_module(value):
            return State(self.state_dict(value, ""))
        return value

    def state_dict(self, module: _Thing, prefix: str) -> dict[str, torch.Tensor]:
        self.modules += 1
        if self.modules > _MODULES:
            raise FaceLoomError("holds modules within modules without end, so it is refused.")
        state = module.state
        passing = state.get("_non_persistent_buffers_set", ())
        kept = {**state["_parameters"], **{name: value for name, value in state.get("_buffers", {}).items() if name not in passing}}
        found = {f"{prefix}{name}": self.tensor(value) for name, value in kept.items() if isinstance(value, _Tensor)}
        for name, inner in state["_modules"].items():
            if isinstance(inner, _Thing) and _is_module(inner):
                found |= self.state_dict(inner, f"{prefix}{name}.")
        return found

    def tensor(self, noted: _Tensor) -> torch.Tensor:
        if math.prod(noted.size) == 0:
            return torch.empty(noted.size, dtype=noted.dtype)
        if math.prod(noted.size) > _NUMBERS:
            raise FaceLoomError("claims more weights than any network has, so it is refused.")
        where = noted.storage.key, noted.dtype
        if where not in self.made:
            self.made[where] = torch.frombuffer(bytearray(self.numbers(noted.storage)), dtype=noted.dtype)
        return self.made[where].as_strided(noted.size, noted.stride, noted.offset)


def _is_module(thing: _Thing) -> bool:
    state = getattr(thing, "state", None)
    return isinstance(state, dict) and all(isinstance(state.get(part), dict) for part in ("_parameters", "_modules"))
