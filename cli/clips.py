"""Swaps the faces of clips: found and followed in a first pass, swapped and written in a second one, with their sound and their times."""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..models.clip.find import FoundFaces
from ..models.clip.follow import choose_people, count_people, steady_faces
from ..models.clip.run import swap_clip
from ..models.clip.store import load_found, save_found
from ..models.clip.swap import ClipPlan, ClipSwapper
from ..models.clip.who import people
from ..models.errors import FaceLoomError
from ..models.faces import Faces
from ..models.files.video import AnimationWriter, ClipInfo, ClipWriter, check_output, open_writer, probe
from ..models.pipeline import Clock
from . import own_version
from .clip_arguments import ClipOptions
from .folder import is_video
from .jobs import Job, copy_file
from .people import described, expected_frames, find_people, write_sheet
from .progress import frames_bar
from .session import Session, provenance

SEGMENT_FRAMES = 256  # after which an interrupted run goes on; a multiple of how many frames are worked on together
FACES = "faces.safetensors"  # what the first pass found, in the folder of a run that is not finished
# Arguments that change nothing about what is written into a clip, or are files, which the key knows by their state.
_NOT_IN_KEY = ("files", "source", "target", "out", "quiet", "json", "overwrite", "who", "resume", "recursive", "no_face")

Writer = ClipWriter | AnimationWriter


def check_clips(jobs: Sequence[Job], options: ClipOptions, alone: bool, provenance: bool) -> None:
    """Finds before the work starts what would spoil clips at its end; FaceLoomError. alone: TARGET is a clip itself, so that one that
    cannot be read is refused; in a folder it only fails."""
    for job in jobs:
        if not is_video(job.out) and (provenance or options.codec != "auto"):
            words = "room for provenance" if provenance else "choice of codec"
            raise FaceLoomError(f"{job.out}: a {job.out.suffix} file made of a clip has no {words}; write .mp4 or .mkv, or leave it out.")
        try:
            info = probe(job.target)
        except FaceLoomError:
            if alone:
                raise
            continue
        if options.start is not None and info.duration is not None and options.start >= info.duration:
            raise FaceLoomError(f"{job.target} is {float(info.duration):.2f} s long, so nothing is left of it after --start "
                                f"{options.start:g} s.")
        check_output(job.out, job.target, info, options.encoding())


def stamp(path: Path) -> tuple[str, int, int]:
    """Returns a file's place, size and time of change, which tell whether it is the same as before."""
    status = path.stat()
    return os.path.realpath(path), status.st_size, status.st_mtime_ns


def request_of(arguments: argparse.Namespace, sources: Sequence[Path]) -> str:
    """Returns what a run is asked for, in so far as it decides what is written into a clip; with the state of the files that are read."""
    asked = {name: str(value) for name, value in vars(arguments).items() if name not in _NOT_IN_KEY}
    named = [Path(value) for value in asked.values() if os.path.isfile(value)]  # a mask, models
    return repr((own_version(), sorted(asked.items()), [stamp(path) for path in (*sources, *named)]))


