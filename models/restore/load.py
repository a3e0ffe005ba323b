"""From a file (or a catalogue name) to a restorer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import FaceLoomError
from ..files.catalogue import NetContract, catalogue
from ..files.checkpoints import load_weights
from ..files.find import find_by_path_or_name
from ..files.folders import Folders
from ..files.kinds import check_kind, kind_of_weights
from ..runtime.devices import DeviceManager
from ..runtime.onnx import open_session
from . import Restorer
from .descriptor import restorer_from_descriptor
from .onnx import OnnxRestorer
from .restoreformer import MORE, load_plus_plus, unwrapped

# A file the catalogue does not know is held to the contract that all of its kind share.
USUAL = "gfpgan_1.4"
# A tensor of CodeFormer, which is not in spandrel itself for its licence.
CODEFORMER = "position_emb"


def load_restorer(path_or_name: str | os.PathLike, *, folders: Folders | None = None, devices: DeviceManager | None = None,
                  contract: NetContract | None = None, providers: str | Sequence[str] = "auto") -> Restorer:
    """The restorer in a file, or of a catalogue name: ONNX, or a checkpoint of a network that spandrel knows.

    ``contract`` overrides the catalogue's for ONNX; ``devices`` moves torch networks, ``providers`` says where ONNX graphs run (see
    ``runtime.open_session``). A file of another kind is an error that says which.
    """
    found = find_by_path_or_name(path_or_name, "restorer", folders)
    path, row = found.path, found.row
    check_kind(path.name, "restorer", row.kind if row else "restorer")
    name = row.name if row else path.stem
    if path.suffix.lower() != ".onnx":
        return restorer_from_descriptor(_descriptor(path.name, load_weights(path)), devices, name)
    model = open_session(path, providers=providers, kind="restorer")
    exact = contract is not None or row is not None
    return OnnxRestorer(name, model, contract or (row.contract if row else catalogue()[USUAL].contract), exact)


def _descriptor(name: str, weights: Mapping[str, torch.Tensor]) -> Any:
    """spandrel's account of a checkpoint."""
    weights = unwrapped(weights)
    check_kind(name, "restorer", kind_of_weights(weights) or "restorer")
    try:
        import spandrel
    except ImportError as error:
        raise FaceLoomError(f"{name} needs the package spandrel: run `pip install spandrel`, or use the model's ONNX file.") from error
    if CODEFORMER in weights:
        try:
            import spandrel_extra_arches
        except ImportError as error:
            how = "run `pip install spandrel_extra_arches`, or use codeformer.onnx"
            raise FaceLoomError(f"{name} needs the package spandrel_extra_arches: {how}.") from error
        spandrel_extra_arches.install(ignore_duplicates=True)
    try:
        loader = spandrel.ModelLoader()
        return load_plus_plus(loader, weights) if any(key.startswith(MORE) for key in weights) else loader.load_from_state_dict(weights)
    except spandrel.UnsupportedModelError as error:
        raise FaceLoomError(f"{name} holds a network that spandrel does not know; use the model's ONNX file.") from error
    except (RuntimeError, KeyError, ValueError) as error:  # tensors missing, or of other shapes
        raise FaceLoomError(f"{name} is not a whole checkpoint of its network; fetch it again.") from error
