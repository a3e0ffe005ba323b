"""Opens recognizers: networks that turn a face into a vector."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..files.find import FoundFile
from ..runtime.method import Loading, Method, open_model
from . import dlib, onnx

if TYPE_CHECKING:
    from . import Recognizer

# One row per method, in the order in which a file is shown to them; the row that takes every file comes last.
RECOGNIZERS: tuple[Method[Recognizer], ...] = (dlib.METHOD, onnx.METHOD)


def load_recognizer(path_or_name: str | os.PathLike | FoundFile, loading: Loading | None = None) -> Recognizer:
    """Opens a recognizer: ``dlib``, a file by its path, or a file by its name in the models folders.

    FaceLoomError where there is no such file, or where it is of another kind.
    """
    return open_model(RECOGNIZERS, "recognizer", path_or_name, loading)