@dataclass(frozen=True, eq=False)
class Clips:
    """Swaps clip after clip with the models and the person of one session. request: see ``request_of``."""

    session: Session
    request: str
    quiet: bool = False

    @property
    def options(self) -> ClipOptions:
        """What was asked of clips."""
        return self.session.clips

    def swap(self, job: Job) -> dict:
        """Swaps one clip and writes the result. Returns what became of it; FaceLoomError where it cannot be."""
        started, clock, session, options = time.perf_counter(), Clock(), self.session, self.options
        info = probe(job.target)
        tags = provenance(session.models.engine.name, session.identity.name) if session.provenance else {}
        encode = replace(options.encoding(not session.strip, tags), segment_frames=SEGMENT_FRAMES)
        section, key = options.section(info), hashlib.sha256(repr((self.request, job.out.name, stamp(job.target))).encode()).hexdigest()
        with open_writer(job.out, job.target, info, encode, window=(section.start, section.end), key=key, resume=options.resume) as writer:
            notes = _notes(job, info, writer, options)
            with clock.stage("detect"):
                found = self._find(job, info, writer)
            if options.who is not None:
                write_sheet(options.who, found)
            chosen = choose_people(found.faces, session.settings.detect.keep)
            if not len(chosen) and (record := self._without_face(job, writer, count_people(found.faces))):
                return record
            plan = ClipPlan(steady_faces(chosen, options.follow), session.source, session.models, session.settings, options.follow.fade,
                            frame_mask=session.mask)
            swapper = ClipSwapper(plan, clock)
            notes += [] if len(chosen) else [f"nobody to swap in {job.target}; its frames are written as they are."]
            notes += session.missing_positions(job, _people(count_people(found.faces)), count_people(found.faces))
            with frames_bar("swapping", plan.faces.frames, self.quiet, writer.frames_done) as bar:
                swap_clip(job.target, writer, swapper, section=section, watch=lambda done, total, picture: bar.update())
            with clock.stage("write"):
                writer.finish()
        for stage, spent in clock.milliseconds.items():
            session.clock.milliseconds[stage] += spent
        record = {"status": "swapped" if len(chosen) else "copied", **_counts(found, swapper), "milliseconds": clock.rounded(),
                  "seconds": round(time.perf_counter() - started, 3)}
        return record | ({"note": " ".join(notes)} if notes else {})

    def _find(self, job: Job, info: ClipInfo, writer: Writer) -> FoundFaces:
        """Returns the faces of a clip: those that an interrupted run found, or those of the first pass."""
        kept = writer.folder / FACES if isinstance(writer, ClipWriter) else None
        if kept is not None and kept.exists():
            with suppress(FaceLoomError):  # damaged: they are found again
                return load_found(kept)
        session, models = self.session, self.session.models
        with frames_bar("finding", expected_frames(info, self.options), self.quiet) as bar:
            found = find_people(job.target, info, self.options, session.settings.detect, (models.detector, models.recognizer),
                                lambda done, total: bar.update())
        if kept is not None:
            save_found(found, kept)
        return found

    def _without_face(self, job: Job, writer: Writer, people: int) -> dict | None:
        """Returns what becomes of a clip in which nobody is to be swapped; None where its frames are to be written as they are."""
        session, options = self.session, self.options
        keep = session.settings.detect.keep
        none = f"{_people(people)} in {job.target}, none of them at --faces {keep}" if people else f"no face in {job.target}"
        if session.no_face == "copy":
            of_faces = ClipOptions(options.follow, resume=options.resume, who=options.who)
            if job.target.suffix.lower() != job.out.suffix.lower() or session.strip or options != of_faces:
                return None
        writer.discard()
        if session.no_face == "error":
            what = "--who FILE shows their numbers" if people else "lower --threshold, or pass --no-face copy to pass it through"
            raise FaceLoomError(f"There is {none}; {what}.")
        if session.no_face == "copy":
            copy_file(job.target, job.out)
        status, words = ("copied", "copied unchanged") if session.no_face == "copy" else ("skipped", "left out")
        return {"status": status, "note": f"{none}; {words}."}


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count} people"


def _notes(job: Job, info: ClipInfo, writer: Writer, options: ClipOptions) -> list[str]:
    """Returns what has to be said of a clip."""
    notes = []
    if isinstance(writer, ClipWriter):
        if writer.frames_done:
            notes.append(f"{job.out} went on after {writer.frames_done} frames of an interrupted run.")
        if others := len(writer.other_runs()):
            notes.append(f"What {others} interrupted run(s) with other settings had left of {job.out} was removed.")
    elif info.streams and options.audio == "copy":
        notes.append(f"{job.out} has no sound; write .mp4 or .mkv to keep it.")
    if info.interlaced:
        notes.append(f"{job.target} is interlaced and stays so; faces that move fast come out cleaner if it is deinterlaced first.")
    return notes


def _counts(found: FoundFaces, swapper: ClipSwapper) -> dict:
    """Returns what was found and swapped, for the JSON document."""
    faces: Faces = swapper.plan.faces
    return {"frames": faces.frames, "frames_with_a_face": len(set(found.faces.frame_indices.tolist())),
            "frames_swapped": sum(swapper.has_faces(frame) for frame in range(faces.frames)), "faces": len(faces),
            "filled": sum(face.score == 0 for face in faces), "faded": int((swapper.weights < 1).sum()),
            "people": [described(person) for person in people(found.faces, found.times)]}
