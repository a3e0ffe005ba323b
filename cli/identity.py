"""People as files: make, list, show, blend and check the identities that Identity Load lists and ``swap`` takes as SOURCE.

make NAME PHOTO…    from photos or folders of photos of one person; tells which photos show somebody else, and leaves those out
list                every identity on this machine
show NAME…          what is in it; --picture FILE writes its reference photos
blend NAME WHO WHO… mixes people; --weights 3,1
check [NAME…]       whether the files are whole, and whether two of them are one person
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from ..models.errors import FaceLoomError
from ..models.files.folders import Folders, default_folders
from ..models.options.pipeline import BUILT_IN
from . import OK, SOME_FAILED

if TYPE_CHECKING:
    from ..models.faces import Identity

ACTIONS = ("make", "list", "show", "blend", "check")
# Where identities lie: keys and what is below their folders; ours first, then ReActor's.
_FOLDERS = (("faceloom", "identities"), ("reactor", "faces"))
_SUFFIX = ".safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``identity`` to its parser."""
    add = parser.add_argument
    add("action", choices=ACTIONS)
    add("names", nargs="*", metavar="NAME")
    add("--recognizer", action="append", metavar="NAME",
        help="make: the network the person is described with; may be repeated, for engines that want different ones (default: dlib)")
    add("--detector", default=BUILT_IN.detector, metavar="NAME", help="make: dlib (built in), a file, or a name of the catalogue")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="make: where networks run (default: auto)")
    add("--weights", metavar="NUMBERS", help="blend: how much of each, such as 3,1 (default: all alike)")
    add("--picture", type=Path, metavar="FILE", help="show: write the reference photos side by side")
    add("--overwrite", action="store_true", help="make, blend, show: replace a file that is there")
    add("--models-dir", help="models folder to look in first and to write to (also: FACELOOM_MODELS)")
    add("--json", action="store_true", help="list, show: a JSON document")


def run(arguments: argparse.Namespace) -> int:
    """Does what ``action`` says. Returns the exit code; see ``cli/__init__.py``."""
    folders, names = default_folders(arguments.models_dir), arguments.names
    if arguments.action == "make":
        return _make(arguments, folders)
    if arguments.action == "blend":
        return _blend(arguments, folders)
    if arguments.action == "list" and names:
        raise FaceLoomError("list takes no names; show tells about single identities.")
    if arguments.action == "show" and not names:
        raise FaceLoomError("Name the identities to show; `list` shows all.")
    if arguments.action == "show" and arguments.picture and len(names) != 1:
        raise FaceLoomError("--picture goes with one identity at a time.")
    paths = [find_identity(name, folders) for name in names] or list(identity_files(folders))
    people, failed = _read(paths)
    if arguments.action == "check":
        _tell_who_is_the_same(people)
        print(f"{len(people)} whole, {failed} damaged")
    elif arguments.json:
        print(json.dumps([_as_record(path, person) for path, person in people.items()], indent=2, ensure_ascii=False))
    else:
        for path, person in people.items():
            print(f"{path.stem:24} {person.photos:3} photo{'s' if person.photos != 1 else ' '} {', '.join(sorted(person.embeddings)):24} "
                  f"{path}")
    if arguments.picture:
        _write_picture(next(iter(people.values()), None), arguments.picture, arguments.overwrite)
    return SOME_FAILED if failed else OK


def identity_files(folders: Folders) -> Iterator[Path]:
    """Yields every identity file in the models folders, each name once, as Identity Load lists them."""
    seen = set()
    for key, below in _FOLDERS:
        for folder in folders.bases(key):
            for path in sorted((folder / below).glob(f"*{_SUFFIX}")):
                if path.name not in seen and path.is_file():
                    seen.add(path.name)
                    yield path


def find_identity(name: str, folders: Folders) -> Path:
    """Returns the file of a path or a name in the models folders. FaceLoomError where there is none."""
    if Path(name).is_file():
        return Path(name)
    known = list(identity_files(folders))
    found = next((path for path in known if name in (path.name, path.stem)), None)
    if found is None:
        there = ", ".join(path.stem for path in known[:20]) or "none yet"
        raise FaceLoomError(f"There is no identity {name}; there are: {there}.")
    return found


def _target(name: str, folders: Folders, overwrite: bool) -> Path:
    """Returns where an identity is written; FaceLoomError where there is one already."""
    from ..models.identity.files import identity_path

    path = identity_path(folders.bases("faceloom")[0] / "identities", name)
    if path.exists() and not overwrite:
        raise FaceLoomError(f"{path} is there already; take another name, or pass --overwrite.")
    return path


