"""Which input of a swap network is which, and whether its graph is the one its contract describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..catalogue import Contract
from ..errors import FaceLoomError
from ..onnx_file import Port
from ..runtime import OnnxModel

# Numbers in an ArcFace vector.
VECTOR = 512


@dataclass(frozen=True)
class Ports:
    """The graph's inputs by what they are for. source: None where the person is in the weights. morph: a DeepFaceLive model's own
    strength, None where it has none."""

    target: Port
    source: Port | None
    morph: Port | None


def bind(contract: Contract, model: OnnxModel) -> tuple[Contract, Ports]:
    """The inputs by what they are for, and the contract with the size the graph states. Raises where graph and contract disagree."""
    pictures = [port for port in model.inputs if len(known(port)) == 4]
    vectors = [port for port in model.inputs if len(known(port)) == 2]
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
        raise FaceLoomError(f"{model.name} should take {wanted}, but takes {listed(model.inputs)}.")
    rest = [port for port in model.inputs if port is not target and port is not source]
    morph = next((port for port in rest if "morph" in port.name and contract.source == "none"), None)
    if [port for port in rest if port is not morph]:
        raise FaceLoomError(f"{model.name} takes more than its kind of model does: {listed(model.inputs)}.")
    size = _picture_size(contract, target, contract.size, model)
    if contract.source == "image":
        _picture_size(contract, source, contract.source_size, model)
    elif source is not None and known(source)[-1] not in (None, VECTOR):
        raise FaceLoomError(f"{model.name} should take a vector of {VECTOR} numbers, but takes {listed([source])}.")
    _check_answer(contract, model)
    return replace(contract, size=size), Ports(target, source, morph)


def known(port: Port) -> tuple[int | None, ...]:
    """The port's shape with None for every length that is open; () where nothing is known."""
    return tuple(size if isinstance(size, int) and size > 0 else None for size in port.shape or ())


def listed(ports: Sequence[Port]) -> str:
    """Names and shapes for an error message."""
    sizes = ("×".join("?" if size is None else str(size) for size in known(port)) for port in ports)
    return ", ".join(f"{port.name} ({size or 'any shape'})" for port, size in zip(ports, sizes, strict=True))


def _picture_size(contract: Contract, port: Port, wanted: int | None, model: OnnxModel) -> int:
    shape = known(port)
    channels, height, width = (shape[i] for i in ((1, 2, 3) if contract.layout == "nchw" else (3, 1, 2)))
    size = wanted or height
    if channels not in (None, 3) or size is None or {height, width} - {None, size}:
        edge = wanted or "?"
        layout = f"3×{edge}×{edge}" if contract.layout == "nchw" else f"{edge}×{edge}×3"
        raise FaceLoomError(f"{model.name} should take pictures of {layout}, but takes {listed([port])}.")
    return size


def _check_answer(contract: Contract, model: OnnxModel) -> None:
    number = contract.picture_output
    answer = known(model.outputs[number]) if number < len(model.outputs) else (0,)
    if answer and (len(answer) != 4 or answer[1 if contract.layout == "nchw" else 3] not in (None, 3)):
        raise FaceLoomError(f"{model.name} should answer a picture as output number {number + 1}, but answers {listed(model.outputs)}.")


def _named(ports: Sequence[Port], name: str | None) -> Port | None:
    return next((port for port in ports if port.name == name), None) if name else None


def _only(ports: Sequence[Port], size: int | None) -> Port | None:
    fitting = [port for port in ports if size in known(port)] if len(ports) > 1 else ports
    return fitting[0] if len(fitting) == 1 else None
