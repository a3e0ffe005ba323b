"""Finds model files by the names that widgets, command lines and companions use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

from ..errors import FaceLoomError
from ..progress import Progress, silent
from .cache import expected_hash, file_hash
from .catalogue import Row, catalogue, guess_row, row_by_file_name, row_by_hash, row_by_name, rows
from .folders import Folders, ModelFile, default_folders
from .terminal import command

# The folders whose files a loader of each kind lists also where the catalogue does not know them.
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
    """A file to load. row: the catalogue's; None where the catalogue does not know the file. note: what the user should know, or ""."""

    path: Path
    row: Row | None
    note: str = ""


@dataclass(frozen=True)
class Choice:
    """An entry of a loader's list. name: to show. path: of the file, None where it is not on disk. row: the catalogue's, None where it does
    not know the file."""

    name: str
    path: Path | None
    row: Row | None


def find_by_name(name: str, folders: Folders, kind: str | None = None, progress: Progress = silent) -> FoundFile:
    """Find the file for a row name, a file name, or the name of a ``Choice``.

    A file of another name is recognized by its hash; one of the right name with another hash is used, and the note says so. kind: of
    files the catalogue does not know, the kind of the row that their name is compared with. ``progress`` counts hashed bytes. FaceLoomError
    where the file is missing: it names the file, its folder, its licence and the command that fetches it.
    """
    check_name(name)
    files = list(folders.files())
    row = _row_or_none(name)
    if row is None or "*" in row.file:
        return _find_unknown(name, kind, files, folders, progress)
    same_name = (file.path for file in files if file.path.name == name and file.belongs(row))
    path = next(same_name, None) or _first_of_row(_by_name(files), row)
    if path is not None:
        return FoundFile(path, row, _note_on_hash(path, row, progress))
    path = _find_by_hash(row, files, progress)
    if path is None:
        raise missing_file_error(row, folders)
    return FoundFile(path, row, _note_on_name(path, row))


def find_by_path_or_name(path_or_name: str | os.PathLike | FoundFile, kind: str, folders: Folders | None = None) -> FoundFile:
    """Find a file by its path, as command lines name it, else by ``find_by_name``. Of a path, the row is the one with the file's name, else
    the one that the name begins with.

    A ``FoundFile`` is returned as it is. Names that come from others (a shared workflow) may not be taken for paths: find them with
    ``find_by_name`` first.
    """
    if isinstance(path_or_name, FoundFile):
        return path_or_name
    path = Path(path_or_name)
    if path.is_file():
        return FoundFile(path, row_by_file_name(path.name) or guess_row(path.name, kind))
    return find_by_name(str(path_or_name), folders or default_folders(), kind)


def list_choices(kind: str, folders: Folders) -> list[Choice]:
    """List what a loader of a kind can load: files on disk first, those the catalogue does not know among them, then rows without a file.

    Nothing is opened or hashed.
    """
    files = list(folders.files())
    by_name, known = _by_name(files), []
    for row in rows(kind):
        if "*" in row.file:
            known += [Choice(file.name, file.path, row) for file in files if file.belongs(row)]
        else:
            known.append(Choice(row.file, _first_of_row(by_name, row), row))
    return _in_list_order(known, _unknown_files(files, KIND_FOLDERS.get(kind, ()), folders))


def list_research_files(kind: str, folders: Folders, places: Sequence[str] = ()) -> list[Choice]:
    """List the research files that a loader of a kind can load: every file of a row that is on disk, also under its other names, and files
    of the same folders, and of ``places`` below the models folder, that the catalogue does not know; then rows without a file."""
    research_rows = [row for row in rows("research") if row.loads == kind]
    if not research_rows and not places:  # most kinds: their loaders need not go through the folders again
        return []
    files = list(folders.files())
    by_name, known = _by_name(files), []
    for row in research_rows:
        likely = files if "*" in row.file else [file for name in row.names for file in by_name.get(name.lower(), ())]
        on_disk = [Choice(file.path.name, file.path, row) for file in likely if file.belongs(row)]
        known += on_disk or [Choice(row.file, None, row)] * ("*" not in row.file)
    return _in_list_order(known, _unknown_files(files, [*(row.folder for row in research_rows), *places], folders))


def _unknown_files(files: list[ModelFile], places: Sequence[str], folders: Folders) -> list[Choice]:
    """List the files of these folders below the models folder that the catalogue does not know."""
    bases = {base for place in places for base in _bases_of(place, folders)}
    return [Choice(file.name, file.path, None) for file in files if file.path.parent in bases and row_by_file_name(file.path.name) is None]


def _in_list_order(known: list[Choice], unknown: list[Choice]) -> list[Choice]:
    """Put the files on disk before the rows without one; of several choices with the same name and row the first is kept."""
    choices = [choice for choice in [*known, *unknown] if choice.path] + [choice for choice in known if not choice.path]
    return list({(choice.name, choice.row): choice for choice in reversed(choices)}.values())[::-1]


