"""One run of ``swap``: the person and the engine, loaded once, and each photograph in turn."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..models.errors import FaceLoomError
from ..models.faces import Identity
from ..models.files.picture import PictureFile, read_picture_file, write_image
from ..models.pipeline import Clock, Settings, read_identity, swap_photograph
from ..models.pixels.tensors import as_images
from ..models.swap import SwapEngine
from ..models.swap.load import load_engine, read_options
from . import own_version
from .jobs import Job, copy_file


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The command line's options. ``largest`` is the first of large-small."""
    largest = arguments.faces == "largest"
    return Settings(
        faces="first" if largest else arguments.faces, order="large-small" if largest else arguments.order,
        threshold=arguments.threshold, framing=arguments.framing, crop_size=arguments.crop_size, strength=arguments.strength,
        color=arguments.color, blend=arguments.blend, feather=arguments.feather, restore=arguments.restore)


@dataclass(frozen=True, eq=False)
class Session:
    """What stays the same from picture to picture. source: what the engine made of the identity."""

    identity: Identity
    engine: SwapEngine
    source: Any
    settings: Settings
    no_face: str
    provenance: bool
    report: str = ""
    clock: Clock = field(default_factory=Clock)

    @classmethod
    def start(cls, arguments: argparse.Namespace, sources: Sequence[Path], no_face: str) -> Session:
        """Load the engine and the person; FaceLoomError where either cannot be had."""
        settings, clock = settings_of(arguments), Clock()
        engine = load_engine(arguments.engine, **read_options(arguments.option))
        identity, report = read_identity(sources, settings, clock)
        with clock.stage("source"):
            source = engine.prepare(identity)
        return cls(identity, engine, source, settings, no_face, arguments.provenance, report, clock)

    def swap(self, job: Job) -> dict:
        """Swap one photograph and write it. Returns what became of it."""
        start = time.perf_counter()
        with self.clock.stage("read"):
            picture = read_picture_file(job.target)
        done = swap_photograph(as_images(picture.image), self.source, self.engine, self.settings, self.clock)
        if not len(done.faces):
            return self._without_face(job, picture)
        with self.clock.stage("write"):
            write_image(job.out, done.result[0], self._statement(len(done.faces)) if self.provenance else None,
                        alpha=picture.alpha, icc=picture.icc)
        record = {"status": "swapped", "faces": len(done.faces), "boxes": [[round(float(v)) for v in face.box] for face in done.faces],
                  "milliseconds": round((time.perf_counter() - start) * 1000, 1)}
        if picture.bits > 8:
            record["note"] = f"{job.target} has {picture.bits} bits per channel; {job.out} has 8."
        return record

    def _without_face(self, job: Job, picture: PictureFile) -> dict:
        if self.no_face == "error":
            raise FaceLoomError(f"There is no face in {job.target}; lower --threshold, or pass --no-face copy to pass it through.")
        if self.no_face == "skip":
            return {"status": "skipped", "faces": 0, "note": f"no face in {job.target}; left out."}
        if job.target.suffix.lower() == job.out.suffix.lower():
            copy_file(job.target, job.out)
        else:
            write_image(job.out, picture.image, alpha=picture.alpha, icc=picture.icc)
        return {"status": "copied", "faces": 0, "note": f"no face in {job.target}; copied unchanged."}

    def _statement(self, faces: int) -> dict[str, str]:
        return provenance(self.engine.name, self.identity.name, faces)

    def summary(self) -> dict:
        return {
            "faceloom": own_version(), "engine": self.engine.name,
            "identity": {"name": self.identity.name, "photos": self.identity.photos, "report": self.report},
            "milliseconds": self.clock.rounded(),
        }


def provenance(engine: str, person: str, faces: int) -> dict[str, str]:
    """What a picture says about itself."""
    return {
        "Provenance": f"Face swap: {faces} face(s) in this picture were replaced by software.",
        "Software": f"FaceLoom {own_version()}",
        "Engine": engine,
        "Source": person,
    }
