"""Runs reading and encoding on threads of their own, with queues that do not grow."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.1  # how long a thread that waits for room may miss that it should stop


class ReadAhead(Generic[T]):
    """Iterates over ``items`` on a thread of its own, at most ``size`` items ahead. An error of ``items`` is raised where it occurred in
    the order of items. ``close`` ends the thread and closes ``items`` if they are a generator."""

    def __init__(self, items: Iterator[T], size: int):
        self._queue: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(max(1, size))
        self._stop = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, args=(items,), name="faceloom-read-ahead", daemon=True)
        self._thread.start()

    def _run(self, items: Iterator[T]) -> None:
        """Fill the queue until the items end, one of them fails, or somebody closes."""
        last: tuple[bool, T | BaseException | None] = (False, None)
        try:
            for item in items:
                if not self._put((True, item)):
                    break
        except BaseException as error:
            last = (False, error)
        finally:
            if close := getattr(items, "close", None):
                close()
        self._put(last)

    def _put(self, entry: tuple[bool, T | BaseException | None]) -> bool:
        """Wait for room and put an entry into the queue; False where somebody closed meanwhile."""
        while not self._stop.is_set():
            try:
                self._queue.put(entry, timeout=_POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._ended:
            raise StopIteration
        is_item, value = self._queue.get()
        if is_item:
            return value  # type: ignore[return-value]
        self._ended = True
        self._thread.join()
        if isinstance(value, BaseException):
            raise value
        raise StopIteration

    def close(self) -> None:
        """End the thread. What was read ahead is thrown away."""
        self._ended = True
        self._stop.set()
        self._thread.join()


class Worker(Generic[T]):
    """Calls ``work(item)`` for each item put, on a thread of its own, at most ``size`` items behind. An error of the work is raised by the
    next ``put`` or by ``finish``; items after it are dropped."""

    def __init__(self, work: Callable[[T], None], size: int):
        self._queue: queue.Queue[T | None] = queue.Queue(max(1, size))
        self._work = work
        self._error: BaseException | None = None
        self._dropping = False
        self._thread = threading.Thread(target=self._run, name="faceloom-encode", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """Work through the queue until ``None`` comes. After an error the queue is only emptied, so that nobody waits for room."""
        while (item := self._queue.get()) is not None:
            if self._error is None and not self._dropping:
                try:
                    self._work(item)
                except BaseException as error:
                    self._error = error

    def put(self, item: T) -> None:
        """Hand over an item; waits while the queue is full."""
        self._raise()
        self._queue.put(item)

    def finish(self) -> None:
        """Wait until everything is worked through and end the thread."""
        self._end()
        self._raise()

    def cancel(self) -> None:
        """End the thread without working through what waits. Raises nothing."""
        self._dropping = True
        self._end()

    def _end(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
