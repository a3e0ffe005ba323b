"""From a file (or a catalogue name) to a swap engine: which contract it is held to, and whether its graph agrees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from ..catalogue import Contract, Row, catalogue, guess_row, row_named, row_of_file, rows
from ..errors import FaceLoomError
from ..identity import Recognizer
from ..identity.onnx import load_recognizer
from ..network import Network, OpenSession, Port, kind_of
from ..onnx_graph import initializer
from .latent import Latents
from .onnx import OnnxEngine, Ports

EMAP = (512, 512)
Find = Callable[[Row], Path]


def load_engine(path_or_name: str | Path, *, find: Find | None = None, recognizer: Recognizer | None = None,
                contract: Contract | None = None, open_session: OpenSession | None = None) -> OnnxEngine:
    """The engine for a swap model file, or for a catalogue name.

    The contract is the catalogue's for the file's name, else for a name the file's begins with, else the only one whose graph looks
    like this one's; ``contract`` overrides it. A graph that contradicts its contract is an error, and so is a file of another kind.
    ``find`` gives the path of a catalogue row (converters, recognisers; default: what is on disk). ``recognizer`` is used for its
    own space instead of a file. ``open_session`` opens an ONNX session from a path or bytes.
    """
    find = find or _on_disk
    path = Path(path_or_name)
    row = None
    if not path.is_file():
        row = row_named(str(path_or_name))
        path = find(row)
    network = Network(path, open_session)
    row = row or row_of_file(path.name) or guess_row(path.name, "swap")
    if contract is None:
        contract = _contract_of(row, network)
    contract, ports = bind(contract, network)
    return OnnxEngine(row.name if row else path.stem, network, contract, ports, _latents(contract, network, find, recognizer, open_session))


def _contract_of(row: Row | None, network: Network) -> Contract:
    if row is None:
        return _by_signature(network)
    if not isinstance(row.contract, Contract):
        raise FaceLoomError(f"{network.path.name} is {row.name}, not a one-shot swap model; load it with the node for its kind.")
    return row.contract


def _by_signature(network: Network) -> Contract:
    """The one contract whose graph looks like this."""
    fitting: dict[Contract, str] = {}
    for row in rows("swap"):
        if isinstance(row.contract, Contract) and _fits(row.contract, network):
            fitting.setdefault(row.contract, row.name)
    if len(fitting) == 1:
        return next(iter(fitting))
    if fitting:
        raise FaceLoomError(
            f"{network.path.name} could be any of {', '.join(fitting.values())}; rename the file so that it begins with the right one of these."
        )
    raise FaceLoomError(f"{network.path.name} is not a swap model FaceLoom knows: it looks like {kind_of(network)}.")


def _fits(contract: Contract, network: Network) -> bool:
    try:
        bind(contract, network)
    except FaceLoomError:
        return False
    return contract.source != "embedding" or not contract.emap or _emap(network) is not None


def bind(contract: Contract, network: Network) -> tuple[Contract, Ports]:
    """Which input is which, and the contract with the size the graph states. Raises where graph and contract disagree."""
    pictures = [port for port in network.inputs if len(port.shape) == 4]
    vectors = [port for port in network.inputs if len(port.shape) == 2]
    target = _named(pictures, contract.target_input)
    source = _named(network.inputs, contract.source_input)
    if contract.source == "image":
        target = target or _only([port for port in pictures if port is not source], contract.size)
        source = source or _only([port for port in pictures if port is not target], contract.source_size)
    else:
        target = target or (pictures[0] if len(pictures) == 1 else None)
        source = (source or (vectors[0] if len(vectors) == 1 else None)) if contract.source == "embedding" else None
    if target is None or (source is None and contract.source != "none"):
        wanted = {"embedding": "a picture and an identity vector", "image": "two pictures", "none": "one picture"}[contract.source]
        raise FaceLoomError(f"{network.path.name} should take {wanted}, but its inputs are {_listed(network.inputs)}.")
    rest = [port for port in network.inputs if port is not target and port is not source]
    morph = next((port for port in rest if "morph" in port.name and contract.source == "none"), None)
    if [port for port in rest if port is not morph]:
        raise FaceLoomError(f"{network.path.name} has more inputs than its kind of model: {_listed(network.inputs)}.")
    size = _picture_size(contract, target, contract.size, network)
    if contract.source == "image":
        _picture_size(contract, source, contract.source_size, network)
    elif source is not None and source.shape[-1] not in (None, 512):
        raise FaceLoomError(f"{network.path.name} takes an identity vector of {source.shape[-1]} numbers, not of 512.")
    if contract.picture_output >= len(network.outputs):
        raise FaceLoomError(f"{network.path.name} should answer its picture as output {contract.picture_output + 1}, but has only {_listed(network.outputs)}.")
    answer = network.outputs[contract.picture_output].shape
    channels = answer[1 if contract.layout == "nchw" else 3] if len(answer) == 4 else 0
    if len(answer) not in (0, 4) or channels not in (None, 3):
        raise FaceLoomError(f"{network.path.name} does not answer a picture: its outputs are {_listed(network.outputs)}.")
    return replace(contract, size=size), Ports(target, source, morph)


def _picture_size(contract: Contract, port: Port, wanted: int | None, network: Network) -> int:
    channels, height, width = (port.shape[i] for i in ((1, 2, 3) if contract.layout == "nchw" else (3, 1, 2)))
    size = wanted or height
    if channels not in (None, 3) or size is None or {height, width} - {None, size}:
        layout = "3×{0}×{0}" if contract.layout == "nchw" else "{0}×{0}×3"
        raise FaceLoomError(f"{network.path.name} should take pictures of {layout.format(wanted or '?')}, but its input is {port}.")
    return size


def _named(ports, name: str | None) -> Port | None:
    return next((port for port in ports if port.name == name), None) if name else None


def _only(ports: list[Port], size: int | None) -> Port | None:
    fitting = [port for port in ports if size in port.shape] if len(ports) > 1 else ports
    return fitting[0] if len(fitting) == 1 else None


def _listed(ports) -> str:
    return ", ".join(str(port) for port in ports)


def _emap(network: Network) -> np.ndarray | None:
    """The last 512×512 initializer; exporters append the map from ArcFace's space to the generator's there."""
    found = initializer(network.path, EMAP)
    return None if found is None else found.astype(np.float32)


def _latents(contract: Contract, network: Network, find: Find, recognizer: Recognizer | None, open_session: OpenSession | None) -> Latents | None:
    if contract.source != "embedding":
        return None
    emap = _emap(network) if contract.emap else None
    if contract.emap and emap is None:
        raise FaceLoomError(f"{network.path.name} holds no 512×512 identity map (emap); get the model again, this export has lost it.")

    @cache
    def recognizer_of(space: str) -> Recognizer:
        if recognizer is not None and recognizer.space == space:
            return recognizer
        return load_recognizer(find(recognizer_row(space)), open_session=open_session)

    converter = Network(find(row_named(contract.converter)), open_session) if contract.converter else None
    adapter = catalogue()[contract.adapter].contract.space if contract.adapter else None
    return Latents(contract, recognizer_of, converter, emap, adapter)


def recognizer_row(space: str) -> Row:
    """The catalogue's recogniser of an embedding space."""
    for row in rows("recognizer"):
        if row.contract and row.contract.space == space:
            return row
    raise FaceLoomError(f"There is no recognizer for the embedding space {space} in the catalogue.")
