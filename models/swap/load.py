"""From a file (or a catalogue name) to a swap engine: which contract it is held to, and whether its graph agrees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from ..errors import FaceLoomError
from ..face3d.points106 import Landmarker, load_points106
from ..files.cache import file_hash
from ..files.catalogue import Row, SwapContract, catalogue, row_by_hash, rows
from ..files.find import find_by_name, find_by_path_or_name, list_choices
from ..files.folders import Folders, default_folders
from ..identity import Recognizer
from ..identity.onnx import load_recognizer
from ..parse import Parser
from ..parse.load import load_parser
from ..progress import Progress, silent
from ..runtime.devices import DeviceManager
from ..runtime.onnx import OnnxModel, open_session
from .embeddings import Latents
from .inputs import bind, listed
from .onnx import OnnxEngine
from .research.engine import TorchEngine
from .research.published import SUFFIXES, load_published

EMAP = (512, 512)
POINTS = "2d106det"


def load_engine(path_or_name: str | Path, *, folders: Folders | None = None, recognizer: Recognizer | None = None,
                contract: SwapContract | None = None, providers: str | Sequence[str] = "auto", parser: Parser | None = None,
                landmarker: Landmarker | None = None, devices: DeviceManager | None = None, half: bool = False, **options
                ) -> OnnxEngine | TorchEngine:
    """The engine for a swap model file, or for a name in the models folders.

    Original files of research systems (``.pth``, ``.safetensors``, ``.h5`` ...) are recognized by what is in them. ``parser`` (or BiSeNet,
    if it is on disk) and ``landmarker`` (or 2d106det) make their own masks; these, ``devices``, ``half`` and the systems' own ``options``
    go to ``published.load_published``. The rest is about ONNX files.

    The contract is the catalogue's for the file's name, else for a name the file's begins with, else for its hash, else the only one
    whose graph looks like this one's; ``contract`` overrides it. A graph that contradicts its contract is an error, and so is a file of
    another kind.
    ``recognizer`` is used for its own space; others, and converters, are looked for in ``folders`` when they are needed.
    ``providers``: where to run, see ``runtime.open_session``.
    """
    folders = folders or default_folders()
    found = find_by_path_or_name(path_or_name, "swap", folders)
    if found.path.suffix.lower() in SUFFIXES:
        return load_published(found.path, folders=folders, parser=parser or _parser(folders, devices, providers),
                              landmarker=landmarker or _points106(folders, providers), devices=devices, half=half, **options)
    if options:
        raise FaceLoomError(f"{found.path.name} is an ONNX file, which has no options; leave {', '.join(options)} out.")
    model = open_session(found.path, providers=providers, kind="swap")
    row = found.row or row_by_hash(file_hash(found.path))
    contract, ports = bind(contract or _contract_of(row, model), model)
    name = row.name if row and "*" not in row.file else found.path.stem
    return OnnxEngine(name, model, contract, ports, _latents(contract, model, folders, recognizer, providers))


def _points106(folders: Folders, providers: str | Sequence[str]) -> Landmarker | None:
    """The landmark network that GHOST and FSLSD look at their own crops with, where it is on disk and can be run. It is opened when it is
    first asked."""
    known = (choice for choice in list_choices("landmarker", folders) if choice.row and choice.row.name == POINTS)
    path = next((choice.path for choice in known if choice.path), None)
    opened = cache(lambda: load_points106(path, providers))
    return (lambda crops: opened()(crops)) if path and find_spec("onnxruntime") else None


class LateParser:
    """A ``Parser`` whose file is opened when it is first asked; not all systems ask."""

    def __init__(self, name: str, open_file: Callable[[], Parser]) -> None:
        self.name = name
        self._open = cache(open_file)

    def parse(self, crops: torch.Tensor, progress: Progress = silent) -> torch.Tensor:
        return self._open().parse(crops, progress)


def _parser(folders: Folders, devices: DeviceManager | None, providers: str | Sequence[str]) -> Parser | None:
    """The face parser the systems were published with, where it is on disk."""
    on_disk = (choice for choice in list_choices("parser", folders) if choice.path and choice.row and choice.row.contract)
    choice = next((choice for choice in on_disk if choice.row.contract.family == "bisenet"), None)
    return choice and LateParser(choice.name, lambda: load_parser(choice.path, folders=folders, devices=devices, providers=providers))


def _contract_of(row: Row | None, model: OnnxModel) -> SwapContract:
    if row is None:
        return _by_signature(model)
    if not isinstance(row.contract, SwapContract):
        raise FaceLoomError(f"{model.name} is {row.name}, not a one-shot swap model; load it with the node for its kind.")
    return row.contract


def _by_signature(model: OnnxModel) -> SwapContract:
    """The one contract whose graph looks like this."""
    fitting: dict[SwapContract, Row] = {}
    for row in rows("swap"):
        if isinstance(row.contract, SwapContract) and _fits(row.contract, model):
            fitting.setdefault(replace(row.contract, source_input=None, target_input=None, outputs=()), row)
    if len(fitting) == 1:
        return next(iter(fitting.values())).contract
    if fitting:
        names = ", ".join(row.name for row in fitting.values())
        raise FaceLoomError(f"{model.name} could be any of {names}; rename the file so that it begins with the right one of these.")
    raise FaceLoomError(f"{model.name} is no swap model FaceLoom knows: it takes {listed(model.inputs)} and answers "
                        f"{listed(model.outputs)}. If it is another export of one, rename the file so that it begins with that one's name.")


def _fits(contract: SwapContract, model: OnnxModel) -> bool:
    """Whether the graph agrees with a contract in everything it shows: names, shapes, a mask, an emap."""
    inputs, outputs = ({port.name for port in ports} for ports in (model.inputs, model.outputs))
    if not {contract.target_input, contract.source_input} <= {*inputs, None} or not set(contract.outputs) <= outputs:
        return False
    try:
        bound, _ = bind(contract, model)
    except FaceLoomError:
        return False
    if not len(bound.mask_outputs) == len(contract.mask_outputs) == len(model.outputs) - 1:
        return False
    return _emap(model) is not None if contract.emap else model.file.unused_initializer(EMAP) is None


def _emap(model: OnnxModel) -> np.ndarray | None:
    """The map from ArcFace's space to the generator's that exporters keep among the initializers: the last 512×512 one, of those that the
    graph itself has no use for if there are any."""
    found = model.file.unused_initializer(EMAP) or model.file.initializer(EMAP)
    return None if found is None else found.array().astype(np.float32)


def _latents(contract: SwapContract, model: OnnxModel, folders: Folders, recognizer: Recognizer | None,
             providers: str | Sequence[str]) -> Latents | None:
    if contract.source != "embedding":
        return None
    emap = _emap(model) if contract.emap else None
    if contract.emap and emap is None:
        raise FaceLoomError(f"{model.name} holds no 512×512 identity map (emap); get the model again, this export has lost it.")

    @cache
    def recognizer_of(space: str) -> Recognizer:
        if recognizer is not None and recognizer.space == space:
            return recognizer
        return load_recognizer(recognizer_name(space, folders), folders=folders, providers=providers)

    converter = None
    if contract.converter:
        converter = open_session(find_by_name(contract.converter, folders).path, providers=providers, kind="converter")
    adapter = catalogue()[contract.adapter].contract.space if contract.adapter else None
    return Latents(contract, recognizer_of, converter, emap, adapter)


def recognizer_name(space: str, folders: Folders) -> str:
    """The catalogue's recognizer of an embedding space, one that is on disk if any is."""
    names = [row.name for row in rows("recognizer") if row.contract and row.contract.space == space]
    if not names:
        raise FaceLoomError(f"No recognizer in the catalogue makes {space} embeddings; connect one to ArcFace Embed.")
    on_disk = {choice.row.name for choice in list_choices("recognizer", folders) if choice.row and choice.path}
    return next((name for name in names if name in on_disk), names[0])
