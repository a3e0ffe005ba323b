"""Writes files whole or not at all, and remembers the hashes of files between runs."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import FaceLoomError
from ..progress import Progress, silent
from .catalogue import Row
from .home import cache_folder

# Beside downloaded files: the sha256 that each had when it was fetched.
HASH_RECORD = "faceloom_hashes.json"


# What fsync answers on file systems that cannot do it.
_NO_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}


@contextmanager
def replacement_path(path: str | os.PathLike, folder: Path | None = None) -> Iterator[Path]:
    """Give a path in the same folder to write a file to, for libraries that open files themselves. The file becomes ``path`` when the block
    ends well and all of it is on the disk, and is deleted when not (Ctrl-C included).

    folder: one on the same disk to write in instead, whose name says whose file it is if the program is killed meanwhile. Parent folders
    are made. Where ``path`` is a link, the file it points to is replaced; a file that is replaced hands on its permissions.
    OSError where folders cannot be made or ``path`` cannot be replaced.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder is not None and os.stat(folder).st_dev == os.stat(path.parent).st_dev:
        temporary = folder / "whole.part"
    else:
        temporary = path.with_name(f".{secrets.token_hex(4)}.part")  # short: the name of ``path`` may be as long as names can be
    try:
        yield temporary
        _flush(temporary)
        with suppress(OSError):  # there is no file yet, or the file system has no permissions
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file is on the disk; OSError where it does not fit there, which some file systems notice no sooner."""
    with open(path, "r+b") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _NO_FSYNC:
                raise


@contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a file for writing that becomes ``path`` when the block ends well; as ``replacement_path`` does."""
    with replacement_path(path) as temporary, open(temporary, "x+b") as file:
        yield file


def write_file(path: str | os.PathLike, data: bytes | memoryview) -> None:
    """Write ``data`` to ``path``, whole or not at all, as ``replacement_path`` does. FaceLoomError where that cannot be done."""
    try:
        with replacement_path(path) as temporary:
            written = temporary.write_bytes(data)
            if not written == temporary.stat().st_size == len(data):
                raise OSError(errno.EIO, f"{temporary.stat().st_size} of {len(data)} bytes arrived")
    except OSError as error:
        raise FaceLoomError(f"{path} cannot be written ({error.strerror or error}).") from error


def check_writable(folder: str | os.PathLike) -> None:
    """Raise FaceLoomError unless files can be made in ``folder``, which is made if it is not there."""
    folder = Path(folder)
    probe = folder / f".faceloom-{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise FaceLoomError(f"Nothing can be written to {folder} ({error.strerror or error}).") from error


def file_hash(path: Path, progress: Progress = silent) -> str:
    """Return the sha256 of a file. It is remembered in the cache folder by path, size and time of change, and only computed anew when one
    of these differs. ``progress`` counts bytes. FaceLoomError where the file cannot be read."""
    store = cache_folder() / "hashes.json"
    known = read_json(store)
    try:
        real = path.resolve()
        status = real.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        if known.get(str(real), [])[:2] == stamp:
            return known[str(real)][2]
        digest = compute_hash(real, progress)
    except OSError as error:
        raise FaceLoomError(f"{path} cannot be read ({error.strerror or error}).") from error
    write_json(store, {**read_json(store), str(real): [*stamp, digest]})
    return digest


def compute_hash(path: Path, progress: Progress = silent) -> str:
    """Compute the sha256 of a file, reading it in pieces. ``progress`` counts bytes."""
    total, done, sha = path.stat().st_size, 0, hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 22):
            sha.update(piece)
            done += len(piece)
            progress(done, total)
    return sha.hexdigest()


def expected_hash(row: Row, path: Path) -> str | None:
    """Return the sha256 the file must have: the one recorded beside it when it was fetched, else the catalogue's; None if there is none."""
    return read_json(path.parent / HASH_RECORD).get(path.name) or row.sha256


def record_hash(path: Path, sha256: str) -> None:
    """Record beside a file the sha256 it had when it was fetched: the catalogue does not pin it, or the user chose another file."""
    write_json(path.parent / HASH_RECORD, {**read_json(path.parent / HASH_RECORD), path.name: sha256})


def read_json(path: Path) -> dict:
    """Read a JSON object. Empty if the file is not there or is damaged: such files hold only what can be worked out again."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def write_json(path: Path, data: dict) -> None:
    """Write a JSON object. Where the folder cannot be written to, nothing is written and nothing is raised."""
    with suppress(FaceLoomError):
        write_file(path, json.dumps(data, indent=1, sort_keys=True).encode("utf-8"))
