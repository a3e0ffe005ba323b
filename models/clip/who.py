"""The picture of who is there in a clip: one row a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..faces import Faces
from ..pixels.drawing import draw_badge, from_pil
from ..pixels.tensors import to_pil
from .find import VIEW_EDGE, FoundFaces

ROW = VIEW_EDGE + 12
WIDTH = 640
MARGIN = 6
TEXT = 15  # pixels
BAR = (86, 180, 233)


@dataclass(frozen=True)
class Person:
    """One person of a clip. first, last: seconds. frames: in how many frames the person is seen. share: of all frames, 0..1."""

    track: int
    first: float
    last: float
    frames: int
    share: float

    def __str__(self) -> str:
        return f"person {self.track}: {clock(self.first)} to {clock(self.last)}, {self.share:.0%} of the frames"


def clock(seconds: float) -> str:
    """Write seconds as minutes and seconds, with hours where there are some: 1:02.5, 1:00:00.0."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest / 10:04.1f}" if hours else f"{minutes}:{rest / 10:04.1f}"


def people(faces: Faces, times: Sequence[float]) -> list[Person]:
    """Return everybody in a clip by their number. times: of its frames, seconds."""
    seen: dict[int, list[int]] = {}
    for face in faces:
        if face.track is not None:
            seen.setdefault(face.track, []).append(face.frame)
    return [Person(track, times[min(frames)], times[max(frames)], len(set(frames)), len(set(frames)) / faces.frames)
            for track, frames in sorted(seen.items())]


def who_is_there(found: FoundFaces, times: Sequence[float]) -> torch.Tensor:
    """Draw one row a person ``[H, W, 3]`` float32 0..1: their largest view, number, first and last time, share of the frames, and a bar
    that shows when they are there. Without anybody, one row that says so. times: of the frames, seconds."""
    everybody = people(found.faces, times)
    sheet = Image.new("RGB", (WIDTH, ROW * max(1, len(everybody))), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    if not everybody:
        draw_badge(draw, MARGIN, ROW / 2, "no face found", TEXT, (24, 24, 24), sheet.size)
    left = VIEW_EDGE + 3 * MARGIN
    for row, person in enumerate(everybody):
        top = row * ROW + MARGIN
        if person.track in found.views:
            sheet.paste(to_pil(found.views[person.track]), (MARGIN, top))
        draw_badge(draw, left, top + 30, str(person), TEXT, (24, 24, 24), sheet.size)
        _draw_presence(draw, found.faces, person.track, (left, top + 50, WIDTH - 3 * MARGIN, top + 70))
    return from_pil(sheet)


def _draw_presence(draw: ImageDraw.ImageDraw, faces: Faces, track: int, box: tuple[int, int, int, int]) -> None:
    """Draw in which frames a person is there, along a bar from the first frame to the last."""
    x0, y0, x1, y1 = box
    columns = np.zeros(x1 - x0, bool)
    for face in faces:
        if face.track == track:
            start, stop = (round(frame * len(columns) / faces.frames) for frame in (face.frame, face.frame + 1))
            columns[start : max(stop, start + 1)] = True
    draw.rectangle((x0, y0, x1 - 1, y1), fill=(60, 60, 60))
    for x in np.flatnonzero(columns).tolist():
        draw.line((x0 + x, y0, x0 + x, y1), fill=BAR)
