"""Swaps the faces of one clip: found and followed in a first pass, swapped and written in a second one, with its sound and its times."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..models.clip.find import ClipSearch, FoundFaces
from ..models.clip.run import find_in_clip, swap_clip
from ..models.clip.swap import ClipPlan, ClipSwapper
from ..models.clip.who import people
from ..models.errors import FaceLoomError
from ..models.faces import Faces
from ..models.files.video import CONTAINERS, ClipInfo, EncodeSettings, check_output, open_writer, probe
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
        found = _find(target, info, session, arguments.quiet)
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
              "people": [str(person) for person in people(faces, found.times)], "seconds": round(time.perf_counter() - started, 3)}
    if arguments.json:
        print(json.dumps(session.summary() | {"target": str(target), "out": str(out), **report}, indent=2))
    else:
        print(f"{report['frames']} frames, {report['frames_with_a_face']} with a face", "→", out)
    return OK


def _progress(what: str, count: int | None, quiet: bool):
    from tqdm import tqdm

    return tqdm(total=count, desc=what, unit="frame", file=sys.stderr, disable=quiet)


def _find(target: Path, info: ClipInfo, session: Session, quiet: bool) -> FoundFaces:
    """Pass one."""
    with _progress("finding", info.frames, quiet) as bar, session.clock.stage("detect"):
        search = ClipSearch(session.settings.detect, SEARCH_EVERY)
        return find_in_clip(target, search, session.models.detector, session.models.recognizer, progress=lambda done, total: bar.update())


def _swap(target: Path, out: Path, info: ClipInfo, encode: EncodeSettings, faces: Faces, session: Session, key: str, quiet: bool) -> None:
    """Pass two: writes the frames, from where an earlier run with the same request stopped."""
    swapper = ClipSwapper(ClipPlan(faces, session.source, session.models, session.settings), session.clock)
    with open_writer(out, target, info, encode, key=key) as writer:
        with _progress("swapping", faces.frames, quiet) as bar:
            bar.update(writer.frames_done)
            swap_clip(target, writer, swapper, watch=lambda done, total, picture: bar.update())
        with session.clock.stage("write"):
            writer.finish()


def _key(target: Path, sources: Sequence[Path], arguments: argparse.Namespace) -> str:
    """Returns a name for everything that decides the pixels: the files that are read, by size and time of change, and the request."""
    files = [(os.path.realpath(path), path.stat().st_size, path.stat().st_mtime_ns) for path in (target, *sources)]
    asked = {name: str(value) for name, value in vars(arguments).items() if name not in ("quiet", "json", "overwrite", "out")}
    return hashlib.sha256(repr((own_version(), files, sorted(asked.items()))).encode()).hexdigest()
