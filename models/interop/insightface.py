"""Opens the networks of insightface's FaceAnalysis objects, which IP-Adapter and InstantID nodes pass around (sockets INSIGHTFACE and
FACEANALYSIS).

Only the paths of their files are used: FaceLoom opens the networks again, runs whole batches, looks at tiles and rotated frames, and gives
them images that were not rounded to 8 bits before. The networks stay open as long as the object they came from.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..detect import Detector
from ..detect.attributes import AgeAndSex
from ..detect.load import load_attributes, load_detector, load_landmarker
from ..detect.with_attributes import BringsLandmarks
from ..errors import FaceLoomError
from ..face3d.points106 import Landmarker
from ..identity import Recognizer
from ..identity.load import load_recognizer
from ..runtime.method import Loading

Network = TypeVar("Network")

# The networks that were opened, by the object they came from; they go when the object goes. The object is another pack's: ComfyUI hands
# it to each node anew, nothing of ours lives as long as it, and an attribute written into it would be seen by that pack's nodes. Without
# this table every run of a node would open the sessions again. What it holds is a function of the file alone, so no result depends on it.
_opened: weakref.WeakKeyDictionary[object, dict[tuple, Any]] = weakref.WeakKeyDictionary()


def detector_of(analysis, providers: str | Sequence[str] = "auto") -> Detector:
    """The analysis' detector."""
    return _open(analysis, "detection", load_detector, providers)


def recognizer_of(analysis, providers: str | Sequence[str] = "auto") -> Recognizer:
    """The analysis' recognizer."""
    return _open(analysis, "recognition", load_recognizer, providers)


def attributes_of(analysis, providers: str | Sequence[str] = "auto") -> AgeAndSex:
    """The analysis' age and sex network."""
    return _open(analysis, "genderage", load_attributes, providers)


def _open(analysis, task: str, load: Callable[..., Network], providers: str | Sequence[str]) -> Network:
    file = _file_of(analysis, task)
    key = (task, file, file.stat().st_mtime_ns, providers if isinstance(providers, str) else tuple(providers))
    networks = _opened.setdefault(analysis, {}) if isinstance(analysis, Hashable) else {}
    if key not in networks:
        networks[key] = load(file, Loading(providers=providers))
    return networks[key]


def landmarker_of(detector, providers: str | Sequence[str] = "auto") -> Landmarker:
    """The 106 landmarks that come with a detector: those of a ``LandmarkedDetector``, or an analysis' own."""
    if isinstance(detector, BringsLandmarks):
        return detector.landmarker
    if isinstance(detector, Detector):
        raise FaceLoomError(f"The connected detector ({detector.name}) comes without 106 landmarks; choose 2d106det.onnx as the landmarks "
                            "of Load Face Detector.")
    return _open(detector, "landmark_2d_106", load_landmarker, providers)


def _file_of(analysis, task: str) -> Path:
    model = getattr(analysis, "models", {}).get(task)
    if model is None:
        raise FaceLoomError(f"The connected insightface object has no {task} network; load it with a pack such as buffalo_l or antelopev2.")
    path = getattr(model, "model_file", None)
    if not isinstance(path, str | os.PathLike) or not Path(path).is_file():
        raise FaceLoomError(f"The {task} network of the connected insightface object is not a file on this machine; load it with FaceLoom.")
    return Path(path)
