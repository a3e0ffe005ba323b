"""Pass two of a clip: swaps the faces of its frames, a few frames at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from ..crops.crop import crop_faces, crop_matrices, face_windows
from ..errors import FaceLoomError
from ..faces import Faces, Identity
from ..paste import paste_into
from ..pipeline import Clock, Models, Settings, visible_part
from ..pixels.affine import scale_of
from ..progress import Progress, silent
from ..restore import restore_crops
from ..select.assign import group_by_identity
from ..select.fade import fade_weights
from ..swap import AlignsFaces, DrawsAtSize, swap_faces

FEWEST_PIXELS, STEP, MOST_PIXELS = 256, 64, 1024  # edges of the crops of a clip
MOST_FRAMES = 8  # that are worked on together
MOST_BYTES = 256 << 20  # of these frames
WINDOW = 1.1  # crop edges that the part of a frame which may change is wide; a crop is read a few pixels beyond its own edge


@dataclass(frozen=True, eq=False)
class ClipPlan:
    """What is to be done with every frame of a clip.

    faces: of all frames, with ``track``. source: what ``engine.prepare`` made of the person whom those become that have no ``identity`` of
    their own; None where all have one. fade: see ``fade_weights``. mask: ``[1, h, w]`` 0..1 of any size, laid over every frame: where the
    new faces may show.
    """

    faces: Faces
    source: Any
    models: Models
    settings: Settings
    fade: int = 0
    mask: torch.Tensor | None = None

    def check(self) -> None:
        """Raise FaceLoomError for settings that cannot be, before any frame is read."""
        self.settings.check()
        self.models.check(self.settings)
        if not 0 <= self.fade <= 1000:
            raise FaceLoomError(f"fade must be 0 to 1000 frames, not {self.fade}.")


class ClipSwapper:
    """Swaps frames of a clip in any order of chunks; nothing but the plan says what comes out."""

    def __init__(self, plan: ClipPlan, clock: Clock | None = None) -> None:
        plan.check()
        faces, engine, fixed = plan.faces, plan.models.engine, plan.settings.crop_size
        if isinstance(engine, AlignsFaces) and engine.alignment:
            faces = engine.align(faces)
            fixed = faces.crop_size
        self.plan, self.faces, self.clock = plan, faces, clock or Clock()
        self.members = faces.positions_by_frame()
        self.sources: dict[int, Any] = {}
        self.weights = fade_weights(faces, plan.fade)
        self.sizes = np.full(len(faces), fixed) if fixed else track_crop_sizes(faces, self._least_size())

    def _least_size(self) -> int:
        """Return the edge that crops have at least: what the engine draws."""
        engine, settings = self.plan.models.engine, self.plan.settings.swap
        return engine.size * settings.pixel_boost if isinstance(engine, DrawsAtSize) else FEWEST_PIXELS

    def has_faces(self, frame: int) -> bool:
        """Tell whether anything is swapped in a frame."""
        return any(self.weights[i] > 0 for i in self.members.get(frame, ()))

    def window(self, frame: int) -> tuple[int, int, int, int]:
        """Return the part of a frame outside of which nothing is changed: top, bottom, left and right (the last ones excluded)."""
        here = self.faces.take([i for i in self.members.get(frame, ()) if self.weights[i] > 0])
        if not len(here):
            return 0, 0, 0, 0
        ((_, rows, columns),) = face_windows(here, WINDOW)
        return rows.start, min(rows.stop, here.height), columns.start, min(columns.stop, here.width)

    def swap(self, images: torch.Tensor, first: int, progress: Progress = silent) -> torch.Tensor:
        """Return the frames ``[B, H, W, C]`` float32, with their faces swapped; where there are none they are as they were.

        images: frames that follow each other, C 3 or 4. first: the number of the first of them.
        """
        count = len(images)
        positions = [i for frame in range(first, first + count) for i in self.members.get(frame, ()) if self.weights[i] > 0]
        if not positions:
            return images
        out = images.clone()
        covered = torch.zeros(images.shape[:3], device=images.device)
        for size in sorted({int(self.sizes[i]) for i in positions}):  # nearer faces are larger and go over those behind them
            group = [i for i in positions if self.sizes[i] == size]
            items = tuple(replace(self.faces[i], frame=self.faces[i].frame - first) for i in group)
            here = replace(self.faces, items=items, frames=count, crop_size=size, cuts=frozenset(), cut=None)
            self._swap_group(images, here, self.weights[group], out, covered, progress)
        return out

    def _prepared(self, identity: Identity | None) -> Any:
        """Return what the engine made of a person, which it does once for the whole clip."""
        if identity is None:
            return self.plan.source
        if id(identity) not in self.sources:
            self.sources[id(identity)] = self.plan.models.engine.prepare(identity)
        return self.sources[id(identity)]

    def _swapped(self, images: torch.Tensor, faces: Faces, mask: torch.Tensor | None, progress: Progress
                 ) -> tuple[torch.Tensor, torch.Tensor]:
        """Swap every face to its own person, or to the source of those that have none: crops ``[N, S, S, 3]``, masks ``[N, S, S]``."""
        models, settings = self.plan.models, self.plan.settings.swap
        parts: list[tuple[list[int], torch.Tensor, torch.Tensor]] = []
        for identity, members in group_by_identity(faces):
            nobodys = tuple(replace(faces[i], identity=None) for i in members)
            shown = mask if mask is None or len(mask) == 1 else mask[members]
            parts.append((members, *swap_faces(images, replace(faces, items=nobodys), self._prepared(identity), models.engine, settings,
                                               mask=shown, progress=progress)))
        order = torch.tensor([i for members, _, _ in parts for i in members]).argsort()
        return torch.cat([crops for _, crops, _ in parts])[order], torch.cat([masks for _, _, masks in parts])[order]

    def _swap_group(self, images: torch.Tensor, faces: Faces, weights: np.ndarray, out: torch.Tensor, covered: torch.Tensor,
                    progress: Progress) -> None:
        """Swap faces of one crop size and paste them into ``out``."""
        models, settings = self.plan.models, self.plan.settings
        rgb = images[..., :3]
        with self.clock.stage("swap"):
            crops = crop_faces(rgb, faces) if settings.regions else rgb[:0]
            visible = visible_part(rgb, faces, crops, models, settings, self.plan.mask)
            swapped, masks = self._swapped(rgb, faces, visible, progress)
        with self.clock.stage("restore"):
            if settings.restore.amount > 0:
                swapped = restore_crops(swapped, restorer=models.restorer, fidelity=settings.restore.fidelity,
                                        amount=settings.restore.amount, images=rgb, faces=faces, masks=masks, progress=progress)
        with self.clock.stage("paste"):
            faded = masks * torch.as_tensor(weights, dtype=masks.dtype, device=masks.device)[:, None, None]
            paste_into(out, covered, images, faces, swapped, faded, settings.paste, progress)


def track_crop_sizes(faces: Faces, least: int = FEWEST_PIXELS) -> np.ndarray:
    """Return the edge of every face's crop in pixels, ``[N]``: one for a whole track, so that its sharpness does not change along the clip.

    It holds the track's largest face at the frames' own resolution: a multiple of 64, at least ``least`` and at most 1024.
    """
    if not len(faces):
        return np.zeros(0, int)
    edges = 1 / scale_of(crop_matrices(faces, 1))
    tracks = np.array([-1 - i if face.track is None else face.track for i, face in enumerate(faces)])
    sizes = np.zeros(len(faces), int)
    for track in np.unique(tracks):
        largest = -(-edges[tracks == track].max() // STEP) * STEP
        sizes[tracks == track] = int(np.clip(largest, min(least, MOST_PIXELS), max(least, MOST_PIXELS)))
    return sizes


def frames_together(height: int, width: int, channels: int = 3) -> int:
    """Return how many frames are worked on together: 8, or as many as take 256 MB, at least one."""
    return int(np.clip(MOST_BYTES // (height * width * channels * 4), 1, MOST_FRAMES))


class Picture(Protocol):
    """A frame whose colours are made when they are asked for."""

    def image(self) -> torch.Tensor:
        """Return the colours ``[H, W, C]`` float32 0..1."""
        ...


P = TypeVar("P", bound=Picture)


def swap_frames(frames: Iterable[P], swapper: ClipSwapper, first: int = 0, *, progress: Progress = silent
                ) -> Iterator[tuple[P, torch.Tensor | None]]:
    """Swap the frames of a clip, one after another: yields each frame with its new picture ``[H, W, C]``, None where nothing is swapped.

    first: the number of the first frame. progress: of the faces of the frames that are worked on together. A frame without a face is not
    even asked for its colours.
    """
    waiting: list[tuple[P, torch.Tensor | None]] = []
    together = frames_together(swapper.faces.height, swapper.faces.width)
    done = first
    for number, frame in enumerate(frames, first):
        waiting.append((frame, frame.image() if swapper.has_faces(number) else None))
        if len(waiting) == together:
            yield from _swap_waiting(waiting, swapper, done, progress)
            done += len(waiting)
            waiting = []
    yield from _swap_waiting(waiting, swapper, done, progress)


def _swap_waiting(waiting: Sequence[tuple[P, torch.Tensor | None]], swapper: ClipSwapper, first: int, progress: Progress
                  ) -> Iterator[tuple[P, torch.Tensor | None]]:
    """Swap frames together: those that follow each other and have faces."""
    swapped: dict[int, torch.Tensor] = {}
    for with_faces, run in groupby(range(len(waiting)), key=lambda i: waiting[i][1] is not None):
        if with_faces:
            numbers = list(run)
            images = torch.stack([image for i in numbers if (image := waiting[i][1]) is not None])
            swapped.update(zip(numbers, swapper.swap(images, first + numbers[0], progress), strict=True))
    for i, (frame, _) in enumerate(waiting):
        yield frame, swapped.get(i)
