"""What swap models need of other stages: a face parser, 106 landmarks, a recognizer; opened when they are first asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec

import numpy as np
import torch

from ..detect.load import load_landmarker
from ..errors import FaceLoomError, given
from ..face3d.points106 import Landmarker
from ..files.catalogue import NetContract, rows
from ..files.find import list_choices
from ..files.folders import Folders
from ..identity import Recognizer
from ..identity.load import load_recognizer
from ..parse import Parser
from ..parse.load import load_parser
from ..progress import Progress, silent
from ..runtime.method import Loading

LANDMARKS = "2d106det"


class LateParser:
    """A ``Parser`` whose file is opened when it is first asked; not all systems ask."""

    def __init__(self, name: str, open_file: Callable[[], Parser | None]) -> None:
        self.name = name
        self._open = cache(open_file)

    def open_file(self) -> Parser:
        """Returns the parser, opened now where it was not; FaceLoomError where the file is damaged or something else."""
        return given(self._open(), f"{self.name} is no face parser; connect one from Load Face Parser.")

    def parse(self, crops: torch.Tensor, progress: Progress = silent) -> torch.Tensor:
        return self.open_file().parse(crops, progress)


class LateLandmarker:
    """A ``Landmarker`` whose file is opened when it is first asked."""

    def __init__(self, open_file: Callable[[], Landmarker]) -> None:
        self._open = cache(open_file)

    def open_file(self) -> Landmarker:
        """Returns the landmarker, opened now where it was not; FaceLoomError where the file is damaged or something else."""
        return self._open()

    def __call__(self, crops: torch.Tensor) -> np.ndarray:
        return self.open_file()(crops)


def parser_for(loading: Loading) -> Parser | None:
    """Returns the connected parser, else the one the systems were published with where it is on disk."""
    if loading.parser is not None:
        return loading.parser
    for choice in list_choices("parser", loading.folders):
        if choice.path and choice.row and isinstance(choice.row.contract, NetContract) and choice.row.contract.family == "bisenet":
            return LateParser(choice.name, partial(load_parser, choice.path, _for_helper(loading)))
    return None


def landmarker_for(loading: Loading) -> Landmarker | None:
    """Returns the connected landmarker, else the network for 106 landmarks where it is on disk and can be run."""
    if loading.landmarker is not None:
        return loading.landmarker
    choices = (choice for choice in list_choices("landmarker", loading.folders) if choice.row and choice.row.name == LANDMARKS)
    path = next((choice.path for choice in choices if choice.path), None)
    if path is None or not find_spec("onnxruntime"):
        return None
    return LateLandmarker(lambda: load_landmarker(path, _for_helper(loading)))


def recognizer_for(space: str, loading: Loading) -> Recognizer:
    """Returns the connected recognizer if it makes embeddings of this space, else the catalogue's recognizer that does."""
    if loading.recognizer is not None and loading.recognizer.space == space:
        return loading.recognizer
    return load_recognizer(recognizer_name(space, loading.folders), _for_helper(loading))


def recognizer_name(space: str, folders: Folders) -> str:
    """Returns the name of the catalogue's recognizer of an embedding space, of one that is on disk if any is."""
    names = [row.name for row in rows("recognizer") if row.contract and row.contract.space == space]
    if not names:
        raise FaceLoomError(f"No recognizer in the catalogue makes {space} embeddings; connect one to ArcFace Embed.")
    on_disk = {choice.row.name for choice in list_choices("recognizer", folders) if choice.row and choice.path}
    return next((name for name in names if name in on_disk), names[0])


def _for_helper(loading: Loading) -> Loading:
    """Returns ``loading`` for another stage's file: without the contract, which is the swap model's."""
    return replace(loading, contract=None)
