"""Pass two of a clip: swaps the faces of its frames, a few frames at a time and only the part of them that has faces."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..crops.crop import crop_faces, crop_matrices, face_windows
from ..crops.transformed import transform_face
from ..errors import FaceLoomError
from ..faces import Face, Faces, Identity
from ..options.paste import PasteSettings
from ..paste import paste_into
from ..pipeline import Clock, Models, Settings, visible_part
from ..pixels.affine import compose, invert, scale_of
from ..pixels.masks import fit_mask
from ..progress import Progress, silent
from ..restore import restore_crops
from ..select.assign import group_by_identity
from ..select.fade import fade_weights
from ..swap import AlignsFaces, DrawsAtSize, UsesOneCore, swap_faces
from .appearance import Appearance, appearance_at, give_appearances, measure_appearances, track_of

FEWEST_PIXELS, STEP, MOST_PIXELS = 256, 64, 1024  # edges of the crops of a clip
MOST_FRAMES = 8  # that are worked on together
MOST_BYTES = 256 << 20  # of these frames
MOST_THREADS = 4  # that draw at the same time
SEEN, CHANGED = 2.0, 1.1  # crop edges that the part of a frame is wide which engines look at, and the part which may change
GRID = 8  # pixels on which the sides of such parts lie


@dataclass(frozen=True, eq=False)
class ClipPlan:
    """What is to be done with every frame of a clip.

    faces: of all frames, with ``track``. source: what ``engine.prepare`` made of the person whom those become that have no ``identity`` of
    their own; with None those stay as they are. fade: see ``fade_weights``. masks: where the new faces may show, in crop space, 0..1:
    ``[1, M, M]`` for all, or ``[T, M, M]`` for each track by its number. frame_mask: the same in the frame, ``[1, h, w]`` of any size.
    """

    faces: Faces
    source: Any
    models: Models
    settings: Settings
    fade: int = 0
    masks: torch.Tensor | None = None
    frame_mask: torch.Tensor | None = None

    def check(self) -> None:
        """Raise FaceLoomError for settings that cannot be, before any frame is read."""
        self.settings.check()
        self.models.check(self.settings)
        if not 0 <= self.fade <= 1000:
            raise FaceLoomError(f"fade must be 0 to 1000 frames, not {self.fade}.")
        tracks = 1 + max((track_of(face) for face in self.faces), default=-1)
        if self.masks is not None and len(self.masks) != 1 and len(self.masks) < tracks:
            raise FaceLoomError(f"There are {len(self.masks)} masks but {tracks} people; give one mask for all or one for each person.")


@dataclass(frozen=True)
class Box:
    """A part of a frame, pixels; the last row and column are excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """The swapped faces of one crop size. crops: ``[N, S, S, 3]``. masks: ``[N, S, S]``. weights: how much of each shows, ``[N]``.
    appearances: of the first face of each track."""

    faces: Faces
    crops: torch.Tensor
    masks: torch.Tensor
    weights: np.ndarray
    appearances: dict[int, Appearance]


@dataclass(frozen=True, eq=False)
class Chunk:
    """Frames that are worked on together, after their faces were swapped and before they are pasted.

    first: the number of the first frame. All are of one shot. box: the part of them that is worked on. images: that part of each,
    ``[B, h, w, C]``. drawn: the faces, from those with the smallest crops to those with the largest.
    """

    first: int
    box: Box
    images: torch.Tensor
    drawn: tuple[_Drawn, ...]


