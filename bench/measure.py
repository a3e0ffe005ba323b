"""Clocks for the benchmark: fair turns, peak memory, the machine."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec

import torch

# Runs of one contestant in a row. The first pays for what its rivals did to the caches and thread pools and is not counted: what is
# measured is the steady pace of a clip.
_BURST = 4


def turns(names: Iterable[str], repeats: int, burst: int = _BURST) -> Iterator[tuple[str, bool]]:
    """Whose run is next, and whether it counts: at least ``repeats`` runs of each, in short bursts that take turns, so that a busy moment
    hits them all. A ``burst`` of 1 is for runs so long that what was before does not matter; all of them count."""
    for _ in range(-(-repeats // max(1, burst - 1))):
        for name in names:
            for run in range(burst):
                yield name, run > 0 or burst == 1


def interleaved(tasks: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each task over at least ``repeats`` runs, taken in ``turns``."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # insightface's norm_crop uses a deprecated scikit-image call every time
        for name, counts in turns(tasks, repeats):
            start = time.perf_counter()
            tasks[name]()
            if counts:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(task: Callable[[], object]) -> float | None:
    """Megabytes the process grows by at most while ``task`` runs (Linux; None elsewhere)."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if release:
        release(0)  # else freed memory that the C library kept would hide what the task takes
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # resets the peak to what is resident now
        before = _status("VmHWM")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            task()
        return round(max(0, _status("VmHWM") - before) / 1024, 1)
    except OSError:
        return None


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key + ":"))


@contextlib.contextmanager
def threads(count: int | None):
    """torch's and OpenCV's threads set to ``count`` (or left alone), and put back."""
    before = torch.get_num_threads()
    cv2 = sys.modules.get("cv2") if not count or not find_spec("insightface") else __import__("cv2")
    before_cv2 = cv2.getNumThreads() if cv2 else 0
    if count:
        torch.set_num_threads(count)
        if cv2:
            cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if cv2:
            cv2.setNumThreads(before_cv2)


def machine() -> dict:
    """What the figures were measured on."""
    return {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "python": platform.python_version(), "torch": torch.__version__}


def ratio(theirs: float, ours: float) -> float:
    """How many times as long they take."""
    return round(theirs / ours, 1)
