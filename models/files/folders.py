"""Where model files are: every folder that FaceLoom, ReActor, FaceFusion, IP-Adapter or InstantID users keep them in.

Names come from widgets and command lines, so they are never used as paths: a name is compared with the files that are there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..errors import FaceLoomError
from ..progress import Progress, silent
from .catalogue import Row, catalogue, guess_row, row_named, row_of_file, row_of_hash, rows
from .extra_paths import extra_paths
from .terminal import command

SUFFIXES = {".onnx", ".dfm", ".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".task", ".h5", ".keras", ".tar", ".mat"}

# Folders below a models folder (also ComfyUI's folder keys) and how many levels down files lie in them. insightface keeps its packs in
# insightface/models/NAME, where unzipping antelopev2 makes one level more; FaceFusion keeps all in one folder, which is a root here.
KEYS: Mapping[str, int] = {
    "faceloom": 2, "insightface": 4, "reswapper": 1, "hyperswap": 1, "facerestore_models": 1, "facedetection": 1, "facexlib": 1,
    "ultralytics": 2, "sams": 1, "detection": 1, "antelopev2": 2, "buffalo_l": 2,
}  # fmt: skip

# A file that the catalogue does not know is offered for the kind that its folder is for.
KIND_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "swap": ("insightface", "reswapper", "hyperswap", "faceloom/swap"),
    "detector": ("facedetection", "faceloom/detectors", "ultralytics/bbox"),
    "recognizer": ("faceloom/recognizers",),
    "parser": ("faceloom/parsers",),
    "occluder": ("sams", "faceloom/parsers"),
    "restorer": ("facerestore_models", "faceloom/restorers"),
}

LEDGER = "faceloom_hashes.json"
SETTLED = 3_000_000_000  # ns after which another change to a folder has another time, even on FAT


@dataclass(frozen=True)
class Folders:
    """Where to look. roots: models folders, downloads go below the first. keyed: further folders per key, as ComfyUI lists them;
    they come first, so that ``extra_model_paths.yaml`` is honoured."""

    roots: tuple[Path, ...]
    keyed: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    def bases(self, key: str) -> tuple[Path, ...]:
        """The folders of one key, in search order."""
        return tuple(dict.fromkeys((*self.keyed.get(key, ()), *(root / key for root in self.roots))))

    def target(self, row: Row) -> Path:
        """Where a download of this row goes."""
        key, _, rest = row.folder.partition("/")
        return self.bases(key)[0] / rest / row.file

    def files(self) -> Iterator[ModelFile]:
        """Every model file below the known folders, in search order."""
        seen: set[Path] = set()
        places = [(base, key, depth) for key, depth in KEYS.items() for base in self.bases(key)]
        for base, key, depth in [*places, *((root, "", 1) for root in self.roots)]:
            for path, name in _walk(base, depth):
                if path not in seen:
                    seen.add(path)
                    yield ModelFile(path, key, name)


@dataclass(frozen=True)
class ModelFile:
    """A file on disk: its folder key and its path below that folder."""

    path: Path
    key: str
    name: str

    def belongs(self, row: Row) -> bool:
        """Whether its name is one of the row's. Names of research files are too common to be believed outside their folder."""
        if "*" in row.file:
            return row_of_file(self.path.name) is row
        known = self.path.name.lower() in (name.lower() for name in row.names)
        return known and (row.kind != "research" or self.path.parent.name == PurePosixPath(row.folder).name)


@dataclass(frozen=True)
class Found:
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


def default_folders(models_dir: str | os.PathLike | None = None, keyed: Mapping[str, Sequence[str]] | None = None) -> Folders:
    """``models_dir``, then ``FACELOOM_MODELS`` (several with the system's path separator), then ComfyUI's models folder when the pack
    lies in ``custom_nodes``, then FaceLoom's own, then insightface's. ``keyed``: ComfyUI's folder lists by key, else (where nothing else is
    asked for) those of its ``extra_model_paths.yaml``."""
    roots = [models_dir] if models_dir else []
    roots += [folder for folder in os.environ.get("FACELOOM_MODELS", "").split(os.pathsep) if folder]
    pack = Path(__file__).parents[2]
    if pack.parent.name == "custom_nodes":
        keyed = extra_paths(pack.parents[1] / "extra_model_paths.yaml") if keyed is None and not roots else keyed
        roots.append(pack.parents[1] / "models")
    roots += [cache_folder() / "models"]
    own = tuple(dict.fromkeys(Path(root).expanduser().absolute() for root in roots))
    lists = {key: tuple(Path(folder) for folder in paths) for key, paths in (keyed or {}).items()}
    lists["insightface"] = (*lists.get("insightface", ()), *(root / "insightface" for root in own), Path.home() / ".insightface")
    return Folders(own, lists)