class ClipSwapper:
    """Swaps frames of a clip, chunk by chunk: ``draw`` each, then ``finish`` it with the next one at hand.

    Chunks begin at whole multiples of ``together`` frames, and nothing but the plan and the frames says what comes out: work that begins
    anew at the start of a chunk gives the same frames.
    """

    def __init__(self, plan: ClipPlan, clock: Clock | None = None) -> None:
        plan.check()
        faces, engine, fixed = plan.faces, plan.models.engine, plan.settings.crop_size
        if isinstance(engine, AlignsFaces) and engine.alignment:
            faces = engine.align(faces)
            fixed = faces.crop_size
        self.plan, self.faces, self.clock = plan, faces, clock or Clock()
        self.together = frames_together(faces.height, faces.width)
        self.threads = threads_for(plan.models)
        self.members = faces.positions_by_frame()
        self.sources: dict[int, Any] = {}
        self.preparing = threading.Lock()
        nobody = np.array([plan.source is None and face.identity is None for face in faces], bool)
        self.weights = np.where(nobody, 0, fade_weights(faces, plan.fade))
        self.frame_mask = None if plan.frame_mask is None else fit_mask(plan.frame_mask, 1, faces.height, faces.width)
        self.sizes = np.full(len(faces), fixed) if fixed else track_crop_sizes(faces, self._least_size())

    def _least_size(self) -> int:
        """Return the edge that crops have at least: what the engine draws."""
        engine, settings = self.plan.models.engine, self.plan.settings.swap
        return engine.size * settings.pixel_boost if isinstance(engine, DrawsAtSize) else FEWEST_PIXELS

    def shown(self, frame: int, count: int = 1) -> list[int]:
        """Return the positions of the faces of ``count`` frames of which anything shows."""
        return [i for number in range(frame, frame + count) for i in self.members.get(number, ()) if self.weights[i] > 0]

    def has_faces(self, frame: int) -> bool:
        """Tell whether anything is swapped in a frame."""
        return bool(self.shown(frame))

    def box(self, first: int, count: int, scale: float = SEEN) -> Box:
        """Return the part of ``count`` frames that the crops of their faces cover, each taken ``scale`` times as wide; empty where there
        are none. Its sides lie on multiples of 8 pixels or at the frame's ends, so that it holds whole blocks of chroma."""
        height, width = self.faces.height, self.faces.width
        windows = face_windows(self.faces.take(self.shown(first, count)), scale)
        windows = [(rows, columns) for _, rows, columns in windows if rows.start < height and columns.start < width]
        if not windows:
            return Box(0, 0, 0, 0)
        top, left = (min(window[axis].start for window in windows) // GRID * GRID for axis in (0, 1))
        bottom, right = (max(-(-window[axis].stop // GRID) * GRID for window in windows) for axis in (0, 1))
        return Box(top, min(bottom, height), left, min(right, width))

    def seen_part(self, frame: int) -> tuple[slice, slice] | bool:
        """Return the rows and columns of a frame that are looked at when its chunk is swapped; False where nothing is."""
        if not self.has_faces(frame):
            return False
        return self.box(frame // self.together * self.together, self.together).slices

    def draw(self, images: torch.Tensor, first: int, box: Box, progress: Progress = silent) -> Chunk:
        """Swap the faces of frames that follow each other.

        images: the part ``box`` of each, ``[B, h, w, C]`` float32 0..1, C 3 or 4. first: the number of the first of them.
        """
        positions = self.shown(first, len(images))
        drawn: list[_Drawn] = []
        for size in sorted({int(self.sizes[i]) for i in positions}):  # nearer faces are larger and go over those behind them
            group = [i for i in positions if self.sizes[i] == size]
            drawn.append(self._draw(images[..., :3], self._inside(group, first, len(images), box, size), self.weights[group], first, box,
                                    progress))
        return Chunk(first, box, images, tuple(drawn))

    def _inside(self, positions: Sequence[int], first: int, count: int, box: Box, size: int) -> Faces:
        """Return faces as those of a part of the frames from ``first`` on."""
        shift = np.array([[1.0, 0, -box.left], [0, 1, -box.top]])
        items = tuple(_moved(self.faces[i], shift, self.faces[i].frame - first) for i in positions)
        return replace(self.faces, items=items, frames=count, height=box.bottom - box.top, width=box.right - box.left, crop_size=size,
                       cuts=frozenset(), cut=None)

    def _draw(self, images: torch.Tensor, faces: Faces, weights: np.ndarray, first: int, box: Box, progress: Progress) -> _Drawn:
        """Swap faces of one crop size and measure the appearance of each track."""
        models, settings = self.plan.models, self.plan.settings
        with self.clock.stage("swap"):
            crops = crop_faces(images, faces) if settings.regions else images[:0]
            frame_mask = None if self.frame_mask is None else self.frame_mask[(slice(None), *box.slices)]
            visible = self._behind_masks(faces, visible_part(images, faces, crops, models, settings, frame_mask))
            swapped, masks = self._swapped(images, faces, visible, progress)
        with self.clock.stage("restore"):
            if settings.restore.amount > 0 and models.restorer is not None:
                swapped = restore_crops(swapped, restorer=models.restorer, fidelity=settings.restore.fidelity,
                                        amount=settings.restore.amount, images=images, faces=faces, masks=masks, progress=progress)
            grain = settings.restore.amount > 0 and models.restorer is None
            appearances = measure_appearances(images, faces, swapped, masks, color=settings.paste.color, grain=grain, first=first)
        return _Drawn(faces, swapped, masks, weights, appearances)

    def _behind_masks(self, faces: Faces, visible: torch.Tensor | None) -> torch.Tensor | None:
        """Return where the faces may show, ``[N or 1, S, S]``, with the plan's masks; None where everywhere."""
        masks, size = self.plan.masks, faces.crop_size
        if masks is None:
            return visible
        own = fit_mask(masks if len(masks) == 1 else masks[[track_of(face) for face in faces]], len(faces), size, size)
        return own if visible is None else own * visible

    def finish(self, chunk: Chunk, after: Chunk | None = None, progress: Progress = silent) -> torch.Tensor:
        """Paste the faces of a chunk: its frames ``[B, h, w, C]``. after: the chunk that follows, where there is one: within a
        shot, appearances change evenly from one to the other."""
        out = chunk.images.clone()
        covered = torch.zeros(chunk.images.shape[:3], device=chunk.images.device)
        same_shot = after is not None and not any(chunk.first < cut <= after.first for cut in self.faces.cuts)
        later = {track: each for drawn in (after.drawn if after and same_shot else ()) for track, each in drawn.appearances.items()}
        settings = self.plan.settings
        for drawn in chunk.drawn:
            faces, rgb = drawn.faces, chunk.images[..., :3]
            with self.clock.stage("restore"):
                appearances = [appearance_at(face, chunk.first + face.frame, drawn.appearances, later) for face in faces]
                crops = give_appearances(rgb, faces, drawn.crops, drawn.masks, appearances, amount=settings.restore.amount,
                                         progress=progress)
            with self.clock.stage("paste"):
                weights = torch.as_tensor(drawn.weights, dtype=drawn.masks.dtype, device=drawn.masks.device)
                pasting = replace(settings.paste, color=PasteSettings.color)
                paste_into(out, covered, chunk.images, faces, crops, drawn.masks * weights[:, None, None], pasting, progress)
        return out

    def _prepared(self, identity: Identity | None) -> Any:
        """Return what the engine made of a person, which it does once for the whole clip."""
        if identity is None:
            return self.plan.source
        with self.preparing:
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


def _moved(face: Face, shift: np.ndarray, frame: int) -> Face:
    """Return a face in a part of its frame, with its own square moved along. shift: frame → part, ``[2, 3]``, a translation."""
    square = None if face.square is None else compose(face.square, invert(shift))
    return replace(transform_face(face, shift, frame), box=face.box + np.tile(shift[:, 2], 2), square=square)


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


def frames_together(height: int, width: int) -> int:
    """Return how many frames are worked on together: 8, or half as many as often as it takes to stay within 256 MB, at least one."""
    count = MOST_FRAMES
    while count > 1 and count * height * width * 12 > MOST_BYTES:
        count //= 2
    return count


def threads_for(models: Models) -> int:
    """Return how many chunks are drawn at the same time: one on each core, up to 4, by an engine that takes one core; else 1, for networks
    take all cores, or a graphics card."""
    networks = (models.parser, models.occluder, models.restorer)
    if not isinstance(models.engine, UsesOneCore) or any(network is not None for network in networks):
        return 1
    return min(MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
