"""Opens what masks are made with: face parsers, and occluders, which tell what hides a face."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..files.find import FoundFile
from ..runtime.method import Loading, Method, open_model
from . import bisenet, deepfakes, landmarks, occlude, onnx, sam

if TYPE_CHECKING:
    from . import Parser
    from .occlude import Occluder

# One row per method, in the order in which a file is shown to them; the row that takes every file comes last.
PARSERS: tuple[Method[Parser | None], ...] = (landmarks.METHOD, onnx.METHOD, bisenet.METHOD)
OCCLUDERS: tuple[Method[Occluder], ...] = (occlude.METHOD, deepfakes.METHOD, sam.METHOD)


def load_parser(path_or_name: str | os.PathLike | FoundFile, loading: Loading | None = None) -> Parser | None:
    """Opens a face parser: a file by its path, or by its name in the models folders.

    ``landmarks`` is None, which every stage takes for "draw the regions from the landmarks". FaceLoomError where there is no such file, or
    where it is of another kind.
    """
    return open_model(PARSERS, "parser", path_or_name, loading)


def load_occluder(path_or_name: str | os.PathLike | FoundFile, loading: Loading | None = None) -> Occluder:
    """Opens an occluder: a file by its path, or by its name in the models folders; as ``load_parser``."""
    return open_model(OCCLUDERS, "occluder", path_or_name, loading)
