"""The built-in engine as a method: it needs no file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...files.contents import Contents
from ...runtime.method import Loading, Method

if TYPE_CHECKING:
    from .engine import MeshEngine


def _open(file: Contents | None, loading: Loading) -> MeshEngine:
    from .engine import MeshEngine

    return MeshEngine()


METHOD = Method("mesh", label="3-D warp (built in)", open=_open)
