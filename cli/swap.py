"""Put one person's face into photographs.

SOURCE   photo(s) of the person: files, folders of photos, or comma-separated; several show the same person. Or one saved
         identity (.safetensors).
TARGET   the photograph, or a folder of photographs, to put the face into
OUT      the picture, or the folder, to write

exit codes: 0 all done; 1 some pictures failed (named on stderr, the others are written); 2 the request cannot be carried out
(nothing is written); 130 interrupted (what is written stays, nothing is half-written)
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields
from pathlib import Path

from ..models.options.detect import ORDERS
from ..models.options.paste import BLENDS, COLORS
from ..models.runtime.options import Options
from ..models.swap.load import options_by_method
from . import INTERRUPTED, OK, SOME_FAILED
from .jobs import Job, check, plan, source_files

NO_FACE = ("copy", "error", "skip")


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
    parser.epilog = options_help(options_by_method())
    add = parser.add_argument
    add("source", nargs="+", metavar="SOURCE", help=argparse.SUPPRESS)
    add("target", type=Path, metavar="TARGET", help=argparse.SUPPRESS)
    add("out", metavar="OUT", help=argparse.SUPPRESS)
    faces = parser.add_argument_group("which faces")
    faces.add_argument("--faces", default="all", help="all, first, largest, or positions such as 0,2 in --order (default: all)")
    faces.add_argument("--order", default="large-small", choices=tuple(ORDERS), help="how faces are counted (default: large-small)")
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


def options_help(methods: Mapping[str, type[Options]]) -> str:
    """Returns what --option takes: the options of each engine with their values, the default one in brackets, and what they do."""
    lines, explained = ["--option of the engines (docs/research-systems.md tells more):"], set()
    for method, kind in methods.items():
        lines.append(f"  {method:<14}{', '.join(option.name for option in fields(kind))}")
        for option in fields(kind):
            text = values_in_words(option)
            if option.metadata["help"] not in explained:  # several systems share the words about their masks
                text += f". {option.metadata['help']}"
                explained.add(option.metadata["help"])
            lines += textwrap.wrap(text, 110, initial_indent=f"    {option.name:<12}", subsequent_indent=" " * 16)
    return "\n".join(lines)


def values_in_words(option: Field) -> str:
    """Returns the values an option takes, and its default in brackets."""
    default, about = option.default, option.metadata
    if isinstance(default, bool):
        return f"on, off [{'on' if default else 'off'}]"
    values = ", ".join(about["choices"]) or f"{about['least']:g} to {about['most']:g}"
    return f"{values} [{default if about['choices'] else f'{default:g}'}]"


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


