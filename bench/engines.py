"""Network engines, whole frame in and whole frame out: FaceLoom beside insightface's swapper and a loop as FaceFusion runs it.

All run the same network in sessions on the same provider, whose time is taken within each run: what is left is the overhead. The
networks are the doubles of ``bench_doubles``. FaceLoom takes and gives float frames, the others 8-bit ones. FaceFusion itself is not
needed: its sequence of operations (3.8, default settings, pixel boost off) is written anew here from a description.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from faceloom.models.crops.crop import crop_faces, cut_crops
from faceloom.models.crops.templates import TEMPLATES
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Face, Faces, Identity
from faceloom.models.paste import paste, paste_into
from faceloom.models.pixels.tensors import to_uint8
from faceloom.models.runtime.method import Loading
from faceloom.models.swap import swap_faces
from faceloom.models.swap.load import load_engine
from faceloom.models.swap.onnx_engine import OnnxEngine

from bench.doubles import EDGE, LATENT, Double, save_full_cost, save_trivial
from bench.measure import peak_memory, ratio, turns
from bench.paste import build_frame, face_edge

DOUBLES: dict[str, Callable[[Path], Double]] = {"trivial": save_trivial, "full cost": save_full_cost}
HOW_TO_GET = "The network engines were not measured: their doubles need onnx and onnxruntime; run: python -m pip install insightface"
BOX_BLUR = 0.3  # FaceFusion's default


@dataclass
class Clock:
    """Seconds spent in sessions since it was last set to 0."""

    seconds: float = 0.0


class ClockedSession:
    """An onnxruntime session whose runs are added to a clock."""

    def __init__(self, session, clock: Clock) -> None:
        self._session = session
        self._clock = clock

    def run(self, *arguments):
        return self._timed(self._session.run, *arguments)

    def run_with_iobinding(self, *arguments):
        return self._timed(self._session.run_with_iobinding, *arguments)

    def _timed(self, call: Callable, *arguments):
        start = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            self._clock.seconds += time.perf_counter() - start

    def __getattr__(self, name: str):
        return getattr(self._session, name)


def available_devices(request: str) -> list[str]:
    """``cpu``, and ``cuda`` beside it where both libraries have it, unless one is asked for."""
    import onnxruntime

    there = torch.cuda.is_available() and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if request == "cuda" and not there:
        raise FaceLoomError("Torch or onnxruntime has no CUDA here; install their CUDA builds, or measure with --device cpu.")
    return [request] if request != "auto" else ["cpu", "cuda"] if there else ["cpu"]


def measure_engines(portrait: torch.Tensor, face: Face, frames: dict[str, tuple[int, int]], counts: dict[str, list[int]], device: str,
                    repeats: dict[str, int]) -> tuple[list[dict], list[str]]:
    """One entry per double, device, frame size and number of faces; and notes.

    counts, repeats: by double, for the CPU. On CUDA every double is fast enough to be run as often as the trivial one.
    """
    if not (find_spec("onnx") and find_spec("onnxruntime")):
        return [], [HOW_TO_GET]
    results = []
    with tempfile.TemporaryDirectory() as folder, _environment("FACELOOM_CACHE", folder):
        for name, times in counts.items():
            if not times:
                continue
            double = DOUBLES[name](Path(folder) / f"inswapper_128 {name}.onnx")
            for where in available_devices(device):
                runs = repeats["trivial" if where == "cuda" else name]
                clock = Clock()
                engine, theirs = _open(double, where, clock)
                for frame, size in frames.items():
                    for count in times:
                        images, faces = build_frame(portrait, face, size, count)
                        entry = contest(engine, theirs, double, images.to(where), faces, clock, runs)
                        results.append({"double": name, "parameters": double.parameters, "gflop": round(double.multiply_adds / 1e9, 1),
                                        "device": where, "provider": engine.model.providers[0], "frame": frame, "width": size[1],
                                        "height": size[0], "faces": count, "face_pixels": face_edge(size, count), **entry})
                        print(f"{name} network on {where}, {frame}, {count} face(s) measured", file=sys.stderr)
            double.path.unlink()
    return results, []


def _open(double: Double, device: str, clock: Clock):
    """Our engine, and a session for the others: the one it came with."""
    engine = load_engine(double.path, Loading(providers=device))
    session = ClockedSession(engine.model._session, clock)
    engine.model.takes_batches()  # which may open another session, for more than one row
    engine.model._session = ClockedSession(engine.model._session, clock)
    return engine, session


def contest(engine: OnnxEngine, session, double: Double, images: torch.Tensor, faces: Faces, clock: Clock, repeats: int
            ) -> dict:
    """What each contestant takes per face: in all, in the network, and beyond it; ratios of theirs to ours.

    The frame's copy, which a node owes once however many faces there are, is in ours and told apart. The crops have
    been cut, as Face Detect gives them to every node after it; that is told apart, too, and not in ours."""
    faces, crops = cut_crops(images, faces)  # noqa: RUF059  (held while the tasks run)
    tasks = our_tasks(engine, images, faces)
    if find_spec("insightface"):
        frame = to_uint8(images[0].cpu())[..., ::-1].copy()
        tasks |= their_tasks(double, session, frame, faces)
    peaks = {name: peak_memory(task) for name, task in tasks.items()}  # which warms up, too
    for name, task in tasks.items():
        if peaks[name] is None:
            task()
    repeats = max(min(repeats, 2), round(repeats / len(faces) ** 0.5))  # many faces are a mean of many already
    timed = tasks | {"copy": images.clone, "crops": lambda: crop_faces(images[:], faces)}  # of another object: anew
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # insightface's alignment calls a deprecated function of scikit-image every time
        for name, counts in turns(timed, repeats, **({"burst": 1} if repeats <= 2 else {})):
            times = _timed(timed[name], clock, images.device)
            if counts:
                runs[name].append(times)
    result: dict[str, Any] = {"repeats": repeats, "batched": engine.model.takes_batches()}
    for name in timed:
        total, network = (np.array(values) * 1000 / len(faces) for values in zip(*runs[name]))
        if name not in tasks:
            result[f"{name}_ms_per_face"] = statistics.median(total)
            continue
        result[name] = {"ms_per_face": statistics.median(total), "network_ms_per_face": statistics.median(network),
                        "overhead_ms_per_face": statistics.median(total - network), "peak_mb": peaks[name]}
    ours = result.get("ours")
    for name in result.keys() & {"insightface", "facefusion_like"} if ours else ():
        result[name] |= {key: ratio(result[name][value], ours[value])
                         for key, value in (("ratio", "ms_per_face"), ("overhead_ratio", "overhead_ms_per_face"))}
    return result


def _timed(task: Callable[[], object], clock: Clock, device: torch.device) -> tuple[float, float]:
    clock.seconds = 0.0
    start = time.perf_counter()
    task()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, clock.seconds


def _source() -> np.ndarray:
    return np.full(LATENT, LATENT**-0.5, np.float32)


def our_tasks(engine: OnnxEngine, images: torch.Tensor, faces: Faces) -> dict[str, Callable[[], torch.Tensor]]:
    """All faces of the frame in one call, and one call per face, as the nodes make them."""
    source = engine.prepare(Identity({"w600k": _source()}, np.zeros((0, 1, 1, 3), np.float32), ()))

    @torch.inference_mode()  # as ComfyUI runs nodes
    def together() -> torch.Tensor:
        crops, masks = swap_faces(images, faces, source, engine)
        return paste(images, faces, crops, masks)[0]

    @torch.inference_mode()
    def one_by_one() -> torch.Tensor:
        out, covered = images.clone(), images.new_zeros(images.shape[:3])
        for i in range(len(faces)):
            one = faces.take([i])
            crops, masks = swap_faces(images, one, source, engine)
            paste_into(out, covered, images, one, crops, masks)
        return out

    return {"ours": together, "ours_one_by_one": one_by_one}


def their_tasks(double: Double, session, frame: np.ndarray, faces: Faces) -> dict[str, Callable[[], np.ndarray]]:
    """insightface's swapper over all faces of a BGR frame, and FaceFusion's way of doing it."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the shape of its input
        from insightface.model_zoo.inswapper import INSwapper

        swapper = INSwapper(str(double.path), session)
    source = SimpleNamespace(normed_embedding=_source())
    targets = [SimpleNamespace(kps=np.array(face.keypoints, np.float32)) for face in faces]
    latent = (_source() @ swapper.emap)[None]

    def insightface() -> np.ndarray:
        image = frame
        for target in targets:
            image = swapper.get(image, target, source, paste_back=True)
        return image

    def facefusion_like() -> np.ndarray:
        image = frame
        for target in targets:
            image = swap_like_facefusion(image, target.kps, session, latent)
        return image

    return {"insightface": insightface, "facefusion_like": facefusion_like}


