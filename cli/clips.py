"""Swaps the faces of one clip: found and followed in a first pass, swapped and written in a second one, with its sound and its times."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from ..models.clip.find import ClipSearch, FoundFaces, find_faces
from ..models.clip.swap import ClipPlan, ClipSwapper, swap_frames
from ..models.clip.who import people
from ..models.errors import FaceLoomError
from ..models.faces import Faces
from ..models.files.video import CONTAINERS, ClipFrame, ClipInfo, EncodeSettings, check_output, open_writer, probe, read_frames, tone_mapped
from ..models.pipeline import Settings
from ..models.runtime.options import Value
from ..models.select.fill import fill_gaps
from ..models.select.smooth import smooth_faces
from . import INTERRUPTED, OK, own_version
from .session import Session

FILL = 12  # frames in a row in which a face may be missed and is put in
SEARCH_EVERY = 8  # frames, between which faces are looked for only where they are expected


def clip_output(target: Path, out: str, inputs: Sequence[Path], overwrite: bool) -> Path:
    """Returns the file to write; FaceLoomError where it cannot be."""
    path = Path(out)
    if path.is_dir() or out.endswith(("/", "\\")) or not path.suffix:
        path = path / (target.name if target.suffix.lower() in CONTAINERS else f"{target.stem}.mp4")
    if path.suffix.lower() not in CONTAINERS:
        raise FaceLoomError(f"{target} is a clip, so OUT must be one, {', '.join(CONTAINERS)}, not {path}.")
    if os.path.realpath(path) in {os.path.realpath(file) for file in (*inputs, target)}:
        raise FaceLoomError(f"{path} is one of the files that are read; choose another OUT.")
    if path.exists() and not overwrite:
        raise FaceLoomError(f"{path} is there already; pass --overwrite to replace it, or choose another OUT.")
    return path


def run_clip(arguments: argparse.Namespace, settings: Settings, options: Mapping[str, Value], sources: Sequence[Path]) -> int:
    """Swaps the faces of the clip TARGET. Returns the exit code; see ``cli/__init__.py``."""
    if arguments.provenance or arguments.mask is not None:
        raise FaceLoomError("--provenance and --mask are for photographs; leave them out for a clip.")
    target = Path(arguments.target)
    out = clip_output(target, arguments.out, sources, arguments.overwrite)
    info, encode = probe(target), EncodeSettings()
    check_output(out, target, info, encode)
    session = Session.start(arguments, settings, options, sources, arguments.no_face or "error")
    started = time.perf_counter()
    try:
        found, times = _find(target, info, session, arguments.quiet)
        faces = smooth_faces(fill_gaps(found.faces, FILL), jump=0)
        if not len(faces):
            raise FaceLoomError(f"There is no face in {target}; lower --threshold.")
        key = _key(target, sources, arguments)
        _swap(target, out, info, encode, faces, session, key, arguments.quiet)
    except KeyboardInterrupt:
        print("faceloom: interrupted; the same command goes on where it stopped.", file=sys.stderr)
        return INTERRUPTED
    filled = sum(face.score == 0 for face in faces)
    report = {"frames": faces.frames, "frames_with_a_face": len(set(faces.frame_indices.tolist())), "filled": filled,
              "people": [str(person) for person in people(faces, times)], "seconds": round(time.perf_counter() - started, 3)}
    if arguments.json:
        print(json.dumps(session.summary() | {"target": str(target), "out": str(out), **report}, indent=2))
    else:
        print(f"{report['frames']} frames, {report['frames_with_a_face']} with a face", "→", out)
    return OK


def _progress(what: str, count: int | None, quiet: bool):
    from tqdm import tqdm

    return tqdm(total=count, desc=what, unit="frame", file=sys.stderr, disable=quiet)


def _find(target: Path, info: ClipInfo, session: Session, quiet: bool) -> tuple[FoundFaces, list[float]]:
    """Pass one. Returns what was found, and the time of every frame in seconds."""
    times: list[float] = []
    with read_frames(target) as frames, _progress("finding", info.frames, quiet) as bar, session.clock.stage("detect"):

        def images() -> Iterator[torch.Tensor]:
            for frame in frames:
                times.append(float(frame.time))
                bar.update()
                yield tone_mapped(frame.image(), info.marks.transfer, info.marks.primaries)

        search = ClipSearch(session.settings.detect, SEARCH_EVERY)
        return find_faces(images(), search, session.models.detector, session.models.recognizer), times


def _swap(target: Path, out: Path, info: ClipInfo, encode: EncodeSettings, faces: Faces, session: Session, key: str, quiet: bool) -> None:
    """Pass two: writes the frames, from where an earlier run with the same request stopped."""
    swapper = ClipSwapper(ClipPlan(faces, session.source, session.models, session.settings), session.clock)
    with open_writer(out, target, info, encode, key=key) as writer:
        done = writer.frames_done
        with read_frames(target, after=writer.last_pts, first_index=done) as frames, _progress("swapping", faces.frames, quiet) as bar:
            bar.update(done)
            waiting: deque[ClipFrame] = deque()

            def images() -> Iterator[torch.Tensor]:
                for frame in frames:
                    waiting.append(frame)
                    yield frame.image()

            for image, changed in swap_frames(images(), swapper, done):
                writer.write(waiting.popleft(), image if changed else None)
                bar.update()
        with session.clock.stage("write"):
            writer.finish()


def _key(target: Path, sources: Sequence[Path], arguments: argparse.Namespace) -> str:
    """Returns a name for everything that decides the pixels: the files that are read, by size and time of change, and the request."""
    files = [(os.path.realpath(path), path.stat().st_size, path.stat().st_mtime_ns) for path in (target, *sources)]
    asked = {name: str(value) for name, value in vars(arguments).items() if name not in ("quiet", "json", "overwrite", "out")}
    return hashlib.sha256(repr((own_version(), files, sorted(asked.items()))).encode()).hexdigest()