def cache_folder() -> Path:
    """``FACELOOM_CACHE``, else ``faceloom`` in the user's cache folder."""
    if "FACELOOM_CACHE" in os.environ:
        return Path(os.environ["FACELOOM_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(base) / "faceloom"


def find(name: str, folders: Folders, kind: str | None = None, progress: Progress = silent) -> Found:
    """The file for a row name, a file name, or the name of a ``Choice``.

    A file of another name is recognised by its hash; one of the right name with another hash is used, and the note says so. A missing
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
        return Found(path, row, _note(path, row, progress))
    by_hash = _find_by_hash(row, files, progress)
    if by_hash is None:
        raise missing(row, folders)
    return Found(by_hash, row, f"{by_hash.name} was recognised as {row.name} by its hash.")


def locate(path_or_name: str | os.PathLike | Found, kind: str, folders: Folders | None = None) -> Found:
    """A file by its path (the command line's way), else by ``find``; with the row of its name or of what its name begins with.

    What ``find`` found is passed on: names that come from others must go through it and never be taken for paths.
    """
    if isinstance(path_or_name, Found):
        return path_or_name
    path = Path(path_or_name)
    if path.is_file():
        return Found(path, row_of_file(path.name) or guess_row(path.name, kind))
    return find(str(path_or_name), folders or default_folders(), kind)


def available(kind: str, folders: Folders) -> list[Choice]:
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


def originals(kind: str, folders: Folders) -> list[Choice]:
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
    return [Choice(file.name, file.path, None) for file in files if file.path.parent in bases and row_of_file(file.path.name) is None]


def _listed(known: list[Choice], foreign: list[Choice]) -> list[Choice]:
    """Those on disk first, every name of a row once."""
    listed = [choice for choice in [*known, *foreign] if choice.path] + [choice for choice in known if not choice.path]
    return list({(choice.name, choice.row): choice for choice in reversed(listed)}.values())[::-1]


def companion(path: Path, *names: str, folders: Folders | None = None, inside: Sequence[str] = (), what: str = "", needed: bool = True
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


def missing(row: Row, folders: Folders) -> FaceLoomError:
    """The error for a file that is not there."""
    return FaceLoomError(f"{row.file} ({row.terms}) is not on this machine: {how_to_get(row, folders.target(row).parent)}.")


def check_name(name: str) -> None:
    """Refuse what is not the plain name of a file below a models folder."""
    if not name or name.startswith(("/", "~")) or re.search(r"[\\:\0]", name) or ".." in name.split("/"):
        raise FaceLoomError(f"{name!r} is not the name of a model file; choose one from the list.")


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
    return read_json(path.parent / LEDGER).get(path.name) or row.sha256


def record_hash(path: Path, sha256: str) -> None:
    """Remember beside a file what it was when it was fetched: the catalogue does not pin it, or the user chose another."""
    write_json(path.parent / LEDGER, {**read_json(path.parent / LEDGER), path.name: sha256})


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


def _walk(base: Path, depth: int, prefix: str = "") -> Iterator[tuple[Path, str]]:
    """Model files up to ``depth`` levels down, with their paths below the first ``base``, shallow and alphabetical first."""
    files, inner = _contents(base)
    yield from ((path, prefix + path.name) for path in files)
    if depth > 1:
        for folder in inner:
            yield from _walk(folder, depth - 1, f"{prefix}{folder.name}/")


_seen: dict[Path, tuple[int, tuple[Path, ...], tuple[Path, ...]]] = {}


def _contents(folder: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The model files and the folders in a folder, alphabetically; links are followed.

    ComfyUI asks all loaders for their lists at once, so what was seen is kept until the folder's time of change says otherwise.
    """
    try:
        changed = folder.stat().st_mtime_ns
        if folder in _seen and _seen[folder][0] == changed:
            return _seen[folder][1:]
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name.lower())
    except OSError:
        return (), ()
    files = tuple(folder / entry.name for entry in entries if os.path.splitext(entry.name)[1].lower() in SUFFIXES and _is(entry.is_file))
    inner = tuple(folder / entry.name for entry in entries if not entry.name.startswith(".") and _is(entry.is_dir))
    if time.time_ns() - changed > SETTLED:
        _seen[folder] = changed, files, inner
    return files, inner


def _is(question: Callable[[], bool]) -> bool:
    """The answer of a directory entry; links that lead in circles or to where one may not look have none."""
    try:
        return question()
    except OSError:
        return False


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
        return row_named(name)
    except FaceLoomError:
        return None


def _find_foreign(name: str, kind: str | None, files: list[ModelFile], folders: Folders, progress: Progress) -> Found:
    """A file the catalogue does not know by name."""
    match = next((file for file in files if name in (file.name, f"{file.key}/{file.name}", file.path.name)), None)
    if match is None:
        if row_named(name).name == name:  # of files of any name; says what names are near one that is none
            raise missing(row_named(name), folders)
        raise FaceLoomError(f"{name} is not in any of the models folders: {', '.join(str(root) for root in folders.roots)}.")
    row = row_of_file(match.path.name)
    if row is not None:
        return Found(match.path, row)
    row = row_of_hash(file_hash(match.path, progress))
    if row is not None:
        return Found(match.path, row, f"{match.path.name} was recognised as {row.name} by its hash.")
    row = guess_row(match.path.name, kind)
    like = f"it is treated like {row.name} because of its name" if row else "its contract is read from the file"
    return Found(match.path, row, f"{match.path.name} is not in the catalogue; {like}.")


def _find_by_hash(row: Row, files: list[ModelFile], progress: Progress) -> Path | None:
    """A file of another name that is this row's, by hash. Only files that could be it are read."""
    suffixes = {Path(name).suffix.lower() for name in row.names}
    if not row.hashes:
        return None
    for file in files:
        if file.path.suffix.lower() not in suffixes or row_of_file(file.path.name) is not None:
            continue
        with suppress(OSError, FaceLoomError):  # one that is gone or cannot be read is not it
            size_fits = row.bytes is None or row.also or file.path.stat().st_size == row.bytes
            if size_fits and file_hash(file.path, progress) in row.hashes:
                return file.path
    return None


def _note(path: Path, row: Row, progress: Progress) -> str:
    """Empty if the file is one the catalogue (or the first download) vouches for."""
    pinned = pinned_hash(row, path)
    likely = row.bytes is None or bool(row.also) or row.bytes == path.stat().st_size
    if pinned is None or (likely and file_hash(path, progress) in {pinned, *row.hashes}):
        return ""
    return f"{path.name} is not the file the catalogue knows as {row.name}; it is used because of its name."
