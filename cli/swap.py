"""Put one person's face into photographs and clips. TARGET alone with --who FILE shows who is in a clip and swaps nothing.

SOURCE   photo(s) of the person: files, folders of photos, or comma-separated; several show the same person. Or one saved
         identity (.safetensors).
TARGET   the photograph, the clip (.mp4, .mov, .mkv, .webm and others), or the folder of both to put the face into
OUT      the picture, the clip, or the folder to write; a clip that was interrupted goes on where it stopped

exit codes: 0 all done; 1 some failed (named on stderr, the others are written); 2 the request cannot be carried out
(nothing is written); 130 interrupted (what is written stays, nothing is half-written)
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import INTERRUPTED, OK, SOME_FAILED
from .clip_arguments import OF_FACES, OF_FILES, ClipOptions, check_places, clip_options_of, given_options
from .folder import sentence
from .jobs import Job, Plan, check, is_animated, plan, source_files
from .swap_arguments import add_arguments, engine_options_of, name_files, settings_of

if TYPE_CHECKING:
    from .clips import Clips
    from .session import Session

__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> int:
    """Swaps the faces. Returns the exit code; see ``cli/__init__.py``."""
    name_files(arguments)
    settings, options = settings_of(arguments), engine_options_of(arguments)  # what cannot be is refused before anything is read
    clips = clip_options_of(arguments)
    if not arguments.source:
        from .who import run_who

        return run_who(arguments, settings.detect, clips)
    sources = source_files(arguments.source)
    todo = plan(arguments.target, arguments.out, arguments.recursive)
    check(todo.jobs, sources.pictures, arguments.overwrite, arguments.provenance)
    _check_clips(arguments, todo, clips)
    left_out = {**sources.left_out, **todo.left_out}
    if left_out:
        print(f"faceloom: {sentence(left_out)}", file=sys.stderr)

    from .session import Session

    session = Session.start(arguments, settings, options, sources.pictures, clips)
    swapper = None
    if any(job.is_clip for job in todo.jobs):  # photographs alone need no PyAV
        from ..models.runtime.memory import return_freed_blocks
        from .clips import Clips, request_of

        return_freed_blocks()
        swapper = Clips(session, request_of(arguments, sources.pictures), arguments.quiet)
    started = time.perf_counter()
    records, interrupted = work(session, todo.jobs, arguments.quiet, swapper)
    counts = {status: sum(record["status"] == status for record in records) for status in ("swapped", "copied", "skipped", "failed")}
    if arguments.json:
        kinds = {name: [record for record, job in zip(records, todo.jobs) if job.is_clip == is_clip]
                 for name, is_clip in (("pictures", False), ("clips", True))}
        print(json.dumps(session.summary() | {"counts": counts, "interrupted": interrupted,
                                              "seconds": round(time.perf_counter() - started, 3), **kinds,
                                              "left_out": [{"path": str(path), "reason": reason} for path, reason in left_out.items()]},
                         indent=2))
    elif len(records) != 1 or counts["failed"] == 0:
        print(", ".join(f"{count} {status}" for status, count in counts.items() if count) or "nothing done", "→", arguments.out)
    if interrupted:
        goes_on = "; the same command goes on with a clip where it stopped" if any(job.is_clip for job in todo.jobs) else ""
        print(f"faceloom: interrupted{goes_on}.", file=sys.stderr)
        return INTERRUPTED
    return SOME_FAILED if counts["failed"] else OK


def _check_clips(arguments: argparse.Namespace, todo: Plan, options: ClipOptions) -> None:
    """Raises FaceLoomError where something about clips cannot be, before the work."""
    alone = not os.path.isdir(arguments.target)
    clips = [job for job in todo.jobs if job.is_clip]
    if options.who is not None:
        from ..models.errors import FaceLoomError
        from .people import check_sheet

        if not alone:
            raise FaceLoomError("--who makes the picture of one clip; name that clip as TARGET instead of a folder.")
        check_sheet(options.who, [path for job in todo.jobs for path in (job.target, job.out)], arguments.overwrite)
    if not clips:
        if given_options(arguments, (*OF_FACES, *OF_FILES)):
            check_places(arguments, any(is_animated(job.target) for job in todo.jobs))
        return
    from .clips import check_clips

    check_clips(clips, options, alone, arguments.provenance)


def work(session: Session, jobs: Sequence[Job], quiet: bool, clips: Clips | None = None) -> tuple[list[dict], bool]:
    """Does the jobs one by one, whatever happens to any of them. Returns what became of each, and whether Ctrl-C ended it early. clips:
    what swaps clips, where there are some."""
    from tqdm import tqdm

    from ..models.errors import FaceLoomError

    records: list[dict] = []
    with tqdm(jobs, unit="picture", file=sys.stderr, disable=quiet or (len(jobs) == 1 and jobs[0].is_clip)) as bar:
        session.clock.listener = lambda stage: bar.set_postfix_str(stage)
        try:
            for job in bar:
                record: dict = {"target": str(job.target), "out": str(job.out)}
                try:
                    record |= clips.swap(job) if clips is not None and job.is_clip else session.swap(job)
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


