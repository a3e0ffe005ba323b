"""Feeds the frames of a clip to a ``ClipSwapper``, chunk by chunk."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch

from ..progress import Progress, silent
from .swap import CHANGED, Box, Chunk, ClipSwapper


class Picture(Protocol):
    """A frame whose colours are made when they are asked for."""

    def image(self, box: Box) -> torch.Tensor:
        """Return the colours of a part of the frame, ``[h, w, C]`` float32 0..1."""
        ...


P = TypeVar("P", bound=Picture)


@dataclass(frozen=True, eq=False)
class Patch:
    """The new pixels ``[h, w, C]`` of a part of a frame."""

    box: Box
    pixels: torch.Tensor


@dataclass(eq=False)
class _Waiting(Generic[P]):
    """Frames that are read and not yet given on. first: the number of the first. runs: of those that have faces, drawn."""

    first: int
    frames: list[P] = field(default_factory=list)
    runs: list[Chunk] = field(default_factory=list)


def swap_frames(frames: Iterable[P], swapper: ClipSwapper, first: int = 0, *, progress: Progress = silent
                ) -> Iterator[tuple[P, Patch | None]]:
    """Swap the frames of a clip, one after another: yields each frame with its new pixels, None where nothing is swapped.

    first: the number of the first frame. progress: of the faces of the frames that are worked on together. A frame without a face is not
    even asked for its colours. Each frame comes when the frames of the next chunk are drawn.
    """
    before = None
    for waiting in _drawn(_chunks(frames, first, swapper.together), swapper, progress):
        if before is not None:
            yield from _finished(before, waiting, swapper, progress)
        before = waiting
    if before is not None:
        yield from _finished(before, None, swapper, progress)


def _chunks(frames: Iterable[P], first: int, together: int) -> Iterator[_Waiting[P]]:
    """Give the frames in chunks that begin at whole multiples of ``together``."""
    waiting = _Waiting[P](first)
    for number, frame in enumerate(frames, first):
        waiting.frames.append(frame)
        if (number + 1) % together == 0:
            yield waiting
            waiting = _Waiting(number + 1)
    if waiting.frames:
        yield waiting


def _drawn(chunks: Iterable[_Waiting[P]], swapper: ClipSwapper, progress: Progress) -> Iterator[_Waiting[P]]:
    """Draw the faces of chunks and give them on in order; several at the same time where the engine can do that."""
    inference = torch.is_inference_mode_enabled()  # which each thread has for itself

    def draw(waiting: _Waiting[P]) -> _Waiting[P]:
        with torch.inference_mode(inference):
            _draw(waiting, swapper, progress)
        return waiting

    if swapper.threads == 1:
        yield from map(draw, chunks)
        return
    pool = ThreadPoolExecutor(swapper.threads, "faceloom-swap")
    try:
        begun: deque[Future[_Waiting[P]]] = deque()
        for waiting in chunks:
            begun.append(pool.submit(draw, waiting))
            if len(begun) == swapper.threads:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _draw(waiting: _Waiting[P], swapper: ClipSwapper, progress: Progress) -> None:
    """Swap the faces of each run of frames of one shot that follow each other and have some."""
    stop = waiting.first + len(waiting.frames)
    number = waiting.first
    while number < stop:
        start = number
        while number < stop and swapper.has_faces(number) and (number == start or number not in swapper.faces.cuts):
            number += 1
        if number > start:
            box = swapper.box(start, number - start)
            images = torch.stack([frame.image(box) for frame in waiting.frames[start - waiting.first : number - waiting.first]])
            waiting.runs.append(swapper.draw(images, start, box, progress))
        else:
            number += 1


def _finished(waiting: _Waiting[P], after: _Waiting[P] | None, swapper: ClipSwapper, progress: Progress
              ) -> Iterator[tuple[P, Patch | None]]:
    """Paste the faces and give the frames on. after: the frames that follow."""
    patches: dict[int, Patch] = {}
    following = [*waiting.runs[1:], *(after.runs[:1] if after else [])]
    for i, chunk in enumerate(waiting.runs):
        pasted = swapper.finish(chunk, following[i] if i < len(following) else None, progress)
        for k, pixels in enumerate(pasted):
            patches[chunk.first + k] = _trimmed(Patch(chunk.box, pixels), swapper.box(chunk.first + k, 1, CHANGED))
    for number, frame in enumerate(waiting.frames, waiting.first):
        yield frame, patches.get(number)


def _trimmed(patch: Patch, box: Box) -> Patch:
    """Return the part of a patch inside of ``box``, which may be empty."""
    have = patch.box
    inner = Box(max(box.top, have.top), min(box.bottom, have.bottom), max(box.left, have.left), min(box.right, have.right))
    top, left = inner.top - have.top, inner.left - have.left
    return Patch(inner, patch.pixels[top : top + inner.bottom - inner.top, left : left + inner.right - inner.left])
