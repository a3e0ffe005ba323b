"""Checks what comes into a node before it works: other packs use our socket names for other things, numbers come from other nodes and
through the API, and a bypassed node hands on what it was given."""

from __future__ import annotations

import numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io

from ..models import faces as values
from ..models.crops.crop import check_crops_are_of
from ..models.detect import Detector
from ..models.diffusion.gaze import GazeEstimator
from ..models.errors import FaceLoomError, brief, check_number
from ..models.identity import Recognizer
from ..models.options.ranges import check_choice
from ..models.parse import Parser
from ..models.parse.occlude import Occluder
from ..models.restore import Restorer
from ..models.swap import SwapEngine
from ..models.systems.diffface_model import DiffFace
from ..models.systems.diffswap import DiffSwapConditioner
from ..models.systems.face_adapter import FaceAdapter
from ..models.systems.reface import REFaceConditioner
from ._inputs import FileList


def _has(*names: str):
    return lambda value: all(hasattr(value, name) for name in names)


def _is(*kinds: type):
    return lambda value: isinstance(value, kinds)


def _is_tensor(dimensions: Collection[int], channels: Collection[int] = ()):
    """Returns what tells a tensor of real numbers with as many dimensions, at least one value, and one of these sizes at its end."""
    return lambda value: (
        isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_meta and not value.is_complex()
        and value.ndim in dimensions and value.numel() > 0 and (not channels or value.shape[-1] in channels))


def _is_analysis(value) -> bool:
    """Tells an insightface object: it holds its networks by their tasks."""
    return isinstance(getattr(value, "models", None), Mapping)


def _is_conditioning(value) -> bool:
    """Tells conditioning: pairs of tokens and a dictionary."""
    pairs = value if isinstance(value, list) else [None]
    return all(isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[1], dict) for pair in pairs)


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
    "UPSCALE_MODEL": (_has("model", "purpose", "architecture"), "an upscale model", "Load Upscale Model"),
    "GAZE_ESTIMATOR": (_is(GazeEstimator), "a gaze estimator", "Load Gaze Estimator"),
    "REFACE": (_is(REFaceConditioner), "REFace's networks", "Load REFace"),
    "DIFFFACE": (_is(DiffFace), "DiffFace's networks", "Load DiffFace"),
    "DIFFSWAP": (_is(DiffSwapConditioner), "DiffSwap's networks", "Load DiffSwap"),
    "FACE_ADAPTER": (_is(FaceAdapter), "Face-Adapter's networks", "Load Face-Adapter"),
    "INSIGHTFACE": (_is_analysis, "an InsightFace object", "an InsightFace loader"),
    "FACEANALYSIS": (_is_analysis, "an InsightFace object", "an InsightFace loader"),
    "FACE_LANDMARKS": (_is(Mapping), "face landmarks", "ComfyUI's MediaPipe node"),
    "BOUNDING_BOX": (_is(Mapping, list, tuple), "bounding boxes", "a detection node"),
    "VIDEO": (_has("get_components", "get_stream_source", "get_active_trim_window"), "a video", "Load Video"),
    "IMAGE": (_is_tensor((3, 4), (1, 3, 4)), "a picture [B, H, W, 1, 3 or 4] with at least one pixel", "an image node"),
    "MODEL": (_has("model", "clone"), "a diffusion model", "a checkpoint loader"),
    "VAE": (_has("encode", "decode"), "a VAE", "a checkpoint loader"),
    "CLIP": (_has("tokenize", "encode_from_tokens_scheduled"), "a CLIP", "a checkpoint loader"),
    "CONDITIONING": (_is_conditioning, "conditioning", "CLIP Text Encode"),
    "MASK": (_is_tensor((2, 3, 4)), "a mask [B, H, W] with at least one pixel", "a mask node"),
}  # fmt: skip


def check_inputs(title: str, inputs: Sequence[io.Input], given: Mapping[str, Any], lists: bool = False) -> None:
    """Raise FaceLoomError for a value that its input does not take, before the node works.

    title: of the node. given: values by the inputs' names; one that is not there takes its default. lists: every value comes as a list, as
    nodes with ``is_input_list`` have it.
    """
    for item in inputs:
        if item.id not in given:
            continue
        value = given[item.id]
        for each in (value or [None]) if lists and isinstance(value, list) else [value]:
            if each is not None or not item.optional:
                _check_value(title, item, each)


def _check_value(title: str, item: io.Input, value: Any) -> None:
    kinds = str(item.get_io_type()).split(",")
    if isinstance(item, io.DynamicCombo.Input):
        chosen = value.get(item.id) if isinstance(value, Mapping) else value
        check_choice(item.id, chosen, [option.key for option in item.options])
        if isinstance(value, Mapping):
            check_inputs(title, next(option.inputs for option in item.options if option.key == chosen), value)
    elif isinstance(item, io.Autogrow.Input):
        for each in value.values() if isinstance(value, Mapping) else [value]:
            check_inputs(title, [item.template.input], {item.template.input.id: each})
    elif isinstance(item, FileList):
        _check_text(item, value, 1024)
    elif isinstance(item, io.Combo.Input):
        check_choice(item.id, value, item.options)
    elif kinds[0] in ("INT", "FLOAT"):
        check_number(item.id, value, item.min, item.max, whole=kinds[0] == "INT")
    elif kinds[0] == "STRING":
        _check_text(item, value, 100_000)
    elif kinds[0] == "BOOLEAN":
        if not isinstance(value, numbers.Real | np.bool_):
            raise FaceLoomError(f"{item.id} must be true or false, not {brief(value)}.")
    elif all(kind in SOCKETS for kind in kinds) and not any(SOCKETS[kind][0](value) for kind in kinds):
        _refuse(title, item, value)


def _check_text(item: io.Input, value: Any, longest: int) -> None:
    """Raise FaceLoomError where a text is none, or longer than ``longest`` characters."""
    if not isinstance(value, str) or len(value) > longest:
        raise FaceLoomError(f"{item.id} must be a text of at most {longest} characters, not {brief(value)}.")


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
