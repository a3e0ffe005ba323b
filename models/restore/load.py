"""Opens face restorers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..files.find import FoundFile
from ..runtime.method import Loading, Method, open_model
from . import checkpoint, grain, onnx

if TYPE_CHECKING:
    from . import Restorer

# One row per method, in the order in which a file is shown to them; the row that takes every file comes last.
RESTORERS: tuple[Method[Restorer | None], ...] = (grain.METHOD, onnx.METHOD, checkpoint.METHOD)


def load_restorer(path_or_name: str | os.PathLike | FoundFile, loading: Loading | None = None) -> Restorer | None:
    """Opens a face restorer: a file by its path, or by its name in the models folders.

    ``match the photograph`` is None, which ``restore_crops`` takes for "match the sharpness and grain of the photograph". FaceLoomError
    where there is no such file, or where it is of another kind.
    """
    return open_model(RESTORERS, "restorer", path_or_name, loading)
