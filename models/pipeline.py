"""The whole path once: the models of every stage opened, a person read, and the stages of a photograph one after another, timed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .crops.crop import crop_matrices, cut_crops
from .crops.transformed import transform_face
from .detect import Detector, detect_faces, kept_positions
from .detect.load import load_detector
from .detect.seen import as_seen
from .errors import FaceLoomError
from .faces import Faces, Identity
from .files.picture import read_picture_file
from .identity import Recognizer, make_identity
from .identity.files import load_identity
from .identity.load import load_recognizer
from .identity.photos import join_photos
from .options.detect import DetectSettings
from .options.paste import PasteSettings
from .options.pipeline import BUILT_IN, REGION_FEATHER, ModelNames
from .options.ranges import check_range
from .options.restore import RestoreSettings
from .options.swap import SwapSettings
from .parse import MaskEdge, Parser, region_mask
from .parse.load import load_occluder, load_parser
from .parse.occlude import Occluder, occlusion_mask
from .paste import paste
from .pixels.affine import invert, scale_of, transform
from .pixels.tensors import as_images
from .progress import Progress, silent
from .restore import Restorer, restore_crops
from .restore.load import load_restorer
from .runtime.method import Loading
from .runtime.options import Value
from .swap import AlignsFaces, ChecksSettings, DrawsAtSize, OpensLate, SwapEngine, swap_faces
from .systems.load import load_any_engine

SMALLEST_CROP, LARGEST_CROP = 512, 1024


@dataclass(frozen=True)
class Settings:
    """How a photograph is swapped.

    crop_size: pixels, or None for the faces' own resolution (512 to 1024), which the crop size of ``detect`` is set to. regions: where the
    new face may show, names of ``parse.REGIONS``; none: everywhere.
    """

    detect: DetectSettings = field(default_factory=DetectSettings)
    crop_size: int | None = None
    swap: SwapSettings = field(default_factory=SwapSettings)
    regions: tuple[str, ...] = ()
    restore: RestoreSettings = field(default_factory=RestoreSettings)
    paste: PasteSettings = field(default_factory=PasteSettings)

    def check(self) -> None:
        """Raises FaceLoomError where a word is none of the choices, or a number out of its range."""
        self.detect.check()
        kept_positions(self.detect.keep, 0)
        check_range("threshold", self.detect.threshold)
        check_range("framing", self.detect.framing)
        if self.crop_size is not None:
            check_range("crop_size", self.crop_size)
        self.swap.check()
        check_range("strength", self.swap.strength)
        self.restore.check()
        self.paste.check()


@dataclass(frozen=True, eq=False)
class Models:
    """The models of every stage. None is what is built in; without an occluder nothing is looked for over the faces."""

    engine: SwapEngine
    detector: Detector | None = None
    recognizer: Recognizer | None = None
    parser: Parser | None = None
    occluder: Occluder | None = None
    restorer: Restorer | None = None

    def check(self, settings: Settings) -> None:
        """Raises FaceLoomError where the models cannot do what the settings ask for, or take no notice of it."""
        engine, name = self.engine, self.engine.name
        if isinstance(engine, ChecksSettings):
            engine.check_settings(settings.swap)
        if isinstance(engine, OpensLate):
            engine.open_helpers(settings.swap)
        if settings.swap.pixel_boost > 1 and not isinstance(engine, DrawsAtSize):
            raise FaceLoomError(f"The engine {name} draws at the crops' own size; leave the pixel boost at 1.")
        other_crops = settings.crop_size or settings.detect.framing != DetectSettings.framing
        if isinstance(engine, AlignsFaces) and engine.alignment and other_crops:
            raise FaceLoomError(f"The engine {name} cuts crops of its own size and framing; leave crop size and framing out.")
        if self.restorer is None and settings.restore.fidelity != RestoreSettings.fidelity:
            raise FaceLoomError("Fidelity is for a restoration network; name one, or leave fidelity out.")


def open_models(names: ModelNames, loading: Loading, options: Mapping[str, Value]) -> Models:
    """Opens the models of every stage. options: of the engine, see ``systems.options.options_by_engine``.

    The engine is given the parser and the recognizer where they are networks, as Load Swap Model is. FaceLoomError where a file is missing
    or unknown, and where the engine does not have one of the options.
    """
    parser = load_parser(names.parser, loading)
    recognizer = load_recognizer(names.recognizer, loading)
    connected = replace(loading, parser=parser, recognizer=None if names.recognizer == BUILT_IN.recognizer else recognizer)
    return Models(
        engine=load_any_engine(names.engine, connected, **options), detector=load_detector(names.detector, loading), recognizer=recognizer,
        parser=parser, occluder=load_occluder(names.occluder, loading) if names.occluder else None,
        restorer=load_restorer(names.restorer, loading))


@dataclass
class Clock:
    """Adds up the milliseconds spent in each stage. listener: is told the name of each stage that begins."""

    milliseconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    listener: Callable[[str], None] = lambda stage: None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what is done inside the ``with`` block."""
        self.listener(name)
        start = time.perf_counter()
        yield
        self.milliseconds[name] += (time.perf_counter() - start) * 1000

    def rounded(self) -> dict[str, float]:
        """Returns the milliseconds by stage, to a tenth."""
        return {name: round(value, 1) for name, value in self.milliseconds.items()}


