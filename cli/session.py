"""One run of ``swap``: the models and the person, loaded once, and each photograph in turn."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..models.clip.find import find_faces
from ..models.clip.follow import choose_people, count_people, number_people, steady_faces
from ..models.clip.frames import swap_frames
from ..models.clip.swap import Box, ClipPlan, ClipSwapper
from ..models.detect import kept_positions
from ..models.detect.seen import as_seen
from ..models.errors import FaceLoomError
from ..models.faces import Identity
from ..models.files.picture import (
    Frames,
    PictureFile,
    check_size,
    picture_array,
    read_frames,
    read_picture_file,
    write_pictures,
)
from ..models.files.picture_formats import format_of
from ..models.files.picture_metadata import Metadata
from ..models.pipeline import Clock, Models, Settings, Swapped, open_models, read_identity, swap_photograph
from ..models.pixels.tensors import as_images
from ..models.runtime.devices import PlainDevices
from ..models.runtime.method import Loading
from ..models.runtime.options import Value
from . import own_version
from .clip_arguments import ClipOptions
from .jobs import Job, check_frames, copy_file
from .people import search_of, write_sheet
from .swap_arguments import names_of


def loading_of(device: str, provider: str) -> Loading:
    """Returns what models are opened with. device: ``auto``, ``cpu`` or ``cuda``. provider: ``auto`` or a key of ``PROVIDERS``.

    FaceLoomError where torch has no CUDA.
    """
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise FaceLoomError("torch finds no CUDA here; pass --device cpu, or install a torch with CUDA.")
    cuda = there and device != "cpu"
    return Loading(providers=provider, devices=PlainDevices("cuda" if cuda else "cpu"), half=cuda)


def read_mask(path: Path) -> torch.Tensor:
    """Reads a picture as a mask ``[1, h, w]`` 0..1: its mean brightness, and 0 where it is transparent."""
    picture = read_picture_file(path)
    mask = as_images(picture.image).mean(-1)
    return mask if picture.alpha is None else mask * picture.alpha


@dataclass(frozen=True, eq=False)
class _Shown:
    """A frame of an animated picture, as it is swapped."""

    picture: PictureFile

    def image(self, box: Box) -> torch.Tensor:
        """Returns a part of it, ``[h, w, 3]``."""
        return as_images(self.picture.image)[0][box.slices]


@dataclass
class Result:
    """The frames of one photograph as they are to be written, and what was found in each: boxes of the faces that were swapped, and how
    many faces there are."""

    arrays: list[np.ndarray] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    boxes: list[list[list[int]]] = field(default_factory=list)
    found: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    metadata: Metadata = field(default_factory=Metadata)
    icc: bytes | None = None
    bits: int = 8

    def add(self, picture: PictureFile, done: Swapped, format_name: str) -> None:
        """Takes the next frame. The metadata are the first one's."""
        if not self.arrays:
            self.metadata, self.icc, self.bits = picture.metadata, picture.icc, picture.bits
        self.arrays.append(picture_array(done.result[0], picture.alpha, format_name))
        self.milliseconds.append(picture.milliseconds)
        self.boxes.append([[round(float(v)) for v in face.box] for face in done.faces])
        self.found.append(done.found)
        self.notes += picture.notes


def _faces(count: int) -> str:
    return "1 face" if count == 1 else f"{count} faces"


