"""The FaceAnalysis objects that IP-Adapter and InstantID nodes pass around (sockets INSIGHTFACE, FACEANALYSIS), used here.

Only the files they were made from are taken over: the networks are opened again by FaceLoom, which runs whole batches, looks at tiles
and turned frames, and feeds pictures that were not cut down to 8 bits on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .detect.onnx import OnnxDetector, load_detector
from .errors import FaceLoomError
from .identity.onnx import OnnxRecognizer, load_recognizer


def detector_of(analysis, providers: str | Sequence[str] = "auto") -> OnnxDetector:
    """The analysis' detector."""
    return load_detector(_file_of(analysis, "detection"), providers=providers)


def recognizer_of(analysis, providers: str | Sequence[str] = "auto") -> OnnxRecognizer:
    """The analysis' recognizer."""
    return load_recognizer(_file_of(analysis, "recognition"), providers=providers)


def _file_of(analysis, task: str) -> Path:
    model = getattr(analysis, "models", {}).get(task)
    if model is None:
        raise FaceLoomError(f"The connected insightface object has no {task} network; load it with a pack such as buffalo_l or antelopev2.")
    path = getattr(model, "model_file", None)
    if path is None or not Path(path).is_file():
        raise FaceLoomError(f"The {task} network of the connected insightface object is not a file on this machine; load it with FaceLoom.")
    return Path(path)
