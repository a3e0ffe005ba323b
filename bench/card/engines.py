"""The sections about swap engines: half precision, batches, and what a frame costs beyond the network."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from faceloom.models.crops.crop import cut_crops
from faceloom.models.errors import FaceLoomError
from faceloom.models.faces import Faces
from faceloom.models.paste import paste
from faceloom.models.runtime.method import Loading
from faceloom.models.runtime.onnx import open_session
from faceloom.models.swap import swap_faces
from faceloom.models.swap.load import load_engine
from faceloom.models.swap.torch_engine import TorchEngine

from bench.card.scene import ONNX_NAMES, make_engine, make_frame, make_identity, onnx_file, torch_systems
from bench.card.sessions import random_feeds
from bench.card.tools import Setup, Skip, attempt, synchronize, time_on_card, time_task
from bench.engines import Clock, ClockedSession

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
# Whose overhead beyond the network is measured, beside the ONNX double's.
OVERHEAD_SYSTEMS = ("GHOST", "SimSwap 512", "SimSwap 224")


@torch.inference_mode()
def precision(setup: Setup) -> Iterator[dict]:
    """Yields two rows per research system, for float16 and bfloat16: largest and mean difference of the crops to those of float32 (0..1),
    milliseconds a face in both, and the share of the float32 pixels that are neither black nor white, without which the difference says
    nothing. A network that gives NaN is a row with an error."""
    images, faces = make_frame(setup, 1)
    identity = make_identity()
    for name in torch_systems(setup):
        engine, expected, slow = None, None, []
        for dtype_name, dtype in HALVES.items():

            def measure(name: str = name, dtype: torch.dtype = dtype) -> dict:
                nonlocal engine, expected, slow
                if engine is None or expected is None:
                    engine = make_engine(setup, name)
                    source = engine.prepare(identity)
                    (expected, masks), slow = _swap_timed(engine, images, faces, source, setup)
                    inside = expected[masks > 0.5]
                    engine.unclamped_share = float(((inside > 0) & (inside < 1)).float().mean()) if inside.numel() else None
                # Back to float32 first: halves of one type must not be cast from the other.
                weights = engine.__dict__.setdefault("full_weights", {key: value.to("cpu", copy=True) for key, value
                                                                      in engine.model.net.state_dict().items()})
                engine.model.net.to(dtype)
                for key, value in engine.model.net.state_dict().items():
                    value.copy_(weights[key])
                source = engine.prepare(identity)
                (crops, _), fast = _swap_timed(engine, images, faces, source, setup)
                off = (crops - expected).abs()
                return {"finite": bool(torch.isfinite(crops).all()), "difference_max": float(off.max()),
                        "difference_mean": float(off.mean()), "unclamped_share": engine.unclamped_share,
                        "ms": statistics.median(fast), "ms_float32": statistics.median(slow),
                        "times_as_fast": statistics.median(slow) / statistics.median(fast),
                        "card_ms": time_on_card(lambda: swap_faces(images, faces, source, engine), setup.device, 3),
                        "runs_ms": fast, "runs_float32_ms": slow}

            yield attempt({"system": name, "dtype": dtype_name}, measure)
        del engine, expected
        gc.collect()


def _swap_timed(engine: TorchEngine, images: torch.Tensor, faces: Faces, source: torch.Tensor, setup: Setup
                ) -> tuple[tuple[torch.Tensor, torch.Tensor], list[float]]:
    """Swaps the faces. Returns crops and masks, and the milliseconds of every run."""
    result = swap_faces(images, faces, source, engine)
    return result, time_task(lambda: swap_faces(images, faces, source, engine), setup.device, setup.runs, warm_up=1)


@torch.inference_mode()
def batches(setup: Setup) -> Iterator[dict]:
    """Yields a row per network and number of faces: faces a second when the network sees them together and one by one, and their ratio."""
    for name in ONNX_NAMES:
        for count in (4,) if setup.tiny else (8, 16):
            yield attempt({"network": f"ONNX {name}", "faces": count}, lambda name=name, count=count: _onnx_batches(setup, name, count))
    for name in torch_systems(setup):
        yield attempt({"network": name}, lambda name=name: _torch_batches(setup, name))
        gc.collect()


def _onnx_batches(setup: Setup, name: str, count: int) -> dict:
    try:
        model = open_session(onnx_file(setup, name), providers=setup.device)
    except Skip as skip:
        return {"note": f"skipped: {skip}"}
    if model.providers[0] != setup.device:
        raise FaceLoomError(model.warning or f"the session runs on {model.providers[0]}")
    feeds = random_feeds(setup.device, count)
    model.run(feeds)  # which decides on the batch mode
    rows = [{"target": feeds["target"][i : i + 1], "source": feeds["source"]} for i in range(count)]
    return {"batch_mode": model.batch_mode or "one by one"} | _compare(lambda: model.run(feeds)[0],
                                                                       lambda: torch.cat([model.run(row)[0] for row in rows]), count, setup)


def _torch_batches(setup: Setup, name: str) -> dict:
    engine = make_engine(setup, name)
    source = engine.prepare(make_identity())
    count = 4 if setup.tiny else 8
    random = torch.Generator().manual_seed(0)
    tiles = torch.rand(count, engine.size, engine.size, 3, generator=random).to(setup.device)
    sources = source.expand(count, *source.shape[1:])
    return {"faces": count, "batch_mode": f"chunks of {engine.chunk}"} | _compare(
        lambda: engine.run(tiles, sources)[0],
        lambda: torch.cat([engine.run(tiles[i : i + 1], sources[i : i + 1])[0] for i in range(count)]), count, setup)


def _compare(together: Callable[[], torch.Tensor], one_by_one: Callable[[], torch.Tensor], count: int, setup: Setup) -> dict:
    """Times two ways to run ``count`` faces, in turns, and compares what they give."""
    difference = float((together().float() - one_by_one().float()).abs().max())
    times: dict[str, list[float]] = {"together_ms": [], "one_by_one_ms": []}
    for _ in range(3):
        times["together_ms"] += time_task(together, setup.device, max(1, setup.runs // 3), warm_up=1)
        times["one_by_one_ms"] += time_task(one_by_one, setup.device, max(1, setup.runs // 3), warm_up=1)
    fast, slow = (1000 * count / statistics.median(values) for values in times.values())
    return {"together_per_second": fast, "one_by_one_per_second": slow, "ratio": fast / slow, "difference": difference, **times}


@torch.inference_mode()
def overhead(setup: Setup) -> Iterator[dict]:
    """Yields a row per engine and number of faces: milliseconds a frame, whole frame in and whole frame out, those in the network, and
    what is beyond them in per cent of them. The crops have been cut, as Face Detect gives them to the nodes after it."""
    identity = make_identity()
    openers: dict[str, Callable[[Clock], tuple]] = {"ONNX full cost": lambda clock: _clocked_onnx(setup, clock)}
    for name in OVERHEAD_SYSTEMS:
        if name in torch_systems(setup) and not (name == "SimSwap 224" and not setup.tiny):
            openers[name] = lambda clock, name=name: _clocked_torch(setup, name, clock)
    for name, opened in openers.items():
        clock, engine = Clock(), None
        for count in (1, 8):

            def measure(count: int = count, opened: Callable = opened, clock: Clock = clock) -> dict:
                nonlocal engine
                engine = engine or opened(clock)
                images, faces = make_frame(setup, count)
                faces, crops = cut_crops(images, faces)
                source = engine.prepare(identity)

                def whole_frame() -> torch.Tensor:
                    swapped, masks = swap_faces(images, faces, source, engine)
                    return paste(images, faces, swapped, masks)[0]

                changed = float((whole_frame() - images).abs().max())
                totals, networks = [], []
                for _ in range(setup.runs):
                    clock.seconds = 0.0
                    totals += time_task(whole_frame, setup.device, 1, warm_up=0)
                    networks.append(1000 * clock.seconds)
                total, network = statistics.median(totals), statistics.median(networks)
                beyond = statistics.median(np.subtract(totals, networks))
                del crops  # held until here: the faces refer to them
                return {"ms": total, "network_ms": network, "beyond_ms": float(beyond), "beyond_ms_per_face": float(beyond) / count,
                        "beyond_percent": 100 * float(beyond) / network if network else None, "changed": changed, "runs_ms": totals,
                        "runs_network_ms": networks}

            yield attempt({"engine": name, "faces": count}, measure)
        del engine
        gc.collect()


def _clocked_onnx(setup: Setup, clock: Clock):
    """Opens the ONNX double whose session's runs are added to the clock."""
    try:
        engine = load_engine(onnx_file(setup, "full cost"), Loading(providers=setup.device))
    except Skip as skip:
        raise FaceLoomError(str(skip)) from skip
    if engine.model.providers[0] != setup.device:
        raise FaceLoomError(engine.model.warning or f"the session runs on {engine.model.providers[0]}")
    engine.model.takes_batches()  # which may open another session
    engine.model._session = ClockedSession(engine.model._session, clock)
    return engine


def _clocked_torch(setup: Setup, name: str, clock: Clock) -> TorchEngine:
    """Makes an engine whose networks' time is added to the clock; the card is at rest before and after."""
    engine = make_engine(setup, name)
    generate = engine.generate

    def clocked(*tensors: torch.Tensor):
        synchronize(setup.device)
        start = time.perf_counter()
        result = generate(*tensors)
        synchronize(setup.device)
        clock.seconds += time.perf_counter() - start
        return result

    engine.generate = clocked
    return engine
