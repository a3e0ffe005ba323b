"""Memory: chunks that fit, what running out of it looks like, and room on a graphics card that others use as well.

Torch's networks are moved by a ``DeviceManager``; onnxruntime takes its memory on its own, and who else uses the card (ComfyUI, which fills
it with diffusion models) has to be asked for it before.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from ..errors import FaceLoomError
from ..progress import Progress, silent

Result = TypeVar("Result")
# How the other user of the card is asked for bytes that onnxruntime will take; None: for all it can do without.
MemoryFreer = Callable[[int | None], None]

MEMORY_WORDS = ("out of memory", "outofmemory", "failed to allocate", "bad_alloc", "alloc_failed", "allocation_failed", "memoryallocation",
                "bfcarena", "not enough memory")

_neighbour: MemoryFreer | None = None


class OnnxMemoryError(FaceLoomError):
    """A network did not fit into memory."""


def register_memory_freer(neighbour: MemoryFreer | None) -> None:
    """From now on ``neighbour`` is asked before onnxruntime takes memory of a graphics card."""
    global _neighbour
    _neighbour = neighbour


def request_card_memory(size: int | None) -> None:
    """See to it that ``size`` bytes of the graphics card are free, None: as many as can be had."""
    if _neighbour is not None:
        _neighbour(size)


def release_cached_memory() -> None:
    """Give back what torch keeps for later."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def run_chunks(fn: Callable[..., Result], items: Sequence, chunk: int, progress: Progress = silent,
               make_room: Callable[[], None] = release_cached_memory) -> list[Result]:
    """``fn`` on slices of at most ``chunk`` items, in order. Out of memory makes room and tries half the slice, and one item twice."""
    results, done, made_room = [], 0, False
    chunk = max(1, chunk)
    while done < len(items):
        progress(done, len(items))
        try:
            results.append(fn(items[done : done + chunk]))
        except (MemoryError, RuntimeError, FaceLoomError) as error:
            if not is_out_of_memory(error):
                raise
            if chunk == 1 and made_room:
                raise FaceLoomError("There is not enough memory for even one face; unload other models, or use the CPU.") from error
        else:
            done, made_room = min(done + chunk, len(items)), False
            continue
        make_room()  # only here: the exception held what the call had made
        made_room = True
        chunk = max(1, min(chunk, len(items) - done) // 2)
    progress(len(items), len(items))
    return results


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or onnxruntime ran out of memory (onnxruntime says so only in words)."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError, OnnxMemoryError)) or mentions_memory(str(error))


def mentions_memory(text: str) -> bool:
    """Whether an error's words are about memory."""
    text = text.lower()
    return any(words in text for words in MEMORY_WORDS)
