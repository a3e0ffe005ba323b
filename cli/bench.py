"""Speed and memory of crop, paste and mesh swap, side by side with insightface in one run.

Every figure is the median of repeated runs in which all contestants take turns. A face is 300 pixels: the edge of the square that
insightface aligns. Its paste is what INSwapper.get needs more with paste_back than without, the network replaced by a stub that
answers at once. Our copy of the frame, owed once however many faces there are, is reported apart from the paste.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import torch

from ..models.detect import detect_faces
from ..models.faces import Face, Faces, Identity
from ..models.geometry import TEMPLATES, compose, crop_faces, similarity, transform, warp
from ..models.identity import make_identity
from ..models.images import to_uint8
from ..models.parse import region_mask
from ..models.paste import paste_into
from ..models.swap import swap_faces
from .demo import read_portraits

FRAMES = {"720p": (720, 1280), "1080p": (1080, 1920), "4K": (2160, 3840)}
FACE, CROP = 300, 512
HOW_TO_GET = "insightface is not installed, so there is nothing to compare with; run: python -m pip install insightface"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``[--json] [--quick] [--repeats N] [--threads N]``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--quick", action="store_true", help="720p and 1080p, one face, few repeats")
    parser.add_argument("--repeats", type=int, help="timed runs of each (15; with --quick 3)")
    parser.add_argument("--threads", type=int, help="CPU threads for every contestant (as many as there are)")


def run(arguments: argparse.Namespace) -> int:
    """Always 0: a slow machine is not an error."""
    repeats = max(1, arguments.repeats or (3 if arguments.quick else 15))
    with _threads(arguments.threads):
        report = measure(["720p", "1080p"] if arguments.quick else list(FRAMES), [1] if arguments.quick else [1, 8], repeats)
    print(json.dumps(report, indent=2) if arguments.json else table(report))
    return 0


def measure(frames: list[str], counts: list[int], repeats: int) -> dict:
    """The whole report: the machine, one entry of ``results`` per frame size and number of faces, and notes."""
    theirs = find_spec("insightface") is not None
    faces, portrait, identity = _people()
    results = []
    for frame in frames:
        for count in counts:
            images, placed = build_frame(portrait, faces[0], FRAMES[frame], count)
            results.append({"frame": frame, "width": images.shape[2], "height": images.shape[1], "faces": count,
                            **contest(images, placed, identity, repeats, theirs)})
            print(f"{frame}, {count} face(s) measured", file=sys.stderr)
    return {"machine": machine(), "face_pixels": FACE, "crop_size": CROP, "repeats": repeats, "insightface": theirs,
            "results": results, "notes": [] if theirs else [HOW_TO_GET]}


def _people() -> tuple[Faces, torch.Tensor, Identity]:
    """The first demo portrait's face, its picture, and the second one's identity."""
    target, source = read_portraits().values()
    identity, _ = make_identity(source, detect_faces(source, keep="first"))
    return detect_faces(target, keep="first"), target, identity


def build_frame(portrait: torch.Tensor, face: Face, size: tuple[int, int], count: int) -> tuple[torch.Tensor, Faces]:
    """A frame ``[1, H, W, 3]`` with ``count`` copies of the face, slightly turned, each ``FACE`` pixels, and where they are."""
    height, width = size
    image = torch.full((1, height, width, 3), 0.5)
    columns = min(count, 4)
    rows = -(-count // columns)
    to_square = similarity(face.keypoints, TEMPLATES["arcface_128"] * FACE)
    items = []
    for i in range(count):
        center = np.array([(i % columns + 0.5) * width / columns, (i // columns + 0.5) * height / rows])
        angle = 0.1 * (i % 3 - 1) + 0.05
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        placed = compose(np.c_[turn, center - turn @ (FACE / 2, FACE / 2)], to_square)
        half = np.array([width / columns, height / rows]) / 2
        x0, y0 = np.floor(center - half).astype(int)
        x1, y1 = np.floor(center + half).astype(int)
        there = placed.copy()
        there[:, 2] -= (x0, y0)
        image[0, y0:y1, x0:x1] = warp(portrait[0], there, y1 - y0, x1 - x0).clamp(0, 1)
        box = transform(face.box.reshape(2, 2), placed)
        points68 = None if face.points68 is None else transform(face.points68, placed)
        items.append(Face(0, [*box.min(0), *box.max(0)], transform(face.keypoints, placed), points68=points68))
    return image, Faces(tuple(items), 1, height, width, crop_size=CROP)


def contest(images: torch.Tensor, faces: Faces, identity: Identity, repeats: int, theirs: bool) -> dict:
    """Milliseconds, ratios and peak memory of one frame."""
    crops = 1 - crop_faces(images, faces)
    masks = region_mask(("face",), CROP, faces=faces)
    out, covered = images.clone(), torch.zeros(images.shape[:3])
    tasks: dict[str, Callable[[], object]] = {
        "crop_ours_512": lambda: crop_faces(images, faces),
        "crop_ours_128": lambda: crop_faces(images, faces, 128),
        "paste_ours": lambda: paste_into(out, covered, images, faces, crops, masks),
        "copy_ours": images.clone,
        "swap_ours": lambda: swap_faces(images, faces, identity),
    }
    if theirs:
        tasks |= insightface_tasks(to_uint8(images[0])[..., ::-1].copy(), faces)
    times = interleaved(tasks, repeats)
    peaks = {name: peak_memory(task) for name, task in tasks.items()}
    result: dict = {
        "crop": {"ours_512_ms": times["crop_ours_512"], "ours_128_ms": times["crop_ours_128"]},
        "paste": {"ours_ms": times["paste_ours"], "ours_peak_mb": peaks["paste_ours"]},
        "copy": {"ours_ms": times["copy_ours"]},
        "swap": {"ours_ms": times["swap_ours"], "ours_peak_mb": peaks["swap_ours"]},
    }
    if theirs:
        pasting = max(times["get_paste"] - times["get_crop"], 0.0)
        result["crop"] |= {"insightface_128_ms": times["norm_crop"], "ratio_128": _ratio(times["norm_crop"], times["crop_ours_128"])}
        result["paste"] |= {"insightface_ms": pasting, "insightface_peak_mb": peaks["get_paste"],
                            "ratio": _ratio(pasting, times["paste_ours"]),
                            "ratio_with_copy": _ratio(pasting, times["paste_ours"] + times["copy_ours"])}
    return result


def insightface_tasks(frame: np.ndarray, faces: Faces) -> dict[str, Callable[[], object]]:
    """insightface's crop, and its swapper with and without pasting, for all faces of a BGR frame one after another."""
    with contextlib.redirect_stdout(io.StringIO()):
        from insightface.model_zoo.inswapper import INSwapper
        from insightface.utils.face_align import norm_crop

    answer = np.random.default_rng(0).random((1, 3, 128, 128), np.float32)
    swapper = INSwapper.__new__(INSwapper)
    vars(swapper).update(input_mean=0.0, input_std=255.0, input_size=(128, 128), input_names=["target", "source"],
                         output_names=["output"], emap=np.eye(512, dtype=np.float32),
                         session=SimpleNamespace(run=lambda names, feed: [answer]))
    source = SimpleNamespace(normed_embedding=np.full(512, 512**-0.5, np.float32))
    targets = [SimpleNamespace(kps=np.array(face.keypoints, np.float32)) for face in faces]

    def crop() -> None:
        for target in targets:
            norm_crop(frame, target.kps, 128)

    def swap(paste_back: bool) -> None:
        image = frame
        for target in targets:
            answered = swapper.get(image, target, source, paste_back=paste_back)
            image = answered if paste_back else image

    return {"norm_crop": crop, "get_crop": lambda: swap(False), "get_paste": lambda: swap(True)}


