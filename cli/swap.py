"""Put one person's face into photographs, or into a clip.

SOURCE   photo(s) of the person: files, folders of photos, or comma-separated; several show the same person. Or one saved
         identity (.safetensors).
TARGET   the photograph, a folder of photographs, or a clip (.mp4, .mov, .mkv, .webm and others) to put the face into
OUT      the picture, the folder, or the clip to write; a clip that was interrupted goes on where it stopped

exit codes: 0 all done; 1 some pictures failed (named on stderr, the others are written); 2 the request cannot be carried out
(nothing is written); 130 interrupted (what is written stays, nothing is half-written)
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING

from . import INTERRUPTED, OK, SOME_FAILED
from .folder import sentence
from .jobs import Job, check, is_clip, plan, source_files
from .swap_arguments import add_arguments, engine_options_of, settings_of

if TYPE_CHECKING:
    from .session import Session

__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> int:
    """Swaps the faces. Returns the exit code; see ``cli/__init__.py``."""
    settings, options = settings_of(arguments), engine_options_of(arguments)  # what cannot be is refused before anything is read
    sources = source_files(arguments.source)
    if is_clip(arguments.target):
        from .clips import run_clip

        return run_clip(arguments, settings, options, sources.pictures)
    todo = plan(arguments.target, arguments.out, arguments.recursive)
    check(todo.jobs, sources.pictures, arguments.overwrite, arguments.provenance)
    left_out = {**sources.left_out, **todo.left_out}
    if left_out:
        print(f"faceloom: {sentence(left_out)}", file=sys.stderr)

    from .session import Session

    no_face = arguments.no_face or ("copy" if os.path.isdir(arguments.target) else "error")
    session = Session.start(arguments, settings, options, sources.pictures, no_face)
    started = time.perf_counter()
    records, interrupted = work(session, todo.jobs, arguments.quiet)
    counts = {status: sum(record["status"] == status for record in records) for status in ("swapped", "copied", "skipped", "failed")}
    if arguments.json:
        print(json.dumps(session.summary() | {"counts": counts, "interrupted": interrupted,
                                              "seconds": round(time.perf_counter() - started, 3), "pictures": records,
                                              "left_out": [{"path": str(path), "reason": reason} for path, reason in left_out.items()]},
                         indent=2))
    elif len(records) != 1 or counts["failed"] == 0:
        print(", ".join(f"{count} {status}" for status, count in counts.items() if count) or "nothing done", "→", arguments.out)
    if interrupted:
        print("faceloom: interrupted.", file=sys.stderr)
        return INTERRUPTED
    return SOME_FAILED if counts["failed"] else OK


def work(session: Session, jobs: Iterable[Job], quiet: bool) -> tuple[list[dict], bool]:
    """Does the jobs one by one, whatever happens to any of them. Returns what became of each, and whether Ctrl-C ended it early."""
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


