"""One-shot swap networks that come as ONNX files, as a method: what differs between them is in the catalogue's contracts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..files.contents import CHECKPOINTS, Contents
from ..runtime.method import Loading, Method
from .research import keras_files

if TYPE_CHECKING:
    from .onnx_engine import OnnxEngine


def _recognizes(file: Contents) -> bool:
    """Recognizes every file but those of the research systems; opening it says what is wrong with it."""
    return file.suffix not in (*CHECKPOINTS, *keras_files.SUFFIXES)


def _open(file: Contents, loading: Loading) -> OnnxEngine:
    from .contracts import open_onnx

    return open_onnx(file, loading)


METHOD = Method("ONNX", kind="swap", suffixes=(".onnx", ".dfm"), recognizes=_recognizes, open=_open)
