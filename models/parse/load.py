"""From a file (or a catalogue name) to a parser or an occluder."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..files.catalogue import Row, catalogue, guess_row
from ..files.checkpoints import load_weights
from ..files.find import find_by_path_or_name
from ..files.folders import Folders
from ..files.kinds import check_kind, kind_of_graph, kind_of_weights
from ..networks.bisenet import build_bisenet
from ..runtime.devices import DeviceManager
from ..runtime.onnx import open_session
from . import Parser
from .bisenet import BiSeNetParser
from .deepfakes import FaceNetOccluder, is_mask_net, mask_net_from
from .occlude import Occluder, OnnxOccluder
from .onnx import OnnxParser
from .sam import SamOccluder, sam_from

# A file the catalogue does not know is held to the contract of the one of its kind that most people have.
USUAL = {"parser": "bisenet_resnet_34", "occluder": "xseg_3"}
Source = str | os.PathLike


def load_parser(path_or_name: Source, *, folders: Folders | None = None, devices: DeviceManager | None = None,
                providers: str | Sequence[str] = "auto") -> Parser:
    """The parser in a file, or of a catalogue name: BiSeNet as ONNX or as the checkpoint 79999_iter.pth.

    ``devices`` moves torch networks, ``providers`` says where ONNX graphs run (see ``runtime.open_session``). A file of another kind is an
    error that says which.
    """
    return _load(path_or_name, ("parser",), folders, devices, providers)


def load_occluder(path_or_name: Source, *, folders: Folders | None = None, devices: DeviceManager | None = None,
                  providers: str | Sequence[str] = "auto") -> Occluder:
    """The occluder in a file, or of a catalogue name: XSeg as ONNX, or a checkpoint of Segment Anything or of faceswap's mask networks."""
    return _load(path_or_name, ("occluder",), folders, devices, providers)


def load_masker(path_or_name: Source, *, folders: Folders | None = None, devices: DeviceManager | None = None,
                providers: str | Sequence[str] = "auto") -> Parser | Occluder:
    """Whichever of the two it is: parsers have ``parse``, occluders have ``visible``."""
    return _load(path_or_name, ("parser", "occluder"), folders, devices, providers)


def _load(path_or_name: Source, kinds: tuple[str, ...], folders: Folders | None, devices: DeviceManager | None,
          providers: str | Sequence[str]) -> Parser | Occluder:
    found = find_by_path_or_name(path_or_name, kinds[0], folders)
    path = found.path
    row = found.row or next(filter(None, (guess_row(path.name, kind) for kind in kinds)), None)
    if row and row.kind not in kinds:
        check_kind(path.name, kinds[0], row.kind)
    name = row.name if row else path.stem
    if path.suffix.lower() != ".onnx":
        weights = load_weights(path)
        likely = kind_of_weights(weights)
        kind = _wanted(row, kinds, likely)
        check_kind(path.name, kind, likely or kind)
        if kind == "occluder":
            if is_mask_net(weights):
                return FaceNetOccluder(name, mask_net_from(weights, path.name), devices)
            return SamOccluder(name, sam_from(weights, path.name), devices)
        return BiSeNetParser(name, build_bisenet(weights, path.name), catalogue()["79999_iter"].contract, devices)
    model = open_session(path, providers=providers)
    likely = kind_of_graph(model.inputs, model.outputs)
    kind = _wanted(row, kinds, likely)
    check_kind(path.name, kind, likely or kind)
    contract = row.contract if row and row.contract else catalogue()[USUAL[kind]].contract
    engine = OnnxParser if kind == "parser" else OnnxOccluder
    return engine(name, model, contract, exact=row is not None and row.contract is not None)


def _wanted(row: Row | None, kinds: tuple[str, ...], likely: str | None) -> str:
    """What the file must be: what the catalogue says of it, else what it looks like if that will do."""
    if row is not None:
        return row.kind
    return likely if likely in kinds else kinds[0]
