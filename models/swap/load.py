"""From a file (or a catalogue name) to a swap engine: which contract it is held to, and whether its graph agrees."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from ..catalogue import Contract, Row, catalogue, rows
from ..errors import FaceLoomError
from ..folders import Folders, available, default_folders, find
from ..identity import Recognizer
from ..identity.onnx import load_recognizer
from ..network import Network, OpenSession, Port, kind_of, locate
from ..onnx_graph import initializer
from .latent import Latents
from .onnx import OnnxEngine, Ports

EMAP = (512, 512)


def load_engine(path_or_name: str | Path, *, folders: Folders | None = None, recognizer: Recognizer | None = None,
                contract: Contract | None = None, open_session: OpenSession | None = None) -> OnnxEngine:
    """The engine for a swap model file, or for a name in the models folders.

    The contract is the catalogue's for the file's name, else for a name the file's begins with, else the only one whose graph looks
    like this one's; ``contract`` overrides it. A graph that contradicts its contract is an error, and so is a file of another kind.
    ``recognizer`` is used for its own space; others, and converters, are looked for in ``folders`` when they are needed.
    ``open_session`` opens an ONNX session from a path or bytes.
    """
    folders = folders or default_folders()
    found = locate(path_or_name, "swap", folders)
    network = Network(found.path, open_session)
    contract, ports = bind(contract or _contract_of(found.row, network), network)
    name = found.row.name if found.row and "*" not in found.row.file else found.path.stem
    return OnnxEngine(name, network, contract, ports, _latents(contract, network, folders, recognizer, open_session))


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
            fitting.setdefault(replace(row.contract, source_input=None, target_input=None), row.name)
    if len(fitting) == 1:
        return next(iter(fitting))
    if fitting:
        names = ", ".join(fitting.values())
        raise FaceLoomError(f"{network.path.name} could be any of {names}; rename the file so that it begins with the right one of these.")
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
    source = _named(pictures if contract.source == "image" else vectors, contract.source_input)
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
    answer = network.outputs[contract.picture_output].shape if contract.picture_output < len(network.outputs) else (0,)
    if answer and (len(answer) != 4 or answer[1 if contract.layout == "nchw" else 3] not in (None, 3)):
        raise FaceLoomError(f"{network.path.name} should answer a picture as its output number {contract.picture_output + 1}, but answers "
                            f"{_listed(network.outputs)}.")
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


def _latents(contract: Contract, network: Network, folders: Folders, recognizer: Recognizer | None,
             open_session: OpenSession | None) -> Latents | None:
    if contract.source != "embedding":
        return None
    emap = _emap(network) if contract.emap else None
    if contract.emap and emap is None:
        raise FaceLoomError(f"{network.path.name} holds no 512×512 identity map (emap); get the model again, this export has lost it.")

    @cache
    def recognizer_of(space: str) -> Recognizer:
        if recognizer is not None and recognizer.space == space:
            return recognizer
        return load_recognizer(recognizer_name(space, folders), folders=folders, open_session=open_session)

    converter = Network(find(contract.converter, folders).path, open_session) if contract.converter else None
    adapter = catalogue()[contract.adapter].contract.space if contract.adapter else None
    return Latents(contract, recognizer_of, converter, emap, adapter)


def recognizer_name(space: str, folders: Folders) -> str:
    """The catalogue's recogniser of an embedding space, one that is on disk if any is."""
    names = [row.name for row in rows("recognizer") if row.contract and row.contract.space == space]
    if not names:
        raise FaceLoomError(f"No recognizer in the catalogue makes {space} embeddings; connect one to ArcFaceEmbed.")
    on_disk = {choice.row.name for choice in available("recognizer", folders) if choice.row and choice.path}
    return next((name for name in names if name in on_disk), names[0])