@overload
def find_companion(path: Path, *names: str, folders: Folders | None = None, inside: Sequence[str] = (), what: str = "",
                   needed: Literal[True] = True) -> Path: ...
@overload
def find_companion(path: Path, *names: str, folders: Folders | None = None, inside: Sequence[str] = (), what: str = "",
                   needed: bool) -> Path | None: ...


def find_companion(path: Path, *names: str, folders: Folders | None = None, inside: Sequence[str] = (), what: str = "",
                   needed: bool = True) -> Path | None:
    """Find a file that the file ``path`` needs: of the catalogue rows ``names``, the first whose file there is.

    It is looked for in the folder of ``path``, in that folder's subfolders ``inside``, then in ``folders``. Where it is missing, None is
    returned if it is not ``needed``; else FaceLoomError, which calls the file ``what`` and tells how to get the first row's.
    """
    wanted = [catalogue()[name] for name in names]
    near = [path.parent / place / file for place in ("", *inside) for row in wanted for file in row.names]
    found = next((file for file in near if file.is_file()), None)
    if found is None and folders is not None:
        found = next(filter(None, (_first_of_row(_by_name(folders.files()), row) for row in wanted)), None)
    if found is None and needed:
        row = wanted[0]
        described = f"{what} ({row.file}, {row.terms})" if what else f"{row.file} ({row.terms})"
        raise FaceLoomError(f"{path.name} needs {described}, which is not on this machine: {how_to_get(row, path.parent)}.")
    return found


def how_to_get(row: Row, place: Path) -> str:
    """Tell the user how to get a row's file into the folder ``place``: the command, or where to fetch it by hand."""
    if row.by_hand:
        return f"get it from {row.page} and put it into {place}"
    where = f" from {row.urls[0]}" if row.urls else ""
    return f"run `{command('models', 'get', row.name)}`, or put the file{where} into {place}"


def missing_file_error(row: Row, folders: Folders) -> FaceLoomError:
    """Return the error for a row whose file is in none of the folders; it tells how to get it."""
    return FaceLoomError(f"{row.file} ({row.terms}) is not on this machine: {how_to_get(row, folders.target(row).parent)}.")


def check_name(name: str) -> None:
    """Raise FaceLoomError unless ``name`` is the plain name of a file below a models folder: no absolute path, no ``..``."""
    if not name or name.startswith(("/", "~")) or re.search(r"[\\:\0]", name) or ".." in name.split("/"):
        raise FaceLoomError(f"{name!r} is not the name of a model file; choose one from the list.")


def _bases_of(place: str, folders: Folders) -> tuple[Path, ...]:
    """Return the paths of a folder such as ``faceloom/swap`` in all models folders."""
    key, _, rest = place.partition("/")
    return tuple(base / rest for base in folders.bases(key))


def _by_name(files: Iterable[ModelFile]) -> dict[str, list[ModelFile]]:
    """Group files by their names in small letters, in search order."""
    by_name: dict[str, list[ModelFile]] = {}
    for file in files:
        by_name.setdefault(file.path.name.lower(), []).append(file)
    return by_name


def _first_of_row(by_name: Mapping[str, list[ModelFile]], row: Row) -> Path | None:
    """Return a row's file, if there is one: under its own name before its aliases, then in search order."""
    return next((file.path for name in row.names for file in by_name.get(name.lower(), ()) if file.belongs(row)), None)


def _row_or_none(name: str) -> Row | None:
    try:
        return row_by_name(name)
    except FaceLoomError:
        return None


def _find_unknown(name: str, kind: str | None, files: list[ModelFile], folders: Folders, progress: Progress) -> FoundFile:
    """Find a file whose name the catalogue does not know, or knows only by a pattern."""
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
        return FoundFile(match.path, row, _note_on_name(match.path, row))
    row = guess_row(match.path.name, kind)
    like = f"it is treated like {row.name} because of its name" if row else "its contract is read from the file"
    return FoundFile(match.path, row, f"{match.path.name} is not in the catalogue; {like}.")


def _find_by_hash(row: Row, files: list[ModelFile], progress: Progress) -> Path | None:
    """Find a file of another name with one of the row's hashes. Only files with the row's suffix and size are read."""
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


def _note_on_name(path: Path, row: Row) -> str:
    return f"{path.name} was recognized as {row.name} by its hash."


def _note_on_hash(path: Path, row: Row, progress: Progress) -> str:
    """Return "" if the file has a hash that the catalogue or the first download states, or if neither states one; else a note."""
    expected = expected_hash(row, path)
    size_fits = row.bytes is None or bool(row.also) or row.bytes == path.stat().st_size
    if expected is None or (size_fits and file_hash(path, progress) in {expected, *row.hashes}):
        return ""
    return f"{path.name} is not the file the catalogue knows as {row.name}; it is used because of its name."