def _make(arguments: argparse.Namespace, folders: Folders) -> int:
    """Makes an identity of photos, described by every recognizer that is named."""
    from .jobs import source_files

    if len(arguments.names) < 2:
        raise FaceLoomError("Say `make NAME PHOTO…`: what the person is called, and photos of them.")
    name, *words = arguments.names
    target, photos = _target(name, folders, arguments.overwrite), source_files(words).pictures
    if any(path.suffix.lower() == _SUFFIX for path in photos):
        raise FaceLoomError("make takes photos; blend mixes identities.")

    from ..models.detect.load import load_detector
    from ..models.identity.files import save_identity
    from ..models.identity.load import load_recognizer
    from ..models.pipeline import Clock, Models, Settings, read_identity
    from ..models.swap.load import load_engine
    from .session import loading_of

    loading = loading_of(arguments.device, "auto")
    models = Models(load_engine(BUILT_IN.engine, loading), load_detector(arguments.detector, loading))
    networks = [load_recognizer(each, loading) for each in arguments.recognizer or [BUILT_IN.recognizer]]
    if len(photos) > 1:
        print("\n".join(f"photo {number}: {path}" for number, path in enumerate(photos, 1)))
    people = []
    for network in networks:
        person, report = read_identity(photos, replace(models, recognizer=network), Settings(), Clock(), name=target.stem)
        people.append(person)
        print(report)
    embeddings, norms = ({key: value for person in people for key, value in part(person).items()}
                         for part in (lambda person: person.embeddings, lambda person: person.norms))
    target.parent.mkdir(parents=True, exist_ok=True)
    save_identity(replace(people[0], embeddings=embeddings, norms=norms), target)
    print(target)
    return OK


def _blend(arguments: argparse.Namespace, folders: Folders) -> int:
    if len(arguments.names) < 3:
        raise FaceLoomError("Say `blend NAME WHO WHO…`: what the mix is called, and the identities to mix.")
    name, *who = arguments.names
    try:
        weights = None if arguments.weights is None else [float(word) for word in arguments.weights.replace(",", " ").split()]
    except ValueError:
        raise FaceLoomError(f"--weights must be numbers such as 3,1, not {arguments.weights!r}.") from None
    target, paths = _target(name, folders, arguments.overwrite), [find_identity(each, folders) for each in who]

    from ..models.identity.blend import blend_identities
    from ..models.identity.files import load_identity, save_identity

    blended = blend_identities([load_identity(path) for path in paths], weights)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_identity(replace(blended, name=target.stem), target)
    print(target)
    return OK


def _read(paths: Sequence[Path]) -> tuple[dict[Path, Identity], int]:
    """Reads identities. A damaged one is one line; returns the others, and how many are damaged."""
    from ..models.identity.files import load_identity

    people, failed = {}, 0
    for path in paths:
        try:
            people[path] = load_identity(path)
        except FaceLoomError as error:
            print(f"faceloom: {error}", file=sys.stderr)
            failed += 1
    return people, failed


def _tell_who_is_the_same(people: dict[Path, Identity]) -> None:
    """Prints the pairs of identities that look like one person to a recognizer that described both."""
    from ..models.identity.combine import same_person_cosine

    for (one, first), (other, second) in combinations(people.items(), 2):
        for space in sorted(set(first.embeddings) & set(second.embeddings)):
            cosine = float(first.embeddings[space] @ second.embeddings[space])
            if cosine >= same_person_cosine(space):
                print(f"{one.stem} and {other.stem} look like one person: {cosine:.2f} in {space}")
                break


def _as_record(path: Path, person: Identity) -> dict:
    return {"name": path.stem, "called": person.name, "file": str(path), "photos": person.photos, "embeddings": sorted(person.embeddings),
            "reference_photos": len(person.crops)}


def _write_picture(person: Identity | None, path: Path, overwrite: bool) -> None:
    """Writes the reference photos of an identity side by side."""
    import io

    import numpy as np
    from PIL import Image

    from ..models.files.cache import write_file
    from ..models.files.picture_formats import written_format

    if person is None or not len(person.crops):
        raise FaceLoomError("This identity has no reference photos; ReActor's face models have none.")
    kind = written_format(path.suffix.lower())
    if kind is None:
        raise FaceLoomError(f"{path} must end as a picture does, such as in .png.")
    if path.exists() and not overwrite:
        raise FaceLoomError(f"{path} is there already; take another name, or pass --overwrite.")
    pixels = np.rint(np.concatenate(list(person.crops), 1) * 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    write_file(path, stream.getvalue())
