"""Files that are written whole or not at all, and what is remembered about files between runs."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import FaceLoomError
from ..progress import Progress, silent
from .catalogue import Row


@contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file open for writing that becomes ``path`` when the block ends well, and vanishes when it does not (Ctrl-C included).
    Parent folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "x+b") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: str | os.PathLike) -> None:
    """Raise FaceLoomError unless files can be made in ``folder`` (which is made if it is not there)."""
    folder = Path(folder)
    probe = folder / f".faceloom-{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise FaceLoomError(f"Nothing can be written to {folder} ({error.strerror or error}).") from error

HASH_RECORD = "faceloom_hashes.json"


def cache_folder() -> Path:
    """``FACELOOM_CACHE``, else ``faceloom`` in the user's cache folder."""
    if "FACELOOM_CACHE" in os.environ:
        return Path(os.environ["FACELOOM_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(base) / "faceloom"


def file_hash(path: Path, progress: Progress = silent) -> str:
    """sha256 of a file, remembered by path, size and time of change in the user's cache folder."""
    store = cache_folder() / "hashes.json"
    known = read_json(store)
    try:
        real = path.resolve()
        status = real.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        if known.get(str(real), [])[:2] == stamp:
            return known[str(real)][2]
        digest = hash_stream(real, progress)
    except OSError as error:
        raise FaceLoomError(f"{path} cannot be read ({error.strerror or error}).") from error
    write_json(store, {**read_json(store), str(real): [*stamp, digest]})
    return digest


def hash_stream(path: Path, progress: Progress = silent) -> str:
    """sha256 of a file, read in pieces."""
    total, done, sha = path.stat().st_size, 0, hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 22):
            sha.update(piece)
            done += len(piece)
            progress(done, total)
    return sha.hexdigest()


def pinned_hash(row: Row, path: Path) -> str | None:
    """What the file must hash to: what was recorded beside it when it was fetched, else the catalogue's sha256."""
    return read_json(path.parent / HASH_RECORD).get(path.name) or row.sha256


def record_hash(path: Path, sha256: str) -> None:
    """Remember beside a file what it was when it was fetched: the catalogue does not pin it, or the user chose another."""
    write_json(path.parent / HASH_RECORD, {**read_json(path.parent / HASH_RECORD), path.name: sha256})


def read_json(path: Path) -> dict:
    """A JSON object; empty if the file is not there or was spoilt (it only ever holds what can be worked out again)."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def write_json(path: Path, data: dict) -> None:
    """Write it whole or not at all; a folder that cannot be written only costs the memory."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(data, indent=1, sort_keys=True), encoding="utf-8")
        os.replace(part, path)
    except OSError:
        with suppress(OSError):
            part.unlink()
