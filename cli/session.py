"""One run of ``swap``: the models and the person, loaded once, and each photograph in turn."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..models.errors import FaceLoomError
from ..models.faces import Identity
from ..models.files.picture import PictureFile, read_picture_file, write_image
from ..models.pipeline import Clock, Models, Settings, open_models, read_identity, swap_photograph
from ..models.pixels.tensors import as_images
from ..models.runtime.devices import PlainDevices
from ..models.runtime.method import Loading
from ..models.runtime.options import Value
from . import own_version
from .jobs import Job, copy_file
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
class Session:
    """What stays the same from picture to picture. source: what the engine prepared of the identity. mask: see ``swap_photograph``."""

    identity: Identity
    models: Models
    source: Any
    settings: Settings
    no_face: str
    provenance: bool
    mask: torch.Tensor | None = None
    report: str = ""
    clock: Clock = field(default_factory=Clock)

    @classmethod
    def start(cls, arguments: argparse.Namespace, settings: Settings, options: Mapping[str, Value], sources: Sequence[Path], no_face: str
              ) -> Session:
        """Loads the models, the mask and the person; FaceLoomError where one of them cannot be had."""
        clock = Clock()
        models = open_models(names_of(arguments), loading_of(arguments.device, arguments.provider), options)
        models.check(settings)
        mask = None if arguments.mask is None else read_mask(arguments.mask)
        identity, report = read_identity(sources, models, settings, clock)
        with clock.stage("source"):
            source = models.engine.prepare(identity) if settings.swap.strength != 0 else identity
        return cls(identity, models, source, settings, no_face, arguments.provenance, mask, report, clock)

    def swap(self, job: Job) -> dict:
        """Swaps one photograph and writes the result. Returns what became of it."""
        start = time.perf_counter()
        with self.clock.stage("read"):
            picture = read_picture_file(job.target)
        done = swap_photograph(as_images(picture.image), self.source, self.models, self.settings, self.clock, mask=self.mask,
                               alpha=picture.alpha)
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
        return provenance(self.models.engine.name, self.identity.name, faces)

    def summary(self) -> dict:
        """Returns what the whole run has in common, for the JSON document."""
        return {
            "faceloom": own_version(), "engine": self.models.engine.name,
            "identity": {"name": self.identity.name, "photos": self.identity.photos, "report": self.report},
            "milliseconds": self.clock.rounded(),
        }


def provenance(engine: str, person: str, faces: int) -> dict[str, str]:
    """Returns what is written into a picture about itself."""
    return {
        "Provenance": f"Face swap: {faces} face(s) in this picture were replaced by software.",
        "Software": f"FaceLoom {own_version()}",
        "Engine": engine,
        "Source": person,
    }
