"""Finds the contract of an ONNX swap network in the catalogue and opens the network by it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from ..errors import FaceLoomError
from ..files.cache import file_hash
from ..files.catalogue import Row, SwapContract, as_net_contract, as_swap_contract, catalogue, row_by_hash, rows
from ..files.contents import Contents
from ..files.find import find_by_name
from ..runtime.input import describe_ports
from ..runtime.method import Loading
from ..runtime.onnx import OnnxModel, open_session
from .embeddings import Latents
from .helpers import recognizer_for
from .inputs import bind_ports
from .onnx_engine import OnnxEngine

# Shape of an identity map.
EMAP = (512, 512)


def open_onnx(file: Contents, loading: Loading) -> OnnxEngine:
    """Opens an ONNX swap network.

    The contract is the catalogue's for the file's name, else for a name that the file's begins with, else for its hash, else the only one
    whose graph looks like the file's; ``loading.contract`` overrides it. FaceLoomError where the graph contradicts its contract.
    Recognizers of other spaces, and converters, are looked for when they are needed.
    """
    model = open_session(file.path, providers=loading.providers, kind="swap")
    row = file.row or row_by_hash(file_hash(file.path))
    contract, ports = bind_ports(as_swap_contract(loading.contract) if loading.contract else _contract_of(row, model), model)
    name = row.name if row and "*" not in row.file else file.path.stem
    return OnnxEngine(name, model, contract, ports, _latents(contract, model, loading))


def _contract_of(row: Row | None, model: OnnxModel) -> SwapContract:
    """Returns the contract of a catalogue row, and without a row the one that fits the graph."""
    if row is None:
        return _contract_by_graph(model)
    if not isinstance(row.contract, SwapContract):
        raise FaceLoomError(f"{model.name} is {row.name}, not a one-shot swap model; load it with the node for its kind.")
    return row.contract


def _contract_by_graph(model: OnnxModel) -> SwapContract:
    """Finds the only contract that the graph agrees with; FaceLoomError where none or several do."""
    fitting: dict[SwapContract, tuple[SwapContract, Row]] = {}
    for row in rows("swap"):
        if isinstance(row.contract, SwapContract) and _fits(row.contract, model):
            fitting.setdefault(replace(row.contract, source_input=None, target_input=None, outputs=()), (row.contract, row))
    if len(fitting) == 1:
        return next(iter(fitting.values()))[0]
    if fitting:
        names = ", ".join(row.name for _, row in fitting.values())
        raise FaceLoomError(f"{model.name} could be any of {names}; rename the file so that it begins with the right one of these.")
    raise FaceLoomError(f"{model.name} is no swap model FaceLoom knows: it takes {describe_ports(model.inputs)} and returns "
                        f"{describe_ports(model.outputs)}. If it is another export of one, rename the file so that it begins with "
                        "that one's name.")


def _fits(contract: SwapContract, model: OnnxModel) -> bool:
    """Tells whether the graph agrees with a contract in names, shapes, masks and the presence of an identity map."""
    inputs, outputs = ({port.name for port in ports} for ports in (model.inputs, model.outputs))
    if not {contract.target_input, contract.source_input} <= {*inputs, None} or not set(contract.outputs) <= outputs:
        return False
    try:
        bound, _ = bind_ports(contract, model)
    except FaceLoomError:
        return False
    if not len(bound.mask_outputs) == len(contract.mask_outputs) == len(model.outputs) - 1:
        return False
    return _identity_map(model) is not None if contract.emap else model.file.unused_initializer(EMAP) is None


def _identity_map(model: OnnxModel) -> np.ndarray | None:
    """Reads the map from ArcFace's space to the generator's, ``[512, 512]``, that exporters store among the initializers; None where the
    file has none. It is the last one of this shape that no node of the graph uses, else the last one of this shape."""
    found = model.file.unused_initializer(EMAP) or model.file.initializer(EMAP)
    return None if found is None else found.array().astype(np.float32)


def _latents(contract: SwapContract, model: OnnxModel, loading: Loading) -> Latents | None:
    """Returns what turns embeddings into the network's latents; None for a network that takes no embedding."""
    if contract.source != "embedding":
        return None
    emap = _identity_map(model) if contract.emap else None
    if contract.emap and emap is None:
        raise FaceLoomError(f"{model.name} holds no 512×512 identity map (emap); get the model again, this export has lost it.")
    converter = None
    if contract.converter:
        converter = open_session(find_by_name(contract.converter, loading.folders).path, providers=loading.providers, kind="converter")
    adapter = as_net_contract(catalogue()[contract.adapter].contract).space if contract.adapter else None
    return Latents(contract, cache(lambda space: recognizer_for(space, loading)), converter, emap, adapter)
