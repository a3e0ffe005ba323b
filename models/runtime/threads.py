"""Keeps small computations of torch on the thread that asks for them.

torch shares every operation among all its threads and waits for the last one. Where another process keeps one of the cores busy, a small
operation waits longer for that thread than it computes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _ThreadCount:
    """torch's number of threads, which belongs to the whole process: set to 1 while anybody asks for it, and back after the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users, self._usual = 0, 1

    def take(self) -> None:
        with self._lock:
            if self._users == 0:
                self._usual = torch.get_num_threads()
            self._users += 1
            torch.set_num_threads(1)  # by each thread: OpenMP counts for each of them, and new ones take over the last number

    def give_back(self) -> None:
        with self._lock:
            self._users -= 1
            torch.set_num_threads(self._usual)


_COUNT = _ThreadCount()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute what is inside the ``with`` block on this thread alone; afterwards torch has the threads that it had."""
    _COUNT.take()
    try:
        yield
    finally:
        _COUNT.give_back()
