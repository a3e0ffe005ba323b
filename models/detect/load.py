"""Opens everything that looks at a photograph for faces: detectors, age and sex networks, and networks for 106 landmarks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..face3d import points106
from ..files.find import FoundFile
from ..runtime.method import Loading, Method, open_model
from . import attributes, dlib, mediapipe, onnx

if TYPE_CHECKING:
    from ..face3d.points106 import Landmarker
    from . import Detector
    from .attributes import AgeAndSex

# One row per method, in the order in which a file is shown to them; the row that takes every file comes last.
DETECTORS: tuple[Method[Detector], ...] = (dlib.METHOD, mediapipe.METHOD, onnx.METHOD)
ATTRIBUTES: tuple[Method[AgeAndSex], ...] = (attributes.METHOD,)
LANDMARKERS: tuple[Method[Landmarker], ...] = (points106.METHOD,)


def load_detector(path_or_name: str | os.PathLike | FoundFile, loading: Loading | None = None) -> Detector:
    """Opens a detector: ``dlib``, a file by its path, or a file by its name in the models folders.

    FaceLoomError where there is no such file, or where it is of another kind.
    """
    return open_model(DETECTORS, "detector", path_or_name, loading)


def load_attributes(path_or_name: str | os.PathLike | FoundFile, loading: Loading | None = None) -> AgeAndSex:
    """Opens an age and sex network; as ``load_detector``."""
    return open_model(ATTRIBUTES, "attributes", path_or_name, loading)


def load_landmarker(path_or_name: str | os.PathLike | FoundFile, loading: Loading | None = None) -> Landmarker:
    """Opens a network for 106 landmarks of crops; as ``load_detector``."""
    return open_model(LANDMARKERS, "landmarker", path_or_name, loading)