@dataclass(frozen=True, eq=False)
class Swapped:
    """Everything a swap of one photograph makes.

    image, result: ``[1, H, W, 3]``. crops, swapped: ``[N, S, S, 3]``.
    masks: ``[N, S, S]``. mask: ``[1, H, W]``. found: how many faces the photograph has, of which the settings choose. With no face chosen,
    result is image and the rest is empty."""

    image: torch.Tensor
    faces: Faces
    result: torch.Tensor
    crops: torch.Tensor | None = None
    swapped: torch.Tensor | None = None
    masks: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    found: int = 0


def fitting_crop_size(faces: Faces) -> int:
    """Returns the crop edge that holds the largest face at the photograph's own resolution, a multiple of 64 from 512 to 1024."""
    if not len(faces):
        return SMALLEST_CROP
    edge = SMALLEST_CROP / float(scale_of(crop_matrices(faces, SMALLEST_CROP)).min())
    return int(np.clip(-(-edge // 64) * 64, SMALLEST_CROP, LARGEST_CROP))


def swap_photograph(image: torch.Tensor, source: Any, models: Models, settings: Settings, clock: Clock, *,
                    mask: torch.Tensor | None = None, alpha: torch.Tensor | None = None, progress: Progress = silent) -> Swapped:
    """Swaps the faces of one photograph ``[1, H, W, 3]`` that ``settings`` chooses.

    source: an identity, or what ``models.engine.prepare`` made of one, which a run of many photographs does once. mask: ``[1, h, w]`` 0..1
    of any size, laid over the photograph: where the new faces may show. alpha: ``[H, W]`` 0..1; faces that it hides are not found.
    """
    with clock.stage("detect"):
        everyone = detect_faces(as_seen(image, alpha), models.detector, replace(settings.detect, keep="all"), progress=progress)
        faces = everyone.take(kept_positions(settings.detect.keep, len(everyone)))
        faces = replace(faces, crop_size=settings.crop_size or fitting_crop_size(faces))
        if isinstance(models.engine, AlignsFaces):
            faces = models.engine.align(faces)
    if not len(faces):
        return Swapped(image, faces, image, found=len(everyone))
    with clock.stage("crop"):
        faces, crops = cut_crops(image, faces)
    with clock.stage("swap"):
        visible = visible_part(image, faces, crops, models, settings, mask)
        swapped, masks = swap_faces(image, faces, source, models.engine, settings.swap, mask=visible, progress=progress)
    with clock.stage("restore"):
        if settings.restore.amount > 0:
            swapped = restore_crops(swapped, restorer=models.restorer, fidelity=settings.restore.fidelity, amount=settings.restore.amount,
                                    images=image, faces=faces, masks=masks, progress=progress)
    with clock.stage("paste"):
        result, covered = paste(image, faces, swapped, masks, settings.paste, progress)
    return Swapped(image, faces, result, crops, swapped, masks, covered, len(everyone))


def visible_part(image: torch.Tensor, faces: Faces, crops: torch.Tensor, models: Models, settings: Settings, mask: torch.Tensor | None
                 ) -> torch.Tensor | None:
    """Returns where the new faces may show in the crops, ``[N, S, S]`` 0..1: the regions that are chosen, without what the occluder finds
    and what ``mask`` ``[1, h, w]`` (see ``swap_photograph``) leaves out. None where all of them may show everywhere."""
    size, visible = faces.crop_size, None
    if models.occluder is not None or mask is not None:
        visible = occlusion_mask(image, faces, size, models.occluder, None if mask is None else 1 - mask)
    if not settings.regions:
        return visible
    return region_mask(settings.regions, size, faces=faces, crops=crops, parser=models.parser,
                       edge=MaskEdge(feather=REGION_FEATHER * size, side="inside"), occlusion=visible)


def read_identity(paths: Sequence[Path], models: Models, settings: Settings, clock: Clock, name: str = "") -> tuple[Identity, str]:
    """Returns the person in one or several photos (the largest face of each), or in one saved identity file; and a report, as text.

    name: what the person is called; "" takes the first file's name. FaceLoomError where a photo shows no face.
    """
    if any(path.suffix.lower() == ".safetensors" for path in paths):
        if len(paths) > 1:
            raise FaceLoomError("Give either photos or one identity file as the source; IdentityBlend makes one of several.")
        return load_identity(paths[0]), ""
    found, notes, detect = [], [], DetectSettings(threshold=settings.detect.threshold, keep="first", framing=settings.detect.framing)
    for path in paths:
        with clock.stage("source"):
            picture = read_picture_file(path)
            image = as_images(picture.image)
            faces = detect_faces(as_seen(image, picture.alpha), models.detector, detect)
        if not len(faces):
            raise FaceLoomError(f"There is no face in {path}; choose another photo or lower the threshold.")
        notes += picture.notes
        found.append((image, faces) if len(paths) == 1 else surroundings(image, faces))
    with clock.stage("source"):
        photos = join_photos(*zip(*found, strict=True))
        identity, report = make_identity(*photos, models.recognizer, how="quality-weighted", name=name or paths[0].stem)
        return identity, "\n".join([report, *notes])


def surroundings(image: torch.Tensor, faces: Faces, reach: float = 1.0) -> tuple[torch.Tensor, Faces]:
    """Cuts out the part of ``[1, H, W, 3]`` around its one face that an identity is made from, and returns it with the face in it.

    It is the canonical crop and ``reach`` times its edge more, so that twenty large photos of one person are not in memory whole.
    """
    height, width = image.shape[1:3]
    ends = (-0.5 - reach / 2, 0.5 + reach / 2)  # a crop of one pixel reaches from -0.5 to 0.5
    corners = transform(np.array([(x, y) for x in ends for y in ends]), invert(crop_matrices(faces, 1))[0])
    x0, y0 = np.clip(np.floor(corners.min(0)).astype(int), 0, [width - 1, height - 1])
    x1, y1 = np.clip(np.ceil(corners.max(0)).astype(int) + 1, [x0 + 1, y0 + 1], [width, height])
    face = transform_face(faces[0], np.array([[1, 0, -x0], [0, 1, -y0]], np.float64))
    return image[:, y0:y1, x0:x1].clone(), replace(faces, items=(face,), height=int(y1 - y0), width=int(x1 - x0))
