"""What models there are, what is on this machine, and fetching one by name. Nothing is fetched unless asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ..models.errors import FaceLoomError
from ..models.files.cache import expected_hash, file_hash
from ..models.files.catalogue import KINDS, Pack, Row, packs, rows_by_names
from ..models.files.download import check_sha256, download_file, download_pack
from ..models.files.find import Choice, FoundFile, find_by_name, list_choices
from ..models.files.folders import FOLDER_DEPTHS, Folders, default_folders
from ..models.files.terminal import command
from ..models.progress import Progress

Item = TypeVar("Item")

ACTIONS = {
    "list": "every model, its size and licence; * marks those on this machine",
    "get": "download models by name, file name or pack name (buffalo_l, antelopev2 …)",
    "verify": "compare the files on this machine with the catalogue",
    "convert": "write PyTorch and Keras files (paths or names) as safetensors beside them, --half in half the size",
    "where": "the folders that are searched, or where a model lies",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``list [--kind K] | get NAME… | verify [NAME…] | convert FILE… [--half] | where [NAME…]``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(f"{action:8}{text}" for action, text in ACTIONS.items())
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--kind", choices=KINDS, help="list: only these")
    parser.add_argument("--models-dir", help="models folder to look in first and to download to (also: FACELOOM_MODELS)")
    parser.add_argument("--mirror", help="get: web folder to ask first (also: FACELOOM_MIRROR; HF_ENDPOINT replaces huggingface.co)")
    parser.add_argument("--sha256", help="get: accept a file with this hash instead of the catalogue's")
    parser.add_argument("--force", action="store_true", help="get, convert: even where a file of that name is there")
    parser.add_argument("--half", action="store_true", help="convert: weights in half precision")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0, or 1 when one of several models could not be had or is not what it should be."""
    folders = default_folders(arguments.models_dir)
    if arguments.action == "list":
        return _list(arguments.kind, folders)
    if arguments.action == "verify":
        return _verify(arguments.names, folders)
    if arguments.action == "convert":
        return _convert(arguments, folders)
    if arguments.action == "where":
        return _each(_single(arguments.names), lambda name: _show_place(name, folders)) if arguments.names else _show_folders(folders)
    if not arguments.names:
        raise FaceLoomError(f"Name the models to get; `{command('models', 'list')}` shows all.")
    if arguments.sha256 is not None:
        check_sha256(arguments.sha256)
        if len(rows_by_names(arguments.names)) != 1:
            raise FaceLoomError("--sha256 goes with one model at a time.")
    items = [packs().get(name) or rows_by_names([name])[0] for name in arguments.names]  # all are looked up before anything is fetched
    return _each(items, lambda item: _get(item, arguments, folders))


def _single(names: Sequence[str]) -> list[str]:
    """The names with those of the rows of a pack in place of the pack's."""
    return [single for name in names for single in ([row.name for row in packs()[name].rows] if name in packs() else [name])]


def _each(items: Sequence[Item], work: Callable[[Item], object]) -> int:
    """A failure is one line and the rest goes on."""
    failed = 0
    for item in items:
        try:
            work(item)
        except FaceLoomError as error:
            print(f"faceloom: {error}", file=sys.stderr)
            failed = 1
    return failed


def _convert(arguments: argparse.Namespace, folders: Folders) -> int:
    from ..models.interop.convert import convert

    if not arguments.names:
        raise FaceLoomError(f"Name the files to convert, by path or as `{command('models', 'list')}` shows them.")

    def work(name: str) -> None:
        path = Path(name) if Path(name).is_file() else find_by_name(name, folders).path
        print(f"{path} -> {convert(path, half=arguments.half, force=arguments.force)}")

    return _each(arguments.names, work)


def _list(kind: str | None, folders: Folders) -> int:
    for each in (kind,) if kind else KINDS:
        print(f"{each}")
        for choice in list_choices(each, folders):
            print(f" {'*' if choice.path else ' '} {_line(choice)}")
    if not kind:
        print(f"packs\n   {', '.join(packs())}")
    return 0


def _line(choice: Choice) -> str:
    row = choice.row
    if row is None:
        return f"{choice.name:34} {'':>9}  not in the catalogue"
    name = choice.name if "*" in row.file else row.name
    size = "" if row.bytes is None else f"{row.bytes / 1e6:.1f} MB"
    return f"{name:34} {size:>9}  {row.terms}{'; by hand' if row.by_hand else ''}"


def _get(item: Row | Pack, arguments: argparse.Namespace, folders: Folders) -> None:
    if isinstance(item, Pack):
        print(f"{item.name}: {item.rows[0].terms}")
        with _bar(f"{item.name}.zip") as progress:
            paths = download_pack(item, folders, mirror=arguments.mirror, progress=progress)
        print(*paths, sep="\n")
        return
    print(f"{item.name}: {item.terms}")
    fresh = arguments.force or arguments.sha256
    present = None if fresh else next((choice.path for choice in list_choices(item.kind, folders) if choice.row == item), None)
    if present is None or present == folders.target(item):
        with _bar(item.file) as progress:
            present = download_file(item, folders, mirror=arguments.mirror, sha256=arguments.sha256, force=arguments.force,
                                    progress=progress)
    print(present)


@contextmanager
def _bar(name: str) -> Iterator[Progress]:
    """A tqdm bar on a terminal, nothing elsewhere."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="B", unit_scale=True, leave=False, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _verify(names: Sequence[str], folders: Folders) -> int:
    """Of the named models, or of all that are here and in the catalogue."""
    bad: list[Path] = []

    def check(found: FoundFile) -> None:
        good, verdict = _verdict(found.row, found.path)
        print(f"{found.path.name if found.row is None or '*' in found.row.file else found.row.name:34} {verdict}  {found.path}")
        if not good:
            bad.append(found.path)

    if names:
        failed = _each(_single(names), lambda name: check(find_by_name(name, folders)))
    else:
        listed = (choice for kind in KINDS for choice in list_choices(kind, folders))
        here = [FoundFile(choice.path, choice.row) for choice in listed if choice.row and choice.path]
        failed = _each(here, check)
    return int(bool(failed or bad))


def _verdict(row: Row | None, path: Path) -> tuple[bool, str]:
    digest, size = file_hash(path), path.stat().st_size
    pinned, known, expected = (expected_hash(row, path), row.hashes, row.bytes) if row else (None, (), None)
    if digest in (pinned, *known):
        return True, "ok"
    if pinned is not None or not size:
        return False, f"not the catalogue's file (sha256 {digest})" if size else "empty"
    if expected not in (None, size) and not known:
        return False, f"not the catalogue's file ({size} bytes instead of {expected})"
    return True, f"nothing to compare with (sha256 {digest})"


def _show_place(name: str, folders: Folders) -> None:
    found = find_by_name(name, folders)
    print(found.path, *([found.note] if found.note else []), sep="  ")


def _show_folders(folders: Folders) -> int:
    print(f"downloads go below {folders.roots[0]}")
    for folder in dict.fromkeys([*folders.roots, *(base for key in FOLDER_DEPTHS for base in folders.bases(key) if base.is_dir())]):
        print(f" {'*' if folder.is_dir() else ' '} {folder}")
    return 0
