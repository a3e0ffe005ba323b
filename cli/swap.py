"""Put one person's face into photographs.

SOURCE   photo(s) of the person: files, folders of photos, or comma-separated; several show the same person. Or one saved
         identity (.safetensors).
TARGET   the photograph, or a folder of photographs, to put the face into
OUT      the picture, or the folder, to write

--option of the research systems' engines (docs/research-systems.md tells more):
  GHOST        enhance, templates, mask, shrink, blur_x, blur_y
  ReliableSwap align, mask
  SimSwap      mask
  MegaFS       stretch, refine, mask
  FaceDancer   mask
  FSLSD        hair, grow
  deepfakes    swap, mask, erode, color, centering, coverage

exit codes: 0 all done; 1 some pictures failed (named on stderr, the others are written); 2 the request cannot be carried out
(nothing is written); 130 interrupted (what is written stays, nothing is half-written)
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import INTERRUPTED, OK, SOME_FAILED

ORDERS = ("left-right", "right-left", "top-bottom", "bottom-top", "large-small", "small-large", "best-score")
COLORS = ("none", "mean-std", "mkl", "low-frequency")
BLENDS = ("feather", "multi-band", "poisson")
NO_FACE = ("copy", "error", "skip")


@dataclass(frozen=True)
class Job:
    """One photograph to swap and where the result goes."""

    target: Path
    out: Path


def crop_size(text: str) -> int | None:
    """``auto`` (None) or a number of pixels."""
    if text == "auto":
        return None
    if not text.isdigit() or not 64 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a number from 64 to 4096")
    return int(text)


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s SOURCE [SOURCE ...] TARGET OUT [options]"
    add = parser.add_argument
    add("source", nargs="+", metavar="SOURCE", help=argparse.SUPPRESS)
    add("target", type=Path, metavar="TARGET", help=argparse.SUPPRESS)
    add("out", metavar="OUT", help=argparse.SUPPRESS)
    faces = parser.add_argument_group("which faces")
    faces.add_argument("--faces", default="all", help="all, first, largest, or positions such as 0,2 in --order (default: all)")
    faces.add_argument("--order", default="large-small", choices=ORDERS, help="how faces are counted (default: large-small)")
    faces.add_argument("--threshold", type=fraction, default=0.5, help="how sure the detector must be, 0 to 1 (default: 0.5)")
    faces.add_argument("--no-face", choices=NO_FACE, help="a photograph without a face: copy it, count it as failed, or leave it out "
                                                          "(default: error for one photograph, copy for a folder)")
    look = parser.add_argument_group("how it looks")
    look.add_argument("--engine", default="mesh", metavar="NAME", help="mesh (built in), or a swap model's file or name (default: mesh)")
    look.add_argument("--option", action="append", default=[], metavar="NAME=VALUE",
                      help='an option of the engine, such as "mask=face outline" or stretch=off; may be repeated')
    look.add_argument("--strength", type=float, default=1.0, help="0 the target's own face, 1 the source's (default: 1)")
    look.add_argument("--color", default="none", choices=COLORS, help="colour match to the photograph around the face (default: none)")
    look.add_argument("--blend", default="feather", choices=BLENDS, help="how the face is joined to the photograph (default: feather)")
    look.add_argument("--feather", type=float, default=0.0, help="softer mask border, crop pixels (default: 0)")
    look.add_argument("--restore", type=fraction, default=1.0,
                      help="match sharpness and grain to the photograph, 0 to 1 (default: 1)")
    look.add_argument("--framing", type=float, default=1.0, help="1 the face, larger takes in more of the head (default: 1)")
    look.add_argument("--crop-size", type=crop_size, default=None, metavar="PIXELS",
                      help="edge of the square each face is worked on in; auto follows the photograph (default: auto)")
    files = parser.add_argument_group("files and reports")
    files.add_argument("--recursive", action="store_true", help="take the photographs of TARGET's subfolders too")
    files.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    files.add_argument("--provenance", action="store_true", help="write into each picture that it is a face swap, and how it was made")
    files.add_argument("--json", action="store_true", help="print one JSON document instead of the summary")
    files.add_argument("--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    """Exit code; see ``cli/__init__.py``."""
    sources = source_files(arguments.source)
    folder = arguments.target.is_dir()
    jobs = plan(arguments.target, arguments.out, arguments.recursive)
    check(jobs, sources, arguments.overwrite, arguments.provenance)

    from .session import Session

    session = Session.start(arguments, sources, arguments.no_face or ("copy" if folder else "error"))
    started = time.perf_counter()
    records, interrupted = work(session, jobs, arguments.quiet)
    counts = {status: sum(record["status"] == status for record in records) for status in ("swapped", "copied", "skipped", "failed")}
    if arguments.json:
        print(json.dumps(session.summary() | {"counts": counts, "interrupted": interrupted,
                                              "seconds": round(time.perf_counter() - started, 3), "pictures": records}, indent=2))
    elif len(records) != 1 or counts["failed"] == 0:
        print(", ".join(f"{count} {status}" for status, count in counts.items() if count) or "nothing done", "→", arguments.out)
    if interrupted:
        print("faceloom: interrupted.", file=sys.stderr)
        return INTERRUPTED
    return SOME_FAILED if counts["failed"] else OK


def work(session, jobs: Iterable[Job], quiet: bool) -> tuple[list[dict], bool]:
    """Do the jobs one by one, whatever happens to any of them. Returns what became of each, and whether Ctrl-C ended it early."""
    from tqdm import tqdm

    from ..models.errors import FaceLoomError

    records: list[dict] = []
    with tqdm(jobs, unit="picture", file=sys.stderr, disable=quiet) as bar:
        session.clock.listener = lambda stage: bar.set_postfix_str(stage)
        try:
            for job in bar:
                record: dict = {"target": str(job.target), "out": str(job.out)}
                try:
                    record |= session.swap(job)
                except FaceLoomError as error:
                    record |= {"status": "failed", "error": str(error)}
                except Exception as error:  # a defect of ours must not cost the other pictures; it is shown in full
                    bar.write(traceback.format_exc(), file=sys.stderr)
                    record |= {"status": "failed", "error": f"{job.target}: {type(error).__name__}: {error}"}
                if note := record.get("error") or record.get("note"):
                    bar.write(f"faceloom: {note}", file=sys.stderr)
                records.append(record)
        except KeyboardInterrupt:
            return records, True
    return records, False


def source_files(words: Iterable[str]) -> list[Path]:
    """The photos that the SOURCE words name: files, folders, comma-separated lists of either."""
    from ..models.errors import FaceLoomError
    from ..models.files.picture import IMAGE_SUFFIXES

    files: list[Path] = []
    for word in words:
        for path in [Path(word)] if Path(word).exists() else [Path(part.strip()) for part in word.split(",") if part.strip()]:
            if path.is_dir():
                inside = pictures_in(path, recursive=False)
                if not inside:
                    raise FaceLoomError(f"The source folder {path} has no picture in it ({', '.join(IMAGE_SUFFIXES)}).")
                files += inside
            elif path.is_file():
                files.append(path)
            else:
                raise FaceLoomError(f"The source {path} does not exist.")
    if not files:
        raise FaceLoomError("SOURCE is empty; name at least one photo of the person.")
    return files


def pictures_in(folder: Path, recursive: bool, but: Path | None = None) -> list[Path]:
    """Picture files of a folder in name order, hidden ones and those in or under ``but`` left out."""
    from ..models.files.picture import IMAGE_SUFFIXES

    found = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        path for path in found
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not (but and but in path.resolve().parents)
    )


def plan(target: Path, out: str, recursive: bool) -> list[Job]:
    """What is to be done, or FaceLoomError where TARGET and OUT do not fit together."""
    from ..models.errors import FaceLoomError
    from ..models.files.picture import IMAGE_SUFFIXES

    destination = Path(out)
    if target.is_dir():
        if destination.is_file() or (destination.suffix.lower() in IMAGE_SUFFIXES and not destination.is_dir()):
            raise FaceLoomError(f"{target} is a folder, so OUT must be a folder too, not {destination}.")
        if destination.resolve() == target.resolve():
            raise FaceLoomError(f"OUT is TARGET itself ({target}); name another folder so that no photograph is lost.")
        pictures = pictures_in(target, recursive, but=destination.resolve())
        if not pictures:
            raise FaceLoomError(f"The folder {target} has no picture in it ({', '.join(IMAGE_SUFFIXES)}).")
        return [Job(path, destination / path.relative_to(target)) for path in pictures]
    if not target.is_file():
        raise FaceLoomError(f"The target {target} does not exist.")
    if destination.is_dir() or out.endswith(("/", "\\")) or not destination.suffix:
        name = target.name if target.suffix.lower() in IMAGE_SUFFIXES else f"{target.stem}.png"
        destination = destination / name
    return [Job(target, destination)]


def check(jobs: Iterable[Job], sources: Iterable[Path], overwrite: bool, provenance: bool) -> None:
    """Find before the work starts what would spoil it at its end."""
    from ..models.errors import FaceLoomError
    from ..models.files.picture import check_writable, format_of

    inputs = {path.resolve() for path in sources} | {job.target.resolve() for job in jobs}
    there = []
    for job in jobs:
        if format_of(job.out) == "BMP" and provenance:
            raise FaceLoomError(f"{job.out}: a .bmp file has no room for provenance; write .png, .jpg, .webp or .tif.")
        if job.out.resolve() in inputs:
            raise FaceLoomError(f"{job.out} is one of the pictures that are read; choose another OUT.")
        if job.out.is_dir():
            raise FaceLoomError(f"{job.out} is a folder; choose another OUT.")
        if job.out.exists():
            there.append(job.out)
    if there and not overwrite:
        more = f" and {len(there) - 1} more are" if len(there) > 1 else " is"
        raise FaceLoomError(f"{there[0]}{more} there already; pass --overwrite to replace, or choose another OUT.")
    for folder in sorted({job.out.parent for job in jobs}):
        check_writable(folder)


def copy_file(source: Path, destination: Path) -> None:
    """The same bytes under another name, in one move."""
    from ..models.files.picture import replace_file

    with open(source, "rb") as original, replace_file(destination) as copy:
        shutil.copyfileobj(original, copy)
