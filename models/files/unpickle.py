"""Reads the weights of checkpoints that were saved as whole Python objects (DiffFace's and SimSwap's ArcFace) without running anything.

A pickle is a program: it names functions and has them called. Here nothing is imported: every name stands for an empty class of this
module, and the only calls that do anything are those that torch itself writes for tensors. The descriptions of tensors are noted while the
pickle is read; the tensors are made of them afterwards.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import torch

from ..errors import FaceLoomError
from .declared import named

# The errors that reading a damaged or hostile file can raise.
READ_ERRORS = (pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, LookupError, RuntimeError, MemoryError,
               AssertionError, OverflowError, struct.error, zlib.error, zipfile.BadZipFile, NotImplementedError)
# The first two pickles of torch's format before 1.6.
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16, "CharStorage": torch.int8,
    "ByteStorage": torch.uint8, "BoolStorage": torch.bool, "UntypedStorage": torch.uint8,
}  # fmt: skip
# Packages whose classes and functions ordinary objects call when they are read. Here such a call gives an empty object; others are refused.
_HARMLESS_PACKAGES = {"torch", "numpy", "collections", "types", "functools", "argparse", "pathlib", "_codecs", "copyreg", "copy_reg"}
# More modules in a file, or numbers in a tensor, than any network has: a file with more was made to fill the memory.
_MAX_MODULES, _MAX_NUMBERS = 100_000, 1 << 33


def read_objects(path: Path) -> Any:
    """Read a PyTorch file of either format: modules become their state dicts, tensors and plain data stay, other objects become empty ones.

    Of a file whose top level holds one module and no tensors, that module's state dict is returned. FaceLoomError where the file is damaged
    and where its pickle asks for anything to be called but what makes tensors and plain containers.
    """
    try:
        with named(path), path.open("rb") as stream:
            noted, read_storage = _read_zip(stream) if is_zip(stream) else _read_legacy(stream)
            data = _PlainData(read_storage).convert(noted)
    except FaceLoomError:
        raise
    except READ_ERRORS as error:
        raise FaceLoomError(f"{path.name} is not a whole PyTorch checkpoint; fetch it again.") from error
    if isinstance(data, StateDict):
        return data
    weights = [value for value in data.values() if isinstance(value, StateDict | torch.Tensor)] if isinstance(data, Mapping) else []
    return weights[0] if len(weights) == 1 and isinstance(weights[0], StateDict) else data


def is_zip(stream: BinaryIO) -> bool:
    """Whether a file begins as torch's zip format does. Its end does not count: torch does not look at it either."""
    head = stream.read(4)
    stream.seek(0)
    return head == b"PK\x03\x04"


class StateDict(dict):
    """The tensors of a module by name."""


@dataclass(frozen=True)
class _Storage:
    """Numbers in a file: their key, their type, and how many of them to skip."""

    key: str
    dtype: torch.dtype
    offset: int = 0


@dataclass(frozen=True)
class NotedTensor:
    """A tensor as a pickle describes it: where its numbers are, and where its own begin; size and stride as of torch."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def __setstate__(self, state: Any) -> None:
        """Ignore hooks and the like. ValueError for other numbers, which torch would put in place of the tensor's."""
        if isinstance(state, tuple) and any(isinstance(part, _Storage) for part in state):
            raise ValueError("not a tensor's state")


class EmptyClass(type):
    """The type of the classes that stand for the classes and functions a pickle names.

    The pickle cannot change them. Calling one gives an empty object for names of ``_HARMLESS_PACKAGES`` and is refused for others.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls.__module__.split(".")[0] not in _HARMLESS_PACKAGES:
            raise FaceLoomError(f"asks for {cls.__module__}.{cls.__qualname__} to be run, which weights never need, so it is refused.")
        return object.__new__(cls)

    def __setattr__(cls, name: str, value: Any) -> None:
        raise FaceLoomError("changes a class, which weights never need, so it is refused.")


class EmptyObject(metaclass=EmptyClass):
    """An object of a class that is not imported: it keeps the state it was saved with and ignores the rest."""

    state: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> EmptyObject:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        object.__setattr__(self, "state", state)

    def __call__(self, *args: Any, **kwargs: Any) -> EmptyObject:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    add = append


class SafeFunction:
    """A function of this module in place of one of torch's. The pickle can call it but cannot change it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        object.__setattr__(self, "_make", make)

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)

    def __setstate__(self, state: Any) -> None:
        raise AttributeError("__setstate__")


