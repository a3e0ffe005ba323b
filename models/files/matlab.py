"""Reads numeric arrays of MATLAB files: MAT 5 (MathWorks, "MAT-File Format"; what MATLAB saves by default) and 7.3, which is HDF5.

scipy reads them as well, but its compiled reader ends the process on damaged files. Here every size is checked against the file first.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ..errors import FaceLoomError
from .damaged import check_model_file
from .declared import Declared, named

_HEADER_BYTES = 128
_HEAD_BYTES = 1024  # of an array: more than its flags, its up to 32 dimensions and its name take
_ARRAY, _COMPRESSED = 14, 15
_COMPLEX = 0x800  # in an array's flags
# Types of stored numbers, and classes of arrays, by their numbers in the file.
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_LAST_CLASS = 15  # functions and objects follow, which are stored in other ways


class _Element(NamedTuple):
    """A data element. kind: its type. data: without the tag. end: where the next one begins, counted from the start of this one's tag."""

    kind: int
    data: memoryview
    end: int


def read_matlab(path: str | os.PathLike, names: Collection[str]) -> dict[str, np.ndarray]:
    """Read the arrays called ``names`` (those that are there) with the shapes and number types that MATLAB gives them.

    FaceLoomError where the file is no whole MATLAB file, declares more than it can hold, or where one of the arrays has no plain numbers.
    """
    path = Path(path)
    check_model_file(path)
    with path.open("rb") as stream:
        header = stream.read(_HEADER_BYTES)
        if header[124:128] not in (b"\0\1IM", b"\1\0MI"):
            return _read_hdf5(path, names)
        order = "<" if header.endswith(b"IM") else ">"
        with named(path):
            return dict(_read_arrays(stream, path.stat().st_size, order, names, Declared(path)))


def _read_arrays(stream: BinaryIO, size: int, order: str, names: Collection[str], declared: Declared) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and array of those of ``names`` that the file has, which is ``size`` bytes long. order: of the bytes, ``<`` or ``>``."""
    at = _HEADER_BYTES
    while at < size:
        stream.seek(at)
        kind, length = np.frombuffer(_whole(stream.read(8), 8), f"{order}u4").tolist()
        start, at = at + 8, at + 8 + length
        if kind not in (_ARRAY, _COMPRESSED) or at > size:
            raise _damaged()
        head = stream.read(min(length, 4 * _HEAD_BYTES))
        head = _unpack(head, _HEAD_BYTES)[8:] if kind == _COMPRESSED else head
        if (name := _Header.read(memoryview(head), order).name) not in names:
            continue
        stream.seek(start)
        data = stream.read(length)
        if kind == _COMPRESSED:
            inner, length = np.frombuffer(_whole(_unpack(data, 8), 8), f"{order}u4").tolist()
            if inner != _ARRAY:
                raise _damaged()
            declared.add(length)
            data = _unpack(data, 8 + length)[8:]
        yield name, _read_array(memoryview(_whole(data, length)), order, declared)


class _Header(NamedTuple):
    """What stands before the numbers of an array. flags: class in the lowest byte. name: "" for functions and objects. end: where the
    numbers begin."""

    flags: int
    shape: tuple[int, ...]
    name: str
    end: int

    @classmethod
    def read(cls, data: memoryview, order: str) -> _Header:
        flags = _read_element(data, 0, order)
        if flags.kind != 6 or len(flags.data) != 8:
            raise _damaged()
        word = int.from_bytes(flags.data[:4], "little" if order == "<" else "big")
        if word & 0xFF > _LAST_CLASS:
            return cls(word, (), "", 0)
        shape = _read_element(data, flags.end, order)
        name = _read_element(data, flags.end + shape.end, order)
        if shape.kind != 5 or len(shape.data) % 4 or name.kind not in (1, 16):
            raise _damaged()
        sizes = np.frombuffer(shape.data, f"{order}i4").tolist()
        if not 2 <= len(sizes) <= 32 or min(sizes) < 0:
            raise _damaged()
        return cls(word, tuple(sizes), bytes(name.data).decode("utf-8", "replace"), flags.end + shape.end + name.end)


def _read_array(data: memoryview, order: str, declared: Declared) -> np.ndarray:
    """Read the array of a whole element of the type matrix."""
    header = _Header.read(data, order)
    kind = _CLASSES.get(header.flags & 0xFF)
    if kind is None or header.flags & _COMPLEX:
        raise FaceLoomError(f"holds something else than real numbers in {header.name[:63]}; fetch it again.")
    numbers = _read_element(data, header.end, order)
    stored = _STORED.get(numbers.kind)
    if stored is None or len(numbers.data) != math.prod(header.shape) * np.dtype(stored).itemsize:
        raise _damaged()
    declared.add(math.prod(header.shape) * np.dtype(kind).itemsize)
    return np.frombuffer(numbers.data, order + stored).astype(kind).reshape(header.shape, order="F")


def _read_element(data: memoryview, at: int, order: str) -> _Element:
    """Read the element whose tag is at ``at``; up to four bytes of data lie in the tag itself."""
    first, length = np.frombuffer(_whole(data[at : at + 8], 8), f"{order}u4").tolist()
    if first >> 16:
        if first >> 16 > 4:
            raise _damaged()
        return _Element(first & 0xFFFF, data[at + 4 : at + 4 + (first >> 16)], 8)
    return _Element(first, memoryview(_whole(data[at + 8 : at + 8 + length], length)), 8 + -(-length // 8) * 8)


def _unpack(packed: bytes, most: int) -> bytes:
    """Unpack the first ``most`` bytes."""
    try:
        return zlib.decompressobj().decompress(packed, most)
    except zlib.error as error:
        raise _damaged() from error


def _whole(data: bytes | memoryview, length: int) -> bytes | memoryview:
    """Return ``data``; FaceLoomError unless it is as long as was stated."""
    if len(data) != length:
        raise _damaged()
    return data


def _read_hdf5(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Read arrays of a MATLAB 7.3 file, whose dimensions are stored in the other order."""
    from .hdf5 import open_hdf5, read_dataset

    declared = Declared(path)
    with open_hdf5(str(path), str(path)) as file:
        return {name: read_dataset(file[name], declared, str(path)).numpy().T for name in names if name in file}


def _damaged() -> FaceLoomError:
    return FaceLoomError("is not a whole MATLAB file; fetch it again.")
