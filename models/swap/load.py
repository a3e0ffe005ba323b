"""Opens swap engines: the built-in one by its name, and every file that holds a swap model.

This module imports no network library, so that the command line lists the engines' options at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import FaceLoomError
from ..files.find import FoundFile
from ..runtime.method import Loading, Method, open_model
from ..runtime.options import Options, Value
from . import mesh, onnx
from .research import deepfakes, facedancer, fslsd, ghost, megafs, reliableswap, simswap

if TYPE_CHECKING:
    from . import SwapEngine, WithOptions

# One row per method, in the order in which a file is shown to them; ONNX, which takes what the others leave, comes last.
ENGINES: tuple[Method[SwapEngine], ...] = (
    mesh.METHOD, ghost.METHOD, reliableswap.METHOD, simswap.METHOD, megafs.METHOD, facedancer.METHOD, fslsd.METHOD, deepfakes.METHOD,
    onnx.METHOD,
)  # fmt: skip


def load_engine(path_or_name: str | os.PathLike | FoundFile, loading: Loading | None = None, **options: Value) -> SwapEngine:
    """Opens a swap engine: ``mesh``, a file by its path, or a file by its name in the models folders.

    options: the method's own, see ``options_by_method``. FaceLoomError where there is no such file, where it is of another kind, where a
    file it needs is missing, and where an option is unknown or out of range.
    """
    return open_model(ENGINES, "swap", path_or_name, loading, options)


def options_by_method() -> Mapping[str, type[Options]]:
    """Returns the options of every method that has any, by the method's name, in the table's order."""
    return {method.name: method.options for method in ENGINES if method.options}


def with_options(engine: SwapEngine | WithOptions, method: str, **values: Value) -> Any:
    """Returns ``engine`` with other options of a method of ``options_by_method``; the networks are shared, ``engine`` stays as it is."""
    from . import WithOptions

    options = engine.options if isinstance(engine, WithOptions) else None
    own = next((name for name, kind in options_by_method().items() if isinstance(options, kind)), None)
    if own != method or not isinstance(engine, WithOptions):
        what = f"is {own}; choose the options of {own}" if own else "has no options; connect it to One-Shot Swap directly"
        raise FaceLoomError(f"These are the options of {method}, but {engine.name} {what}.")
    return engine.with_options(**values)
