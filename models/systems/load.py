"""Opens the published diffusion systems, and the gaze estimator that one of them brings."""

from __future__ import annotations

import os
from typing import Any

from ..diffusion import gaze
from ..files.find import FoundFile
from ..runtime.method import Loading, Method, open_model
from ..runtime.options import Value
from ..swap import SwapEngine
from ..swap import load as networks
from . import diffface_model, diffswap, face_adapter_diffusers, face_adapter_load, reface

# One row per system that runs as a swap engine, which takes diffusers where ComfyUI's own sampler is not there.
ENGINES: tuple[Method[SwapEngine], ...] = (reface.ENGINE, face_adapter_diffusers.ENGINE, diffswap.ENGINE, diffface_model.ENGINE)
# One row per system, in the order in which a file is shown to them.
SYSTEMS: tuple[Method[Any], ...] = (reface.METHOD, face_adapter_load.METHOD, diffswap.METHOD, diffface_model.METHOD, gaze.METHOD)


def load_system(path_or_name: str | os.PathLike | FoundFile, loading: Loading | None = None) -> Any:
    """Opens a diffusion system from its authors' main file, by its path or its name in the models folders: ``REFace``, ``FaceAdapter``,
    ``DiffSwap``, ``DiffFace`` or ``GazeEstimator``.

    The files it needs are looked for beside it and in the models folders. FaceLoomError where one is missing, and where the file is no
    system FaceLoom knows.
    """
    return open_model(SYSTEMS, "research", path_or_name, loading)


def load_any_engine(path_or_name: str | os.PathLike | FoundFile, loading: Loading | None = None, **options: Value) -> SwapEngine:
    """Opens a swap engine: everything ``swap.load.load_engine`` opens, and the diffusion systems by their main files.

    options: the method's own, see ``options.options_by_engine``. FaceLoomError as there.
    """
    return open_model((*ENGINES, *networks.ENGINES), "swap", path_or_name, loading, options)
