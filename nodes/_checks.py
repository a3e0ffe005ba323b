"""Checks what comes into a node before it works: other packs use our socket names for other things, numbers come from other nodes and
through the API, and a bypassed node hands on what it was given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from comfy_api.latest import io

from ..models import faces as values
from ..models.crops.crop import check_crops_are_of
from ..models.detect import Detector
from ..models.diffusion.gaze import GazeEstimator
from ..models.errors import FaceLoomError
from ..models.identity import Recognizer
from ..models.parse import Parser
from ..models.parse.occlude import Occluder
from ..models.restore import Restorer
from ..models.swap import SwapEngine

NUMBERS = {"INT": "a whole number", "FLOAT": "a number"}


def _has(*names: str):
    return lambda value: all(hasattr(value, name) for name in names)


def _is(*kinds: type):
    return lambda value: isinstance(value, kinds)


# What a socket takes: whether it takes a value, what that is, and which node gives it.
SOCKETS = {
    "FACES": (_is(values.Faces), "faces", "Face Detect"),
    "FACE_IDENTITY": (_is(values.Identity), "an identity", "ArcFace Embed or Identity Load"),
    "FACE_DETECTOR": (_is(Detector), "a face detector", "Load Face Detector"),
    "FACE_RECOGNIZER": (_is(Recognizer), "a face recognizer", "Load Face Recognizer"),
    "FACE_PARSER": (_is(Parser), "a face parser", "Load Face Parser"),
    "FACE_OCCLUDER": (_is(Occluder), "an occluder", "Load Face Parser"),
    "SWAP_MODEL": (_is(SwapEngine), "a swap model", "Load Swap Model"),
    "RESTORE_MODEL": (_is(Restorer), "a restoration model", "Load Restore Model"),
    "UPSCALE_MODEL": (_has("model"), "an upscale model", "Load Upscale Model"),
    "GAZE_ESTIMATOR": (_is(GazeEstimator), "a gaze estimator", "Load Gaze Estimator"),
    "REFACE": (_has("net"), "REFace's networks", "Load REFace"),
    "DIFFFACE": (_has("swap"), "DiffFace's networks", "Load DiffFace"),
    "DIFFSWAP": (_has("tokens"), "DiffSwap's networks", "Load DiffSwap"),
    "FACE_ADAPTER": (_has("conditions"), "Face-Adapter's networks", "Load Face-Adapter"),
    "INSIGHTFACE": (_has("models"), "an InsightFace object", "an InsightFace loader"),
    "FACEANALYSIS": (_has("models"), "an InsightFace object", "an InsightFace loader"),
    "FACE_LANDMARKS": (_is(Mapping), "face landmarks", "ComfyUI's MediaPipe node"),
    "BOUNDING_BOX": (_is(Mapping, list, tuple), "bounding boxes", "a detection node"),
    "IMAGE": (lambda value: isinstance(value, torch.Tensor) and value.ndim in (3, 4), "a picture [B, H, W, C]", "an image node"),
    "MASK": (lambda value: isinstance(value, torch.Tensor) and value.ndim in (2, 3, 4), "a mask [B, H, W]", "a mask node"),
}  # fmt: skip


def check_inputs(title: str, inputs: Sequence[io.Input], given: Mapping[str, Any], lists: bool = False) -> None:
    """Raise FaceLoomError for a value that its input does not take, before the node works.

    title: of the node. given: values by the inputs' names. lists: every value comes as a list, as nodes with ``is_input_list`` have it.
    """
    for item in inputs:
        value = given.get(item.id)
        if value is None:
            if item.id in given and not item.optional and item.get_io_type() in SOCKETS:
                _refuse(title, item, value)
            continue
        if isinstance(item, io.DynamicCombo.Input):
            chosen = next((option for option in item.options if isinstance(value, Mapping) and option.key == value.get(item.id)), None)
            if chosen is not None:
                check_inputs(title, chosen.inputs, value)
        elif isinstance(item, io.Autogrow.Input):
            for each in value.values() if isinstance(value, Mapping) else ():
                check_inputs(title, [item.template.input], {item.template.input.id: each})
        else:
            for each in value if lists and isinstance(value, list) else [value]:
                _check_value(title, item, each)


def _check_value(title: str, item: io.Input, value: Any) -> None:
    kinds = str(item.get_io_type()).split(",")
    if kinds[0] in NUMBERS:
        _check_number(item, value)
    elif all(kind in SOCKETS for kind in kinds) and not any(SOCKETS[kind][0](value) for kind in kinds):
        _refuse(title, item, value)


def _check_number(item: io.Input, value: Any) -> None:
    least, most = getattr(item, "min", None), getattr(item, "max", None)
    good = isinstance(value, int | float) and math.isfinite(value)
    good = good and (least is None or value >= least) and (most is None or value <= most)
    if not good or (item.get_io_type() == "INT" and value != int(value)):
        limits = "" if least is None or most is None else f" from {least:g} to {most:g}"
        raise FaceLoomError(f"{item.id} must be {NUMBERS[item.get_io_type()]}{limits}, not {value!r}.")


def _refuse(title: str, item: io.Input, value: Any) -> None:
    """Raise the one sentence about a value that a socket does not take."""
    kinds = [SOCKETS[kind] for kind in str(item.get_io_type()).split(",")]
    wanted = " or ".join(dict.fromkeys(f"{what} from {node}" for _, what, node in kinds))
    came = f"a tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else "nothing" if value is None else type(value).__name__
    raise FaceLoomError(f"The input {item.id} of {title} takes {wanted}, but {came} came; other packs may use the same socket for "
                        "something else.")


def check_crops(given: Mapping[str, Any]) -> None:
    """Raise FaceLoomError where the ``crops`` that came into a node are not those of its ``faces``."""
    crops, faces = given.get("crops"), given.get("faces")
    if isinstance(crops, torch.Tensor) and isinstance(faces, values.Faces) and len(faces):
        image = given.get("image")
        check_crops_are_of(crops, faces, image if isinstance(image, torch.Tensor) else None)
