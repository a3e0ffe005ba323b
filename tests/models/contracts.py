"""What tests of networks held to a contract share: slips in the contract that must be noticed, and files that are no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faceloom.models.errors import FaceLoomError

TEMPLATES = ("arcface_112_v1", "arcface_112_v2", "arcface_128", "ffhq_512", "mtcnn_512", "dfl_whole_face")
Slip = Mapping[str, Any]


def other_templates(contract: Any, templates: Iterable[str] = TEMPLATES) -> list[Slip]:
    """Each template but the contract's own."""
    return [{"template": other} for other in templates if other != contract.template]


def unnoticed(contract: Any, right: Callable[[Any], bool], slips: Iterable[Slip]) -> list[Slip]:
    """The slips with which everything still seems right; without one it has to be. right: whether a contract gives what it should; a
    user's error or a failed assertion is a no."""
    assert right(contract)

    def passes(slip: Slip) -> bool:
        try:
            return right(replace(contract, **slip))
        except (AssertionError, FaceLoomError):
            return False

    return [slip for slip in slips if passes(slip)]


def refuses_broken(load: Callable[[Path], Any], folder: Path, whole: bytes, suffix: str = ".onnx") -> None:
    """Half a file, a web page, some text and nothing at all are each refused by a sentence that names the file."""
    broken = {"cut": whole[: len(whole) // 2], "page": b"<!doctype html><html>no", "text": b"no model", "empty": b""}
    for name, data in broken.items():
        path = folder / f"{name}{suffix}"
        path.write_bytes(data)
        with pytest.raises(FaceLoomError, match=path.name.replace(".", r"\.")):
            load(path)
