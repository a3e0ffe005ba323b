"""Which input of a swap network is which, and whether its graph is the one its contract describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import FaceLoomError
from ..files.catalogue import SwapContract
from ..files.onnx import Port
from ..runtime.onnx import OnnxModel

# Numbers in an ArcFace vector.
VECTOR = 512


@dataclass(frozen=True)
class Ports:
    """The graph's inputs by what they are for. source: None where the person is in the weights. morph: a DeepFaceLive model's own
    strength, None where it has none."""

    target: Port
    source: Port | None
    morph: Port | None


def bind(contract: SwapContract, model: OnnxModel) -> tuple[SwapContract, Ports]:
    """The inputs by what they are for, and the contract with the size the graph states and the places its outputs have there. Raises
    where graph and contract disagree."""
    pictures = [port for port in model.inputs if len(known(port)) == 4]
    vectors = [port for port in model.inputs if len(known(port)) == 2]
    target = _named(model.inputs, contract.target_input, 4)
    source = _named(model.inputs, contract.source_input, 4 if contract.source == "image" else 2)
    if contract.source == "image":
        target = target or _only([port for port in pictures if port is not source], contract.size)
        source = source or _only([port for port in pictures if port is not target], contract.source_size)
    else:
        target = target or (pictures[0] if len(pictures) == 1 else None)
        source = (source or (vectors[0] if len(vectors) == 1 else None)) if contract.source == "embedding" else None
    if target is None or (source is None and contract.source != "none"):
        raise FaceLoomError(f"{model.name} should take {_wanted(contract, pictures)}, but takes {listed(model.inputs)}.")
    rest = [port for port in model.inputs if port is not target and port is not source]
    morph = next((port for port in rest if "morph" in port.name and contract.source == "none"), None)
    if [port for port in rest if port is not morph]:
        raise FaceLoomError(f"{model.name} takes more than its kind of model does: {listed(model.inputs)}.")
    size = _picture_size(contract, target, contract.size, model)
    if contract.source == "image":
        _picture_size(contract, source, contract.source_size, model)
    elif source is not None and (known(source) or (None,))[-1] not in (None, VECTOR):
        raise FaceLoomError(f"{model.name} should take a vector of {VECTOR} numbers, but takes {listed([source])}.")
    contract = replace(contract, size=size, **_outputs(contract, model))
    _check_fractions(model, [target, source, morph, model.outputs[contract.picture_output]])
    return contract, Ports(target, source, morph)


def known(port: Port) -> tuple[int | None, ...]:
    """The port's shape with None for every length that is open; () where nothing is known."""
    return tuple(size if isinstance(size, int) and size > 0 else None for size in port.shape or ())


def listed(ports: Sequence[Port]) -> str:
    """Names and shapes for an error message."""
    sizes = ("×".join("?" if size is None else str(size) for size in known(port)) for port in ports)
    return ", ".join(f"{port.name} ({size or 'any shape'})" for port, size in zip(ports, sizes, strict=True))


def _picture_size(contract: SwapContract, port: Port, wanted: int | None, model: OnnxModel) -> int:
    shape = known(port) or (None,) * 4
    channels, height, width = (shape[i] for i in ((1, 2, 3) if contract.layout == "nchw" else (3, 1, 2)))
    size = wanted or height
    if channels not in (None, 3) or size is None or {height, width} - {None, size}:
        edge = wanted or "?"
        layout = f"3×{edge}×{edge}" if contract.layout == "nchw" else f"{edge}×{edge}×3"
        raise FaceLoomError(f"{model.name} should take pictures of {layout}, but takes {listed([port])}.")
    return size


def _outputs(contract: SwapContract, model: OnnxModel) -> dict[str, int | tuple[int, ...]]:
    """Where the picture and the masks are among the graph's outputs: by their names if it has the published ones, else by number."""
    names = [port.name for port in model.outputs]
    published = bool(contract.outputs) and set(contract.outputs) <= set(names)
    places = [names.index(name) for name in contract.outputs] if published else range(len(names))

    def holds(number: int, channels: int) -> bool:
        return number < len(places) and _channels(contract, model.outputs[places[number]]) in (None, channels)

    number = contract.picture_output
    if not holds(number, 3):
        raise FaceLoomError(f"{model.name} should answer a picture as output number {number + 1}, but answers {listed(model.outputs)}.")
    masks = tuple(places[number] for number in contract.mask_outputs if holds(number, 1))
    return {"picture_output": places[number], "mask_outputs": masks}


def _channels(contract: SwapContract, port: Port) -> int | None:
    """None where the graph does not say, 0 for what is no picture."""
    shape = known(port) or (None,) * 4
    return shape[1 if contract.layout == "nchw" else 3] if len(shape) == 4 else 0


def _check_fractions(model: OnnxModel, ports: Sequence[Port | None]) -> None:
    whole = [port for port in ports if port is not None and port.dtype is not None and port.dtype.kind != "f"]
    if whole:
        what = ", ".join(f"{port.name} ({port.dtype})" for port in whole)
        raise FaceLoomError(f"{model.name} works with whole numbers, {what}; export it again with floating-point inputs and outputs.")


def _wanted(contract: SwapContract, pictures: Sequence[Port]) -> str:
    """What the graph should take, for an error message."""
    if contract.source == "image" and len(pictures) == 2:
        return f"pictures called {contract.target_input} and {contract.source_input}"
    return {"embedding": "a picture and an identity vector", "image": "two pictures", "none": "one picture"}[contract.source]


def _named(ports: Sequence[Port], name: str | None, rank: int) -> Port | None:
    return next((port for port in ports if port.name == name and len(known(port)) in (0, rank)), None)


def _only(ports: Sequence[Port], size: int | None) -> Port | None:
    fitting = [port for port in ports if size in known(port)] if len(ports) > 1 else ports
    return fitting[0] if len(fitting) == 1 else None
