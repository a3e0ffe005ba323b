"""Detect, swap, restore, paste: the stages one after another, timed, as every command uses them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .crops.crop import crop_matrices, cut_crops
from .crops.transformed import transform_face
from .detect import detect_faces
from .errors import FaceLoomError
from .faces import Faces, Identity
from .files.picture import read_image
from .identity import make_identity
from .identity.files import load_identity
from .identity.photos import join_photos
from .options.detect import DetectSettings
from .options.paste import PasteSettings
from .paste import paste
from .pixels.affine import invert, scale_of, transform
from .pixels.tensors import as_images
from .progress import Progress, silent
from .restore import restore_crops
from .swap import SwapEngine, SwapSettings, swap_faces

SMALLEST_CROP, LARGEST_CROP = 512, 1024


@dataclass(frozen=True)
class Settings:
    """How to swap. faces: ``all``, ``first`` or positions in ``order``. crop_size: pixels, or None for the faces' own resolution
    (512 to 1024). restore: 0..1, how far sharpness and grain follow the photograph. The rest is as in ``models/``."""

    faces: str = "all"
    order: str = "large-small"
    threshold: float = 0.5
    framing: float = 1.0
    crop_size: int | None = None
    strength: float = 1.0
    color: str = "none"
    blend: str = "feather"
    feather: float = 0.0
    restore: float = 1.0


@dataclass
class Clock:
    """Milliseconds spent in each stage, added up."""

    milliseconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    listener: Callable[[str], None] = lambda stage: None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.listener(name)
        start = time.perf_counter()
        yield
        self.milliseconds[name] += (time.perf_counter() - start) * 1000

    def rounded(self) -> dict[str, float]:
        return {name: round(value, 1) for name, value in self.milliseconds.items()}


@dataclass(frozen=True, eq=False)
class Swapped:
    """Everything a swap of one photograph made. image, result: ``[1, H, W, 3]``. crops, swapped: ``[N, S, S, 3]``.
    masks: ``[N, S, S]``. mask: ``[1, H, W]``. With no face, result is image and the rest is empty."""

    image: torch.Tensor
    faces: Faces
    result: torch.Tensor
    crops: torch.Tensor | None = None
    swapped: torch.Tensor | None = None
    masks: torch.Tensor | None = None
    mask: torch.Tensor | None = None


def fitting_crop_size(faces: Faces) -> int:
    """The crop edge that holds the largest face at the photograph's own resolution, a multiple of 64 from 512 to 1024."""
    if not len(faces):
        return SMALLEST_CROP
    edge = SMALLEST_CROP / float(scale_of(crop_matrices(faces, SMALLEST_CROP)).min())
    return int(np.clip(-(-edge // 64) * 64, SMALLEST_CROP, LARGEST_CROP))


def swap_photograph(image: torch.Tensor, source: Any, engine: SwapEngine, settings: Settings, clock: Clock, progress: Progress = silent
                    ) -> Swapped:
    """Swap the faces of one photograph ``[1, H, W, 3]`` that ``settings`` chooses. source: an identity, or what ``engine.prepare`` made of
    one, which a run of many photographs does once."""
    with clock.stage("detect"):
        which = DetectSettings(threshold=settings.threshold, order=settings.order, keep=settings.faces, framing=settings.framing)
        faces = detect_faces(image, settings=which, progress=progress)
        faces = replace(faces, crop_size=settings.crop_size or fitting_crop_size(faces))
    if not len(faces):
        return Swapped(image, faces, image)
    with clock.stage("crop"):
        faces, crops = cut_crops(image, faces)
    with clock.stage("swap"):
        swapped, masks = swap_faces(image, faces, source, engine, SwapSettings(settings.strength), progress=progress)
    with clock.stage("restore"):
        if settings.restore > 0:
            swapped = restore_crops(swapped, amount=settings.restore, images=image, faces=faces, masks=masks, progress=progress)
    with clock.stage("paste"):
        look = PasteSettings(color=settings.color, blend=settings.blend, feather=settings.feather)
        result, mask = paste(image, faces, swapped, masks, look, progress)
    return Swapped(image, faces, result, crops, swapped, masks, mask)


def read_identity(paths: Sequence[Path], settings: Settings, clock: Clock, name: str = "") -> tuple[Identity, str]:
    """The person in one or several photos (the largest face of each), or in one saved identity file; and what is to be said."""
    if any(path.suffix.lower() == ".safetensors" for path in paths):
        if len(paths) > 1:
            raise FaceLoomError("Give either photos or one identity file as the source; IdentityBlend makes one of several.")
        return load_identity(paths[0]), ""
    found = []
    for path in paths:
        with clock.stage("source"):
            image = as_images(read_image(path))
            faces = detect_faces(image, settings=DetectSettings(threshold=settings.threshold, keep="first", framing=settings.framing))
        if not len(faces):
            raise FaceLoomError(f"There is no face in {path}; choose another photo or lower the threshold.")
        found.append((image, faces) if len(paths) == 1 else surroundings(image, faces))
    with clock.stage("source"):
        return make_identity(*join_photos(*zip(*found, strict=True)), how="quality-weighted", name=name or paths[0].stem)


def surroundings(image: torch.Tensor, faces: Faces, reach: float = 1.0) -> tuple[torch.Tensor, Faces]:
    """The part of ``[1, H, W, 3]`` around its one face that an identity is made from: the canonical crop and ``reach`` times its edge
    more, so that twenty large photos of one person are not in memory whole."""
    height, width = image.shape[1:3]
    ends = (-0.5 - reach / 2, 0.5 + reach / 2)  # a crop of one pixel reaches from -0.5 to 0.5
    corners = transform(np.array([(x, y) for x in ends for y in ends]), invert(crop_matrices(faces, 1))[0])
    x0, y0 = np.clip(np.floor(corners.min(0)).astype(int), 0, [width - 1, height - 1])
    x1, y1 = np.clip(np.ceil(corners.max(0)).astype(int) + 1, [x0 + 1, y0 + 1], [width, height])
    face = transform_face(faces[0], np.array([[1, 0, -x0], [0, 1, -y0]], np.float64))
    return image[:, y0:y1, x0:x1].clone(), replace(faces, items=(face,), height=int(y1 - y0), width=int(x1 - x0))