def _note_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any, dtype: torch.dtype | None = None) -> NotedTensor:
    """Note a tensor; stands for torch's ``_rebuild_tensor`` and ``_rebuild_tensor_v2``. ValueError where the description is none."""
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("not a tensor")
    return NotedTensor(storage, storage.offset + offset, tuple(size), tuple(stride), dtype or storage.dtype)


def _note_typed_tensor(storage: Any, offset: Any, size: Any, stride: Any, gradient: Any, hooks: Any, dtype: Any, *rest: Any
                       ) -> NotedTensor:
    """Note a tensor whose storage has no type; stands for torch's ``_rebuild_tensor_v3``."""
    name = getattr(dtype, "__qualname__", "")
    found = {str(known).removeprefix("torch."): known for known in _STORAGE_DTYPES.values()}.get(name)
    if found is None:
        raise FaceLoomError(f"holds numbers of the kind {name or dtype!r}, which are not read here.")
    return _note_tensor(storage, offset, size, stride, dtype=found)


def _note_parameter(data: Any = None, *rest: Any) -> Any:
    """Return the tensor of a parameter."""
    return data


def _note_of_type(function: Any, kind: Any, arguments: Any, *rest: Any) -> Any:
    """Note a tensor that was saved with attributes; stands for torch's ``_rebuild_from_type_v2``."""
    if not isinstance(function, SafeFunction):
        raise ValueError("not a function that makes tensors")
    return function(*arguments)


def _reconstruct(kind: Any, *rest: Any) -> Any:
    """Make an object without calling its class; stands for ``copyreg._reconstructor``."""
    if not isinstance(kind, EmptyClass):
        raise ValueError("not a class")
    return object.__new__(kind)


# What stands for the names that checkpoints call; every other name stands for an empty class.
SAFE_NAMES = {
    ("torch._utils", "_rebuild_tensor"): SafeFunction(_note_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): SafeFunction(_note_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): SafeFunction(_note_typed_tensor),
    ("torch._tensor", "_rebuild_from_type_v2"): SafeFunction(_note_of_type),
    ("torch._utils", "_rebuild_parameter"): SafeFunction(_note_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): SafeFunction(_note_parameter),
    ("torch.nn.parameter", "Parameter"): SafeFunction(_note_parameter),
    ("copyreg", "_reconstructor"): SafeFunction(_reconstruct),
    ("copy_reg", "_reconstructor"): SafeFunction(_reconstruct),
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "frozenset"): frozenset,
}


class PickleReader(pickle._Unpickler):  # the C one takes gigabytes for a pickle of a few bytes that numbers an object 2147483647
    """An unpickler that imports nothing. dtypes, sizes: the type and bytes of each storage's numbers, by key."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream, encoding="utf-8")
        self.classes: dict[tuple[str, str], EmptyClass] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.sizes: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name: a safe function or container, else an empty class. Nothing is imported."""
        safe = SAFE_NAMES.get((module, name))
        if safe is not None:
            return safe
        return self.classes.setdefault((module, name), EmptyClass(name, (EmptyObject,), {"__module__": module, "__qualname__": name}))

    def persistent_load(self, saved: Any) -> Any:
        """Note a storage."""
        tag, *rest = saved
        if tag == "module":  # old files bring their classes' source text along
            return rest[0]
        storage_class, key, _, count, *view = rest
        dtype = _STORAGE_DTYPES.get(getattr(storage_class, "__qualname__", ""))
        if tag != "storage" or not isinstance(key, str) or dtype is None:
            kind = getattr(storage_class, "__qualname__", storage_class)
            raise FaceLoomError(f"holds numbers of the kind {kind!r}, which are not read here.")
        if not isinstance(count, int) or self.dtypes.get(key, dtype).itemsize != dtype.itemsize:
            raise ValueError("not a storage")
        if key not in self.dtypes or self.sizes[key] < count * dtype.itemsize:
            self.note_storage(key, count * dtype.itemsize)
        self.dtypes[key], self.sizes[key] = dtype, count * dtype.itemsize
        offset = view[0][1] if view and view[0] is not None else 0
        return _Storage(key, dtype, int(offset))


    def note_storage(self, key: str, size: int) -> None:
        """Note the size in bytes that the pickle declares for a storage."""


