"""What the sections share: the setup, the scene, clocks, the bytes that were copied, and the memory in use."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

# Seconds after which no further run of one task is begun.
SECONDS_PER_TASK = 3.0


class Skip(Exception):
    """A section cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Setup:
    """How a section is run. device: ``cuda`` or ``cpu``. tiny: tiny networks and small frames. folder: for files of this run."""

    device: str
    tiny: bool
    folder: Path

    @classmethod
    def of(cls, device: str, tiny: bool, folder: str) -> Setup:
        """Returns the setup of a request, whose device may be ``auto``."""
        there = torch.cuda.is_available()
        if device == "cuda" and not there:
            raise Skip("torch sees no CUDA card")
        return cls("cuda" if there and device != "cpu" else "cpu", tiny, Path(folder))

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return (270, 480) if self.tiny else (1080, 1920)

    @property
    def crop(self) -> int:
        """Edge of the crops in pixels."""
        return 128 if self.tiny else 512

    @property
    def runs(self) -> int:
        """How often a task is timed."""
        return 3 if self.tiny else 15


def one_line(error: BaseException) -> str:
    """Returns an error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def attempt(row: dict, measure: Callable[[], dict]) -> dict:
    """Returns the row with what ``measure`` returns, or with the error in one line."""
    try:
        return row | measure()
    except Exception as error:
        return row | {"error": one_line(error)}


def synchronize(device: str) -> None:
    """Waits until the card has computed what it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()


def time_task(task: Callable[[], Any], device: str, runs: int, warm_up: int = 2) -> list[float]:
    """Returns milliseconds of up to ``runs`` runs, each from a card at rest to a card at rest, after ``warm_up`` ones that do not count."""
    for _ in range(warm_up):
        task()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < runs and (not times or time.perf_counter() - began < SECONDS_PER_TASK):
        synchronize(device)
        start = time.perf_counter()
        task()
        synchronize(device)
        times.append(1000 * (time.perf_counter() - start))
    return times


def time_on_card(task: Callable[[], Any], device: str, runs: int = 5) -> float | None:
    """Returns the median milliseconds between two events around the task on torch's stream; None without a card."""
    if device != "cuda":
        return None
    times = []
    for _ in range(runs):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        task()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def count_transfers(task: Callable[[], Any], device: str) -> dict:
    """Counts the copies between the card and the host while the task runs, and their bytes, by torch's profiler, which records those of
    every library in the process. Returns no figures without a card, and a note where the profiler records no kernels."""
    if device != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile

    task()
    torch.cuda.synchronize()
    try:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
            task()
            torch.cuda.synchronize()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            recorded.export_chrome_trace(str(path))
            events = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    except Exception as error:
        return {"note": f"transfers were not counted, {one_line(error)}"}
    if not any(event.get("cat") == "kernel" for event in events):
        return {"note": "transfers were not counted: the profiler recorded no kernel (CUPTI may be missing)"}
    return sum_transfers(events)


def sum_transfers(events: list[dict]) -> dict:
    """Sums the copies of a trace in Chrome's format, as torch's profiler writes it."""
    result = {"to_card_copies": 0, "to_card_bytes": 0, "to_host_copies": 0, "to_host_bytes": 0}
    for event in events:
        if event.get("cat") != "gpu_memcpy":
            continue
        way = next((way for mark, way in (("HtoD", "to_card"), ("DtoH", "to_host")) if mark in event.get("name", "")), None)
        if way:
            result[f"{way}_copies"] += 1
            result[f"{way}_bytes"] += int(event.get("args", {}).get("bytes", 0))
    return result


def memory_in_use(device: str) -> dict[str, float]:
    """Returns megabytes in use, after everything that can be given back was: host (of this process), and on a card allocated and
    reserved (by torch) and card (by everybody, onnxruntime included)."""
    gc.collect()
    synchronize(device)
    if device == "cuda":
        torch.cuda.empty_cache()
    release = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if release:
        release(0)
    used = {"host": _resident_bytes()}
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        used |= {"allocated": torch.cuda.memory_allocated(), "reserved": torch.cuda.memory_reserved(), "card": total - free}
    return {key: round(value / 2**20, 1) for key, value in used.items()}


def _resident_bytes() -> int:
    """Bytes of this process that are in memory; 0 where the system does not say (it is Linux that does)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 0


def need(*packages: str) -> None:
    """Raises ``Skip`` where a package is not installed."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise Skip(f"{' and '.join(missing)} not installed")
