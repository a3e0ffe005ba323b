"""Where model files are: every folder that FaceLoom, ReActor, FaceFusion, IP-Adapter or InstantID users keep them in.

Names come from widgets and command lines, so they are never used as paths: a name is compared with the files that are there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .cache import cache_folder
from .catalogue import Row, row_by_file_name
from .extra_paths import extra_paths

MODEL_SUFFIXES = {".onnx", ".dfm", ".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".task", ".h5", ".keras", ".tar", ".mat"}

# Folders below a models folder (also ComfyUI's folder keys) and how many levels down files lie in them. insightface keeps its packs in
# insightface/models/NAME, where unzipping antelopev2 makes one level more; FaceFusion keeps all in one folder, which is a root here.
FOLDER_DEPTHS: Mapping[str, int] = {
    "faceloom": 2, "insightface": 4, "reswapper": 1, "hyperswap": 1, "facerestore_models": 1, "facedetection": 1, "facexlib": 1,
    "ultralytics": 2, "sams": 1, "detection": 1, "antelopev2": 2, "buffalo_l": 2,
}  # fmt: skip


SETTLED_NS = 3_000_000_000  # ns after which another change to a folder has another time, even on FAT


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
        places = [(base, key, depth) for key, depth in FOLDER_DEPTHS.items() for base in self.bases(key)]
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
            return row_by_file_name(self.path.name) is row
        known = self.path.name.lower() in (name.lower() for name in row.names)
        return known and (row.kind != "research" or self.path.parent.name == PurePosixPath(row.folder).name)


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
    files = tuple(folder / entry.name for entry in entries
                  if os.path.splitext(entry.name)[1].lower() in MODEL_SUFFIXES and _is(entry.is_file))
    inner = tuple(folder / entry.name for entry in entries if not entry.name.startswith(".") and _is(entry.is_dir))
    if time.time_ns() - changed > SETTLED_NS:
        _seen[folder] = changed, files, inner
    return files, inner


def _is(question: Callable[[], bool]) -> bool:
    """The answer of a directory entry; links that lead in circles or to where one may not look have none."""
    try:
        return question()
    except OSError:
        return False


