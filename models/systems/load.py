"""Opens the published diffusion systems, and the gaze estimator that one of them brings."""

from __future__ import annotations

import os
from typing import Any

from ..diffusion import gaze
from ..files.find import FoundFile
from ..runtime.method import Loading, Method, open_model
from . import diffface_model, diffswap, face_adapter_load, reface

# One row per system, in the order in which a file is shown to them.
SYSTEMS: tuple[Method[Any], ...] = (reface.METHOD, face_adapter_load.METHOD, diffswap.METHOD, diffface_model.METHOD, gaze.METHOD)


def load_system(path_or_name: str | os.PathLike | FoundFile, loading: Loading | None = None) -> Any:
    """Opens a diffusion system from its authors' main file, by its path or its name in the models folders: ``REFace``, ``FaceAdapter``,
    ``DiffSwap``, ``DiffFace`` or ``GazeEstimator``.

    The files it needs are looked for beside it and in the models folders. FaceLoomError where one is missing, and where the file is no
    system FaceLoom knows.
    """
    return open_model(SYSTEMS, "research", path_or_name, loading)