@dataclass(frozen=True, eq=False)
class Session:
    """What stays the same from picture to picture. source: what the engine prepared of the identity. strip: write no metadata but the
    provenance. mask: see ``swap_photograph``. clips: what was asked of clips and animated pictures."""

    identity: Identity
    models: Models
    source: Any
    settings: Settings
    no_face: str
    provenance: bool
    strip: bool = False
    mask: torch.Tensor | None = None
    report: str = ""
    clips: ClipOptions = field(default_factory=ClipOptions)
    clock: Clock = field(default_factory=Clock)

    @classmethod
    def start(cls, arguments: argparse.Namespace, settings: Settings, options: Mapping[str, Value], sources: Sequence[Path],
              clips: ClipOptions) -> Session:
        """Loads the models, the mask and the person; FaceLoomError where one of them cannot be had."""
        clock = Clock()
        models = open_models(names_of(arguments), loading_of(arguments.device, arguments.provider), options)
        models.check(settings)
        mask = None if arguments.mask is None else read_mask(arguments.mask)
        identity, report = read_identity(sources, models, settings, clock)
        with clock.stage("source"):
            source = models.engine.prepare(identity) if settings.swap.strength != 0 else identity
        no_face = arguments.no_face or ("copy" if os.path.isdir(arguments.target) else "error")
        return cls(identity, models, source, settings, no_face, arguments.provenance, arguments.strip, mask, report, clips, clock)

    def swap(self, job: Job) -> dict:
        """Swaps all frames of one photograph and writes the result. Returns what became of it."""
        start = time.perf_counter()
        result = Result()
        with self.clock.stage("read"):
            frames = check_frames(job)
        swapped = self._animation(job) if frames.count > 1 and frames.timed else self._pages(job, frames.count)
        for picture, done in swapped:
            result.add(picture, done, format_of(job.out))
        if not any(result.boxes):
            return self._without_face(job, result, frames)
        with self.clock.stage("write"):
            notes = [*result.notes, *self._write(job, result, frames, swapped=True)]
        notes += self.missing_positions(job, _faces(min(result.found)), min(result.found))
        record = {"status": "swapped", "faces": sum(map(len, result.boxes)), "boxes": result.boxes if frames.count > 1 else result.boxes[0],
                  "milliseconds": round((time.perf_counter() - start) * 1000, 1)}
        if frames.count > 1:
            record["frames"] = len(result.arrays)
        if result.bits > 8:
            notes.append(f"{job.target} has {result.bits} bits per channel; {job.out} has 8.")
        return record | ({"note": " ".join(notes)} if notes else {})

    def _pages(self, job: Job, count: int) -> Iterator[tuple[PictureFile, Swapped]]:
        """Swaps the pages of a photograph, each for itself."""
        for picture in read_frames(job.target) if count > 1 else [read_picture_file(job.target)]:
            check_size(job.out, picture.image.shape[1], picture.image.shape[0])
            yield picture, swap_photograph(as_images(picture.image), self.source, self.models, self.settings, self.clock, mask=self.mask,
                                           alpha=picture.alpha)

    def _animation(self, job: Job) -> Iterator[tuple[PictureFile, Swapped]]:
        """Swaps the frames of an animated picture, whose faces are followed as those of a clip are."""
        models, detect, follow, times = self.models, self.settings.detect, self.clips.follow, [0.0]

        def seen() -> Iterator[torch.Tensor]:
            for picture in read_frames(job.target):
                check_size(job.out, picture.image.shape[1], picture.image.shape[0])
                times.append(times[-1] + picture.milliseconds / 1000)
                yield as_seen(as_images(picture.image), picture.alpha)[0]

        with self.clock.stage("detect"):
            found = number_people(find_faces(seen(), search_of(detect), models.detector, models.recognizer), detect.order)
        found = replace(found, times=tuple(times[:-1]))
        if self.clips.who is not None:
            write_sheet(self.clips.who, found)
        faces = steady_faces(choose_people(found.faces, detect.keep), follow)
        plan = ClipPlan(faces, self.source, models, self.settings, follow.fade, frame_mask=self.mask)
        swapper = ClipSwapper(plan, self.clock)
        for number, (frame, patch) in enumerate(swap_frames(map(_Shown, read_frames(job.target)), swapper)):
            image = as_images(frame.picture.image)
            here = swapper.faces.take(swapper.members.get(number, []))
            result = image if patch is None else image.clone()
            if patch is not None:
                result[(slice(None), *patch.box.slices)] = patch.pixels
            yield frame.picture, Swapped(image, here, result, found=count_people(found.faces))

    def _write(self, job: Job, result: Result, frames: Frames, swapped: bool) -> list[str]:
        """Writes the frames. Returns notes about what of the photograph's metadata was lost."""
        statement = self._statement(sum(map(len, result.boxes))) if self.provenance and swapped else None
        lost = write_pictures(
            job.out, result.arrays, statement, milliseconds=result.milliseconds, frames=frames, icc=result.icc,
            about=None if self.strip else result.metadata)
        return [f"{job.out} has no room for {', '.join(lost)}."] if lost else []

    def _without_face(self, job: Job, result: Result, frames: Frames) -> dict:
        found, keep = max(result.found), self.settings.detect.keep
        none = f"{job.target} has {_faces(found)}, none of them at --faces {keep}" if found else f"no face in {job.target}"
        if self.no_face == "error" and found:
            counted = f"they are counted from 0 to {found - 1}" if found > 1 else "the only one is 0"
            raise FaceLoomError(f"{job.target} has {_faces(found)}, and --faces {keep} names none of them; {counted}.")
        if self.no_face == "error":
            raise FaceLoomError(f"There is no face in {job.target}; lower --threshold, or pass --no-face copy to pass it through.")
        if self.no_face == "skip":
            return {"status": "skipped", "faces": 0, "note": f"{none}; left out."}
        if job.target.suffix.lower() == job.out.suffix.lower() and not self.strip:
            copy_file(job.target, job.out)
            return {"status": "copied", "faces": 0, "note": f"{none}; copied unchanged."}
        notes = [f"{none}; copied{' without its metadata' if self.strip else ''}.", *result.notes]
        return {"status": "copied", "faces": 0, "note": " ".join([*notes, *self._write(job, result, frames, swapped=False)])}

    def missing_positions(self, job: Job, words: str, found: int) -> list[str]:
        """Returns a note about the parts of --faces that name nobody among so many faces or people; none where all name somebody. words:
        how many there are."""
        keep = self.settings.detect.keep
        if keep in ("all", "first"):
            return []
        missing = [part.strip() for part in keep.split(",") if not kept_positions(part, found)]
        return [f"{job.target} has {words}; there is none at {', '.join(missing)} of --faces."] if missing else []

    def _statement(self, faces: int) -> dict[str, str]:
        return provenance(self.models.engine.name, self.identity.name, f"{faces} face(s) in this picture")

    def summary(self) -> dict:
        """Returns what the whole run has in common, for the JSON document."""
        return {
            "faceloom": own_version(), "engine": self.models.engine.name,
            "identity": {"name": self.identity.name, "photos": self.identity.photos, "report": self.report},
            "milliseconds": self.clock.rounded(),
        }


def provenance(engine: str, person: str, faces: str = "faces in this clip") -> dict[str, str]:
    """Returns what is written into a picture or a clip about itself."""
    return {
        "Provenance": f"Face swap: {faces} were replaced by software.",
        "Software": f"FaceLoom {own_version()}",
        "Engine": engine,
        "Source": person,
    }
