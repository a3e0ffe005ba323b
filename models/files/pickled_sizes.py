"""Checks what a PyTorch checkpoint declares before torch reads it.

torch believes the pickle: it makes storages of the size that is stated there, whatever the file holds, and tensors that repeat one number a
thousand million times.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO

from ..errors import FaceLoomError
from .declared import SHARED, Declared, check_zip, named
from .unpickle import MAGIC, PROTOCOL, SAFE_NAMES, EmptyClass, EmptyObject, NotedTensor, PickleReader, SafeFunction, is_zip


def check_sizes(path: Path) -> None:
    """Raise FaceLoomError where a PyTorch file, of either format, declares more numbers than it holds. No number is read. A damaged file
    raises one of ``unpickle.READ_ERRORS``."""
    with named(path), path.open("rb") as stream:
        if is_zip(stream):
            _check_zip_sizes(stream, path)
        else:
            _check_legacy_sizes(stream, path)


class _AnyClass(EmptyClass):
    """The type of the classes of ``_SizeReader``: calling one gives an empty object, whatever its name, since nothing is kept."""

    def __call__(cls: Any, *args: Any, **kwargs: Any) -> Any:
        return cls.__new__(cls, *args)


class _AnyObject(EmptyObject, metaclass=_AnyClass):
    """An empty object. ValueError for what torch would make as large as the pickle says, such as ``torch.FloatTensor(9999999999)``."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _AnyObject:
        name = cls.__qualname__
        tensor = cls.__module__.split(".")[0] == "torch" and (name.startswith("_rebuild") or name.endswith(("Tensor", "Storage")))
        if (tensor and args) or (name == "bytearray" and any(isinstance(value, int) for value in args)):
            raise ValueError("numbers that are not in the file")
        return object.__new__(cls)


class _SizeReader(PickleReader):
    """Reads a pickle for the sizes that it declares.

    held: bytes that the file has for each storage, by key; None where only their sum is known to be in the file.
    """

    def __init__(self, stream: IO[bytes], path: Path, held: Mapping[str, int] | None = None) -> None:
        super().__init__(stream)
        self.tensors, self.held, self.left = Declared(path, SHARED), held, path.stat().st_size

    def find_class(self, module: str, name: str) -> Any:
        safe = SAFE_NAMES.get((module, name))
        if safe is None:
            return self.classes.setdefault((module, name), _AnyClass(name, (_AnyObject,), {"__module__": module, "__qualname__": name}))
        return SafeFunction(partial(self.count, safe)) if name.startswith("_rebuild_tensor") else safe

    def count(self, make: Callable[..., NotedTensor], *arguments: Any) -> NotedTensor:
        """Note a tensor and count its bytes."""
        noted = make(*arguments)
        self.tensors.add(math.prod(noted.size) * noted.dtype.itemsize)
        return noted

    def note_storage(self, key: str, size: int) -> None:
        self.left -= size
        if size > (self.left + size if self.held is None else self.held.get(key, 0)):
            raise ValueError("a storage that is larger than what the file has for it")


def _check_zip_sizes(stream: BinaryIO, path: Path) -> None:
    """Check the entries of torch's zip format, then what its pickle says of them."""
    archive = zipfile.ZipFile(stream)
    check_zip(archive, path)
    sizes = {info.filename: info.file_size for info in archive.infolist()}
    pickles = [name for name in sizes if name.lower().endswith("/data.pkl")]
    if len(pickles) != 1:
        raise FaceLoomError("is a zip file but not a PyTorch checkpoint; unpack it.")
    folder = f"{pickles[0][: -len('data.pkl')]}data/"
    held = {name.removeprefix(folder): size for name, size in sizes.items() if name.startswith(folder)}
    with archive.open(pickles[0]) as pickled:
        _SizeReader(pickled, path, held).load()


def _check_legacy_sizes(stream: BinaryIO, path: Path) -> None:
    """Check what the pickle of torch's format before 1.6 declares."""
    if (PickleReader(stream).load(), PickleReader(stream).load()) == (MAGIC, PROTOCOL):
        PickleReader(stream).load()
        _SizeReader(stream, path).load()
