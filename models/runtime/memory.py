"""Runs work in chunks that fit into memory, recognizes running out of it, and has memory freed on a graphics card that others use too.

Torch's networks are moved by a ``DeviceManager``. onnxruntime takes the card's memory by itself, so whoever else uses the card (ComfyUI,
which fills it with diffusion models) has to be asked to free it before.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from ..errors import FaceLoomError
from ..progress import Progress, silent

Result = TypeVar("Result")
# Frees so many bytes of the graphics card for onnxruntime; for None, as many as it can.
MemoryFreer = Callable[[int | None], None]

# Words that the errors of torch, onnxruntime and its providers use where memory runs out.
MEMORY_ERROR_WORDS = ("out of memory", "outofmemory", "failed to allocate", "bad_alloc", "alloc_failed", "allocation_failed",
                      "memoryallocation", "bfcarena", "not enough memory")

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
# Set once, when ComfyUI imports the pack.
_memory_freer: MemoryFreer | None = None


class OnnxMemoryError(FaceLoomError):
    """A network did not fit into memory."""


def register_memory_freer(memory_freer: MemoryFreer | None) -> None:
    """Have ``memory_freer`` called from now on before onnxruntime takes memory of a graphics card; None: nobody."""
    global _memory_freer
    _memory_freer = memory_freer


def request_card_memory(size: int | None) -> None:
    """Ask the registered memory freer for ``size`` bytes of the graphics card; None: for as many as it can free."""
    if _memory_freer is not None:
        _memory_freer(size)


def release_cached_memory() -> None:
    """Give the memory that torch keeps for later back to the card."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def return_freed_blocks(least: int = 1 << 20) -> None:
    """Have the C library give blocks of at least so many bytes back as soon as they are freed, for the rest of the process; where it is not
    glibc, nothing. Left to itself it keeps them in heaps, one for each few threads, which grow as long as pictures go from one thread to
    another. For programs of our own: it is the whole process that works so."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, least)


def run_chunks(process: Callable[..., Result], items: Sequence, chunk: int, progress: Progress = silent,
               make_room: Callable[[], None] = release_cached_memory) -> list[Result]:
    """Call ``process`` with slices of at most ``chunk`` items, in order. Returns what it returned for each.

    Where memory runs out, ``make_room`` is called and half the slice is tried, a single item once more. ``progress`` counts items.
    FaceLoomError where one item does not fit even then.
    """
    results, done, made_room = [], 0, False
    chunk = max(1, chunk)
    while done < len(items):
        progress(done, len(items))
        try:
            results.append(process(items[done : done + chunk]))
        except (MemoryError, RuntimeError, FaceLoomError) as error:
            if not is_out_of_memory(error):
                raise
            if chunk == 1 and made_room:
                raise FaceLoomError("There is not enough memory for even one face; unload other models, or use the CPU.") from error
        else:
            done, made_room = min(done + chunk, len(items)), False
            continue
        make_room()  # only here: until now the exception held the tensors of the failed call
        made_room = True
        chunk = max(1, min(chunk, len(items) - done) // 2)
    progress(len(items), len(items))
    return results


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or onnxruntime ran out of memory; onnxruntime has no error class for it, so its message is read."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError, OnnxMemoryError)) or mentions_memory(str(error))


def mentions_memory(text: str) -> bool:
    """Whether the message of an error says that memory ran out."""
    text = text.lower()
    return any(words in text for words in MEMORY_ERROR_WORDS)