def swap_like_facefusion(frame: np.ndarray, keypoints: np.ndarray, session, latent: np.ndarray) -> np.ndarray:
    """One face of a BGR frame ``[H, W, 3]`` uint8: crop without filter, box mask, network, paste where the crop lies in a copy."""
    import cv2

    matrix = cv2.estimateAffinePartial2D(keypoints, (TEMPLATES["arcface_128"] * EDGE).astype(np.float32), method=cv2.RANSAC,
                                         ransacReprojThreshold=100)[0]
    crop = cv2.warpAffine(frame, matrix, (EDGE, EDGE), borderMode=cv2.BORDER_REPLICATE, flags=cv2.INTER_AREA)
    blur = int(EDGE * 0.5 * BOX_BLUR)
    border = max(blur // 2, 1)
    box = np.ones((EDGE, EDGE), np.float32)
    box[:border] = box[-border:] = box[:, :border] = box[:, -border:] = 0
    box = cv2.GaussianBlur(box, (0, 0), blur * 0.25).clip(0, 1)
    target = (crop[:, :, ::-1] / 255.0).transpose(2, 0, 1)[None].astype(np.float32)
    answer = session.run(None, {"target": target, "source": latent})[0][0]
    swapped = answer.transpose(1, 2, 0).clip(0, 1)[:, :, ::-1] * 255
    return paste_like_facefusion(frame, swapped, box, matrix)


def paste_like_facefusion(frame: np.ndarray, crop: np.ndarray, mask: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A copy of the frame with the crop blended into its bounding box, cut to whole levels."""
    import cv2

    height, width = frame.shape[:2]
    edge = crop.shape[0]
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0], [edge, 0], [edge, edge], [0, edge]]) @ inverse[:, :2].T + inverse[:, 2]
    x0, y0 = np.clip(np.floor(corners.min(0)).astype(int), 0, (width, height))
    x1, y1 = np.clip(np.ceil(corners.max(0)).astype(int), 0, (width, height))
    out = frame.copy()
    if x1 <= x0 or y1 <= y0:
        return out
    inverse[:, 2] -= (x0, y0)
    size = (int(x1 - x0), int(y1 - y0))
    weight = cv2.warpAffine(mask, inverse, size).clip(0, 1)[..., None]
    there = cv2.warpAffine(crop, inverse, size, borderMode=cv2.BORDER_REPLICATE)
    out[y0:y1, x0:x1] = (out[y0:y1, x0:x1] * (1 - weight) + there * weight).astype(frame.dtype)
    return out


@contextlib.contextmanager
def _environment(name: str, value: str):
    """An environment variable for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
