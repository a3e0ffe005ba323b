"""What models there are, what is on this machine, and fetching one by name. Nothing is fetched unless asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..models.catalogue import KINDS, Pack, Row, packs, resolve, rows
from ..models.download import get, get_pack
from ..models.errors import FaceLoomError
from ..models.folders import KEYS, Choice, Folders, available, default_folders, file_hash, find, pinned_hash
from ..models.progress import Progress

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
        return _each(arguments.names, lambda row: _show_place(row, folders)) if arguments.names else _show_folders(folders)
    if not arguments.names:
        raise FaceLoomError("Name the models to get; `python -m faceloom models list` shows all.")
    if arguments.sha256 and len(resolve(arguments.names)) != 1:
        raise FaceLoomError("--sha256 goes with one model at a time.")
    return _each(arguments.names, lambda item: _get(item, arguments, folders))


def _each(names: Sequence[str], work: Callable[[Row | Pack], None]) -> int:
    """All names are looked up before anything is done; a failure is one line and the rest goes on."""
    items = [packs().get(name) or resolve([name])[0] for name in names]
    failed = 0
    for item in items:
        try:
            work(item)
        except FaceLoomError as error:
            print(f"faceloom: {error}", file=sys.stderr)
            failed = 1
    return failed


def _convert(arguments: argparse.Namespace, folders: Folders) -> int:
    from ..models.convert import convert

    if not arguments.names:
        raise FaceLoomError("Name the files to convert, by path or as `python -m faceloom models list` shows them.")
    for name in arguments.names:
        path = Path(name) if Path(name).is_file() else find(name, folders).path
        print(f"{path} -> {convert(path, half=arguments.half, force=arguments.force)}")
    return 0


def _list(kind: str | None, folders: Folders) -> int:
    for each in (kind,) if kind else KINDS:
        print(f"{each}")
        for choice in available(each, folders):
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
            paths = get_pack(item, folders, mirror=arguments.mirror, progress=progress)
        print(*paths, sep="\n")
        return
    print(f"{item.name}: {item.terms}")
    fresh = arguments.force or arguments.sha256
    present = None if fresh else next((choice.path for choice in available(item.kind, folders) if choice.row == item), None)
    if present is None or present == folders.target(item):
        with _bar(item.file) as progress:
            present = get(item, folders, mirror=arguments.mirror, sha256=arguments.sha256, force=arguments.force, progress=progress)
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
    wanted = {row.name for row in (resolve(names) if names else rows())}
    failed = 0
    for kind in KINDS:
        for choice in available(kind, folders):
            if choice.row is not None and choice.row.name in wanted and (choice.path or names):
                good, verdict = _verdict(choice.row, choice.path)
                failed |= not good
                print(f"{choice.row.name:34} {verdict}")
    return int(failed)


def _verdict(row: Row, path: Path | None) -> tuple[bool, str]:
    if path is None:
        return False, "not on this machine"
    digest, pinned = file_hash(path), pinned_hash(row, path)
    if digest in (pinned, *row.hashes):
        return True, f"ok  {path}"
    if pinned is None:
        return True, f"nothing to compare with (sha256 {digest})  {path}"
    return False, f"not the catalogue's file (sha256 {digest})  {path}"


def _show_place(item: Row | Pack, folders: Folders) -> None:
    for row in item.rows if isinstance(item, Pack) else (item,):
        found = find(row.name, folders)
        print(found.path, *([found.note] if found.note else []), sep="  ")


def _show_folders(folders: Folders) -> int:
    print(f"downloads go below {folders.roots[0]}")
    for folder in dict.fromkeys([*folders.roots, *(base for key in KEYS for base in folders.bases(key) if base.is_dir())]):
        print(f" {'*' if folder.is_dir() else ' '} {folder}")
    return 0
