"""Lists the model files in every folder where FaceLoom, ReActor, FaceFusion, IP-Adapter or InstantID keep them.

Names that come from widgets and command lines are never used as paths: a name is compared with the files that are there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .catalogue import Row, row_by_file_name
from .extra_paths import extra_paths
from .home import cache_folder, expand_home, home_folder

MODEL_SUFFIXES = {".onnx", ".dfm", ".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".task", ".h5", ".keras", ".tar", ".mat"}

# The folders below a models folder (also ComfyUI's folder keys) and how many levels down files lie in them. insightface keeps its packs in
# insightface/models/NAME, and unzipping antelopev2 there adds one level; FaceFusion keeps all files in one folder, which is a root here.
FOLDER_DEPTHS: Mapping[str, int] = {
    "faceloom": 2, "insightface": 4, "reswapper": 1, "hyperswap": 1, "facerestore_models": 1, "facedetection": 1, "facexlib": 1,
    "ultralytics": 2, "sams": 1, "detection": 1, "antelopev2": 2, "buffalo_l": 2,
}  # fmt: skip

# Keys by which other packs list a subfolder of one of these: the key it is in, and its name there.
OTHER_KEYS: Mapping[str, tuple[str, str]] = {"ultralytics_bbox": ("ultralytics", "bbox"), "ultralytics_segm": ("ultralytics", "segm")}

# Nanoseconds after which another change to a folder has another time of change, even on FAT.
SETTLED_NS = 3_000_000_000


@dataclass(frozen=True)
class Folders:
    """The folders to search. roots: models folders; downloads go below the first. keyed: further folders by key, as ComfyUI lists them;
    they are searched first, so that ``extra_model_paths.yaml`` is honoured."""

    roots: tuple[Path, ...]
    keyed: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    def bases(self, key: str) -> tuple[Path, ...]:
        """Return the folders of one key, in search order."""
        return tuple(dict.fromkeys((*self.keyed.get(key, ()), *(root / key for root in self.roots))))

    def target(self, row: Row) -> Path:
        """Return the path to which this row's file is downloaded."""
        key, _, rest = row.folder.partition("/")
        return self.bases(key)[0] / rest / row.file

    def files(self) -> Iterator[ModelFile]:
        """Yield every model file in the folders, in search order; none twice."""
        listed: set[Path] = set()
        places = [(base, key, depth, "") for key, depth in FOLDER_DEPTHS.items() for base in self.bases(key)]
        places += [(base, key, 1, f"{below}/") for other, (key, below) in OTHER_KEYS.items() for base in self.keyed.get(other, ())]
        for base, key, depth, prefix in [*places, *((root, "", 1, "") for root in self.roots)]:
            for path, name in _walk(base, depth, prefix):
                if path not in listed:
                    listed.add(path)
                    yield ModelFile(path, key, name)


@dataclass(frozen=True)
class ModelFile:
    """A file on disk. key: of the folder it lies in, "" for a root. name: its path below that folder, with slashes."""

    path: Path
    key: str
    name: str

    def belongs(self, row: Row) -> bool:
        """Whether the file's name is one of the row's. A research file must lie in the row's folder too: such names are too common."""
        if "*" in row.file:
            return row_by_file_name(self.path.name) is row
        name_fits = self.path.name.lower() in (name.lower() for name in row.names)
        return name_fits and (row.kind != "research" or self.path.parent.name == PurePosixPath(row.folder).name)


def default_folders(models_dir: str | os.PathLike | None = None, keyed: Mapping[str, Sequence[str | os.PathLike]] | None = None
                    ) -> Folders:
    """Return the folders to search: ``models_dir``, then ``FACELOOM_MODELS`` (several with the system's path separator), then ComfyUI's
    models folder when the pack lies in ``custom_nodes``, then FaceLoom's own, then insightface's.

    keyed: ComfyUI's lists of folders by key. Without it they are read from ComfyUI's ``extra_model_paths.yaml``, unless ``models_dir`` or
    ``FACELOOM_MODELS`` asks for other folders.
    """
    roots = [models_dir] if models_dir else []
    roots += [folder for folder in os.environ.get("FACELOOM_MODELS", "").split(os.pathsep) if folder]
    pack = Path(__file__).parents[2]
    if pack.parent.name == "custom_nodes":
        keyed = extra_paths(pack.parents[1] / "extra_model_paths.yaml") if keyed is None and not roots else keyed
        roots.append(pack.parents[1] / "models")
    roots += [cache_folder() / "models"]
    absolute = tuple(dict.fromkeys(expand_home(root).absolute() for root in roots))
    lists = {key: tuple(Path(folder) for folder in paths) for key, paths in (keyed or {}).items()}
    home = home_folder()
    own = () if home is None else (home / ".insightface",)
    lists["insightface"] = (*lists.get("insightface", ()), *(root / "insightface" for root in absolute), *own)
    return Folders(absolute, lists)


def _walk(base: Path, depth: int, prefix: str = "") -> Iterator[tuple[Path, str]]:
    """Yield the model files up to ``depth`` levels down, those of a folder before those of its subfolders, alphabetically: each one's path,
    and its path below the folder where the walk began."""
    files, subfolders = _list_folder(base)
    yield from ((path, prefix + path.name) for path in files)
    if depth > 1:
        for folder in subfolders:
            yield from _walk(folder, depth - 1, f"{prefix}{folder.name}/")


# What ``_list_folder`` found, by folder: the folder's time of change, its files and its subfolders. ComfyUI asks all loaders for their
# lists at once, so a folder is read again only when its time of change is another.
_listed_folders: dict[Path, tuple[int, tuple[Path, ...], tuple[Path, ...]]] = {}


def _list_folder(folder: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """List the model files and the subfolders of a folder, alphabetically. Links are followed; hidden subfolders are left out.

    Both are empty where the folder is missing or cannot be read.
    """
    try:
        changed = folder.stat().st_mtime_ns
        if folder in _listed_folders and _listed_folders[folder][0] == changed:
            return _listed_folders[folder][1:]
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name.lower())
    except OSError:
        return (), ()
    models = (entry for entry in entries if os.path.splitext(entry.name)[1].lower() in MODEL_SUFFIXES)
    files = tuple(folder / entry.name for entry in models if _is(entry.is_file))
    subfolders = tuple(folder / entry.name for entry in entries if not entry.name.startswith(".") and _is(entry.is_dir))
    if time.time_ns() - changed > SETTLED_NS:
        _listed_folders[folder] = changed, files, subfolders
    return files, subfolders


def _is(check: Callable[[], bool]) -> bool:
    """Run a check of a directory entry; False for links that lead in circles or to where reading is not allowed."""
    try:
        return check()
    except OSError:
        return False
