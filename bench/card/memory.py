"""The section about memory: what an engine takes while it is loaded and run, and what is left when it is dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from faceloom.models.errors import FaceLoomError
from faceloom.models.runtime.method import Loading
from faceloom.models.swap import SwapEngine, swap_faces
from faceloom.models.swap.load import load_engine

from bench.card.scene import make_engine, make_frame, make_identity, onnx_file, torch_systems
from bench.card.tools import Setup, Skip, attempt, memory_in_use


@torch.inference_mode()
def given_back(setup: Setup) -> Iterator[dict]:
    """Yields a row per engine: megabytes in use before it is loaded, loaded, after a run and when it was dropped, and what is left.

    left is of the whole card, onnxruntime's memory included; without a card it is of the process. The first engine of each library is
    loaded and dropped once before, since the library itself stays in memory.
    """
    images, faces = make_frame(setup, 1)
    identity = make_identity()
    openers: dict[str, Callable[[], SwapEngine]] = {name: lambda name=name: make_engine(setup, name) for name in torch_systems(setup)}
    try:
        files = {f"ONNX {name}": onnx_file(setup, name) for name in ("trivial", "full cost")}
        openers |= {name: lambda path=path: _open_onnx(path, setup) for name, path in files.items()}
    except Skip as skip:
        yield {"engine": "ONNX", "note": f"skipped: {skip}"}
    warm = {name: next(iter(each for each in openers if each.startswith("ONNX") == onnx), None)
            for name, onnx in (("torch", False), ("onnxruntime", True))}
    for name in warm.values():
        if name:
            attempt({}, lambda name=name: _stages(openers[name], images, faces, identity, setup))
    for name, opened in openers.items():
        yield attempt({"engine": name}, lambda opened=opened: _stages(opened, images, faces, identity, setup))


def _open_onnx(path, setup: Setup) -> SwapEngine:
    engine = load_engine(path, Loading(providers=setup.device))
    if engine.model.providers[0] != setup.device:
        raise FaceLoomError(engine.model.warning or f"the session runs on {engine.model.providers[0]}")
    return engine


def _stages(opened: Callable[[], SwapEngine], images, faces, identity, setup: Setup) -> dict:
    """Loads, runs and drops one engine. Returns the memory in use at each stage, in MB, and what is left of it."""
    stages = {"before": memory_in_use(setup.device)}
    engine = opened()
    source = engine.prepare(identity)  # for which a torch network is moved to the card
    stages["loaded"] = memory_in_use(setup.device)
    crops, masks = swap_faces(images, faces, source, engine)
    del crops, masks
    stages["ran"] = memory_in_use(setup.device)
    del engine, source
    stages["dropped"] = memory_in_use(setup.device)
    whole = "card" if setup.device == "cuda" else "host"
    row = {"left_mb": stages["dropped"][whole] - stages["before"][whole]}
    if setup.device == "cuda":
        row["left_by_torch_mb"] = stages["dropped"]["allocated"] - stages["before"]["allocated"]
    return row | {f"{stage}_{kind}_mb": value for stage, values in stages.items() for kind, value in values.items()}