def interleaved(tasks: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each task, after one run to warm up; the tasks take turns, so that a busy moment hits them all."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # insightface's norm_crop uses a deprecated scikit-image call every time
        for turn in range(repeats + 1):
            for name, task in tasks.items():
                start = time.perf_counter()
                task()
                if turn:
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


def _ratio(theirs: float, ours: float) -> float:
    return round(theirs / ours, 1)


@contextlib.contextmanager
def _threads(count: int | None):
    """torch's and OpenCV's threads set to ``count`` (or left alone), and put back."""
    before = torch.get_num_threads()
    cv2 = sys.modules.get("cv2") if not count or not find_spec("insightface") else __import__("cv2")
    before_cv2 = cv2.getNumThreads() if cv2 else 0
    if count:
        torch.set_num_threads(count)
        if cv2:
            cv2.setNumThreads(count)
    yield
    torch.set_num_threads(before)
    if cv2:
        cv2.setNumThreads(before_cv2)


def machine() -> dict:
    """What the figures were measured on."""
    return {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "python": platform.python_version(), "torch": torch.__version__}


def table(report: dict) -> str:
    """The report for a terminal."""
    head = ("frame", "faces", "crop 512", "crop 128", "theirs", "paste", "theirs", "ratio", "copy", "swap", "peak MB paste/theirs/swap")
    rows = [head]
    for entry in report["results"]:
        crop, pasted, swap = entry["crop"], entry["paste"], entry["swap"]
        peaks = (pasted["ours_peak_mb"], pasted.get("insightface_peak_mb"), swap["ours_peak_mb"])
        rows.append((entry["frame"], str(entry["faces"]), _cell(crop["ours_512_ms"]), _cell(crop["ours_128_ms"]),
                     _cell(crop.get("insightface_128_ms")), _cell(pasted["ours_ms"]), _cell(pasted.get("insightface_ms")),
                     _cell(pasted.get("ratio"), "{:.0f}x"), _cell(entry["copy"]["ours_ms"]), _cell(swap["ours_ms"]),
                     "/".join(_cell(peak, "{:.0f}") for peak in peaks)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    about = report["machine"]
    first = (f"Milliseconds, median of {report['repeats']}, {about['threads']} of {about['cores']} cores, torch {about['torch']}. "
             f"Faces of {report['face_pixels']} pixels; theirs = insightface.")
    return "\n".join([first, *lines, *report["notes"]])


def _cell(value: float | None, form: str = "{:.2f}") -> str:
    return "-" if value is None else form.format(value)