def _read_zip(stream: BinaryIO) -> tuple[Any, Callable[[_Storage], bytes]]:
    """Read torch's zip format: the object, and a function that reads the numbers of a storage."""
    archive = zipfile.ZipFile(stream)
    names = {info.filename: info for info in archive.infolist()}
    folder = next(name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl"))
    if any(info.compress_type != zipfile.ZIP_STORED for info in names.values()):
        raise FaceLoomError("is a packed archive, not a PyTorch checkpoint; unpack it.")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise FaceLoomError("was saved on a big-endian machine; save it again on a usual one.")
    with archive.open(f"{folder}data.pkl") as pickled:
        data = PickleReader(pickled).load()
    return data, lambda storage: archive.read(f"{folder}data/{storage.key}")


def _read_legacy(stream: BinaryIO) -> tuple[Any, Callable[[_Storage], bytes]]:
    """Read torch's format before 1.6: pickles of a magic number, the version, the machine, the object and the storages' keys, then numbers.

    Returns the object, and a function that reads the numbers of a storage.
    """
    if (PickleReader(stream).load(), PickleReader(stream).load()) != (MAGIC, PROTOCOL):
        raise FaceLoomError("is a Python pickle, not a PyTorch checkpoint.")
    PickleReader(stream).load()
    reader = PickleReader(stream)
    data = reader.load()
    places: dict[str, tuple[int, int]] = {}
    for key in PickleReader(stream).load():
        (count,) = struct.unpack("<q", stream.read(8))
        length = count * reader.dtypes[key].itemsize
        places[key] = stream.tell(), length
        stream.seek(length, 1)

    def read_storage(storage: _Storage) -> bytes:
        start, length = places[storage.key]
        stream.seek(start)
        return stream.read(length)

    return data, read_storage


class _PlainData:
    """Turns what was noted into plain data. Tensors that share numbers in the file share them here."""

    def __init__(self, read_storage: Callable[[_Storage], bytes]) -> None:
        self.read_storage = read_storage
        self.storages: dict[tuple[str, torch.dtype], torch.Tensor] = {}
        self.module_count = 0
        self.converted_dicts: dict[int, dict] = {}

    def convert(self, value: Any) -> Any:
        """Return noted tensors as tensors and modules as state dicts, in dicts too; other values as they are."""
        if isinstance(value, NotedTensor):
            return self.tensor(value)
        if isinstance(value, dict):
            if id(value) not in self.converted_dicts:  # a dict that is in many places is converted once
                self.converted_dicts[id(value)] = {key: self.convert(item) for key, item in value.items() if isinstance(key, str)}
            return self.converted_dicts[id(value)]
        if isinstance(value, EmptyObject) and _is_module(value):
            return StateDict(self.state_dict(value, ""))
        return value

    def state_dict(self, module: EmptyObject, prefix: str) -> dict[str, torch.Tensor]:
        """Collect the tensors of a module and of the modules in it, with ``prefix`` before their names."""
        self.module_count += 1
        if self.module_count > _MAX_MODULES:
            raise FaceLoomError("holds modules within modules without end, so it is refused.")
        state = module.state
        not_saved = state.get("_non_persistent_buffers_set", ())
        saved = {**state["_parameters"], **{name: value for name, value in state.get("_buffers", {}).items() if name not in not_saved}}
        tensors = {f"{prefix}{name}": self.tensor(value) for name, value in saved.items() if isinstance(value, NotedTensor)}
        for name, inner in state["_modules"].items():
            if isinstance(inner, EmptyObject) and _is_module(inner):
                tensors |= self.state_dict(inner, f"{prefix}{name}.")
        return tensors

    def tensor(self, noted: NotedTensor) -> torch.Tensor:
        """Make a tensor of its description."""
        if math.prod(noted.size) == 0:
            return torch.empty(noted.size, dtype=noted.dtype)
        if math.prod(noted.size) > _MAX_NUMBERS:
            raise FaceLoomError("claims more weights than any network has, so it is refused.")
        key = noted.storage.key, noted.dtype
        if key not in self.storages:
            self.storages[key] = torch.frombuffer(bytearray(self.read_storage(noted.storage)), dtype=noted.dtype)
        return self.storages[key].as_strided(noted.size, noted.stride, noted.offset)


def _is_module(value: EmptyObject) -> bool:
    """Whether an object was saved with the state of a ``torch.nn.Module``."""
    state = getattr(value, "state", None)
    return isinstance(state, dict) and all(isinstance(state.get(part), dict) for part in ("_parameters", "_modules"))
