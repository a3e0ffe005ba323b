"""Finds model files by the names that widgets, command lines and companions use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import FaceLoomError
from ..progress import Progress, silent
from .cache import expected_hash, file_hash
from .catalogue import Row, catalogue, guess_row, row_by_file_name, row_by_hash, row_by_name, rows
from .folders import Folders, ModelFile, default_folders
from .terminal import command

# A file that the catalogue does not know is offered for the kind that its folder is for.
KIND_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "swap": ("insightface", "reswapper", "hyperswap", "faceloom/swap"),
    "detector": ("facedetection", "faceloom/detectors", "ultralytics/bbox"),
    "recognizer": ("faceloom/recognizers",),
    "parser": ("faceloom/parsers",),
    "occluder": ("sams", "faceloom/parsers"),
    "restorer": ("facerestore_models", "faceloom/restorers"),
}


@dataclass(frozen=True)
class FoundFile:
    """A file to load. row: what the catalogue says of it (None: nothing, read the graph). note: what the user should know, or ""."""

    path: Path
    row: Row | None
    note: str = ""


@dataclass(frozen=True)
class Choice:
    """An entry of a loader's list: the name to show, the file (None: not on disk), the catalogue's row (None: not in it)."""

    name: str
    path: Path | None
    row: Row | None


def find_by_name(name: str, folders: Folders, kind: str | None = None, progress: Progress = silent) -> FoundFile:
    """The file for a row name, a file name, or the name of a ``Choice``.

    A file of another name is recognized by its hash; one of the right name with another hash is used, and the note says so. A missing
    file is an error that names the file, its folder, its licence and the command that fetches it. ``progress`` counts hashed bytes.
    """
    check_name(name)
    files = list(folders.files())
    row = _row_or_none(name)
    if row is None or "*" in row.file:
        return _find_foreign(name, kind, files, folders, progress)
    named = (file.path for file in files if file.path.name == name and file.belongs(row))
    path = next(named, None) or _first(_by_name(files), row)
    if path is not None:
        return FoundFile(path, row, _note(path, row, progress))
    by_hash = _find_by_hash(row, files, progress)
    if by_hash is None:
        raise missing_file_error(row, folders)
    return FoundFile(by_hash, row, f"{by_hash.name} was recognized as {row.name} by its hash.")


def find_by_path_or_name(path_or_name: str | os.PathLike | FoundFile, kind: str, folders: Folders | None = None) -> FoundFile:
    """A file by its path (the command line's way), else by ``find``; with the row of its name or of what its name begins with.

    What ``find`` found is passed on: names that come from others must go through it and never be taken for paths.
    """
    if isinstance(path_or_name, FoundFile):
        return path_or_name
    path = Path(path_or_name)
    if path.is_file():
        return FoundFile(path, row_by_file_name(path.name) or guess_row(path.name, kind))
    return find_by_name(str(path_or_name), folders or default_folders(), kind)


def list_choices(kind: str, folders: Folders) -> list[Choice]:
    """What a loader can list: the catalogue's rows of a kind, those on disk first, and files of the kind's folders it does not know.

    Nothing is opened or hashed here.
    """
    files = list(folders.files())
    named, known = _by_name(files), []
    for row in rows(kind):
        if "*" in row.file:
            known += [Choice(file.name, file.path, row) for file in files if file.belongs(row)]
        else:
            known.append(Choice(row.file, _first(named, row), row))
    return _listed(known, _foreign(files, KIND_FOLDERS.get(kind, ()), folders))


def list_research_files(kind: str, folders: Folders) -> list[Choice]:
    """Like ``available``, of the research files that the loader of a kind opens: every form of one that is on disk, and files of the
    same folders the catalogue does not know."""
    engines = [row for row in rows("research") if row.loads == kind]
    if not engines:  # most kinds: their loaders need not go through the folders again
        return []
    files = list(folders.files())
    named, known = _by_name(files), []
    for row in engines:
        likely = files if "*" in row.file else [file for name in row.names for file in named.get(name.lower(), ())]
        here = [Choice(file.path.name, file.path, row) for file in likely if file.belongs(row)]
        known += here or [Choice(row.file, None, row)] * ("*" not in row.file)
    return _listed(known, _foreign(files, tuple(dict.fromkeys(row.folder for row in engines)), folders))


def _foreign(files: list[ModelFile], places: Sequence[str], folders: Folders) -> list[Choice]:
    """Files of these folders that the catalogue does not know."""
    bases = {base for folder in places for base in _bases_of(folder, folders)}
    return [Choice(file.name, file.path, None) for file in files if file.path.parent in bases and row_by_file_name(file.path.name) is None]


def _listed(known: list[Choice], foreign: list[Choice]) -> list[Choice]:
    """Those on disk first, every name of a row once."""
    listed = [choice for choice in [*known, *foreign] if choice.path] + [choice for choice in known if not choice.path]
    return list({(choice.name, choice.row): choice for choice in reversed(listed)}.values())[::-1]


def find_companion(path: Path, *names: str, folders: Folders | None = None, inside: Sequence[str] = (), what: str = "", needed: bool = True
              ) -> Path | None:
    """The file of the first of these catalogue rows that is there: in the folder of ``path`` or in those called ``inside`` in it, else
    where ``folders`` have it.

    A missing one is an error that tells how to get the first row's file and calls it ``what``; None if it is not ``needed``.
    """
    wanted = [catalogue()[name] for name in names]
    near = [path.parent / place / file for place in ("", *inside) for row in wanted for file in row.names]
    found = next((file for file in near if file.is_file()), None)
    if found is None and folders is not None:
        found = next(filter(None, (_first(_by_name(folders.files()), row) for row in wanted)), None)
    if found is None and needed:
        row = wanted[0]
        called = f"{what} ({row.file}, {row.terms})" if what else f"{row.file} ({row.terms})"
        raise FaceLoomError(f"{path.name} needs {called}, which is not on this machine: {how_to_get(row, path.parent)}.")
    return found


def how_to_get(row: Row, place: Path) -> str:
    """What to do for a file that should be in the folder ``place``."""
    if row.by_hand:
        return f"get it from {row.page} and put it into {place}"
    where = f" from {row.urls[0]}" if row.urls else ""
    return f"run `{command('models', 'get', row.name)}`, or put the file{where} into {place}"


def missing_file_error(row: Row, folders: Folders) -> FaceLoomError:
    """The error for a file that is not there."""
    return FaceLoomError(f"{row.file} ({row.terms}) is not on this machine: {how_to_get(row, folders.target(row).parent)}.")


def check_name(name: str) -> None:
    """Refuse what is not the plain name of a file below a models folder."""
    if not name or name.startswith(("/", "~")) or re.search(r"[\\:\0]", name) or ".." in name.split("/"):
        raise FaceLoomError(f"{name!r} is not the name of a model file; choose one from the list.")


def _bases_of(folder: str, folders: Folders) -> tuple[Path, ...]:
    key, _, rest = folder.partition("/")
    return tuple(base / rest for base in folders.bases(key))


def _by_name(files: Iterable[ModelFile]) -> dict[str, list[ModelFile]]:
    """The files by their names in small letters, in search order."""
    named: dict[str, list[ModelFile]] = {}
    for file in files:
        named.setdefault(file.path.name.lower(), []).append(file)
    return named


def _first(named: Mapping[str, list[ModelFile]], row: Row) -> Path | None:
    """The row's file: its own name before its aliases, then in search order."""
    return next((file.path for alias in row.names for file in named.get(alias.lower(), ()) if file.belongs(row)), None)


def _row_or_none(name: str) -> Row | None:
    try:
        return row_by_name(name)
    except FaceLoomError:
        return None


def _find_foreign(name: str, kind: str | None, files: list[ModelFile], folders: Folders, progress: Progress) -> FoundFile:
    """A file the catalogue does not know by name."""
    match = next((file for file in files if name in (file.name, f"{file.key}/{file.name}", file.path.name)), None)
    if match is None:
        if row_by_name(name).name == name:  # of files of any name; says what names are near one that is none
            raise missing_file_error(row_by_name(name), folders)
        raise FaceLoomError(f"{name} is not in any of the models folders: {', '.join(str(root) for root in folders.roots)}.")
    row = row_by_file_name(match.path.name)
    if row is not None:
        return FoundFile(match.path, row)
    row = row_by_hash(file_hash(match.path, progress))
    if row is not None:
        return FoundFile(match.path, row, f"{match.path.name} was recognized as {row.name} by its hash.")
    row = guess_row(match.path.name, kind)
    like = f"it is treated like {row.name} because of its name" if row else "its contract is read from the file"
    return FoundFile(match.path, row, f"{match.path.name} is not in the catalogue; {like}.")


def _find_by_hash(row: Row, files: list[ModelFile], progress: Progress) -> Path | None:
    """A file of another name that is this row's, by hash. Only files that could be it are read."""
    suffixes = {Path(name).suffix.lower() for name in row.names}
    if not row.hashes:
        return None
    for file in files:
        if file.path.suffix.lower() not in suffixes or row_by_file_name(file.path.name) is not None:
            continue
        with suppress(OSError, FaceLoomError):  # one that is gone or cannot be read is not it
            size_fits = row.bytes is None or row.also or file.path.stat().st_size == row.bytes
            if size_fits and file_hash(file.path, progress) in row.hashes:
                return file.path
    return None


def _note(path: Path, row: Row, progress: Progress) -> str:
    """Empty if the file is one the catalogue (or the first download) vouches for."""
    pinned = expected_hash(row, path)
    likely = row.bytes is None or bool(row.also) or row.bytes == path.stat().st_size
    if pinned is None or (likely and file_hash(path, progress) in {pinned, *row.hashes}):
        return ""
    return f"{path.name} is not the file the catalogue knows as {row.name}; it is used because of its name."
