"""One rule for files of strangers: what a file declares may not be much larger than what it holds.

A file of a few kilobytes can say that it holds a terabyte, and a reader that believes it fills the memory or the disk. Every reader adds up
here what a file declares, before it reads it.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import FaceLoomError

# How many bytes one byte of a file may stand for: weights hardly shrink when they are packed.
PACKED = 8
# The same where nothing is packed, but where one tensor may have several names.
SHARED = 4


@contextmanager
def named(path: str | os.PathLike) -> Iterator[None]:
    """Put the file's name before the errors of the block, which say what the file does."""
    try:
        yield
    except FaceLoomError as error:
        raise FaceLoomError(f"{Path(path).name} {error}") from error


class Declared:
    """Adds up what a file declares, in bytes. times: how many bytes one byte of the file may stand for."""

    def __init__(self, path: str | os.PathLike, times: int = PACKED) -> None:
        self._held, self._times, self._total = os.stat(path).st_size, times, 0

    def add(self, size: int) -> None:
        """Count ``size`` bytes more. FaceLoomError where it is more than the file can hold."""
        self._total += size
        if self._total > self._held * self._times:
            raise FaceLoomError(f"declares at least {_bytes(self._total)} but has only {_bytes(self._held)}, as files do that were "
                                "made to fill the memory or the disk, so it is refused; fetch it from another place.")


def check_zip(archive: zipfile.ZipFile, path: str | os.PathLike) -> None:
    """Raise FaceLoomError unless the entries of the zip file ``path`` fit into it and have different names (of two readers, one could take
    the first entry and check the second)."""
    declared, names = Declared(path), set[str]()
    for info in archive.infolist():
        declared.add(info.file_size)
        if info.filename.lower() in names:
            raise FaceLoomError(f"holds two entries named {info.filename}, which no program writes, so it is refused; fetch it from "
                                "another place.")
        names.add(info.filename.lower())


def _bytes(size: float) -> str:
    """Write a size in the unit that suits it."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
