"""Assigns the inputs and outputs of a swap network's graph to what its contract names, and checks that graph and contract agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import FaceLoomError
from ..files.catalogue import SwapContract
from ..files.onnx import Port
from ..runtime.input import describe_ports
from ..runtime.onnx import OnnxModel

# Numbers in an ArcFace vector.
VECTOR_LENGTH = 512


@dataclass(frozen=True)
class Ports:
    """A graph's inputs by their purpose.

    target: the image to draw over. source: the person, None where the person is in the weights. morph: a DeepFaceLive model's own
    strength, None where it has none.
    """

    target: Port
    source: Port | None
    morph: Port | None


def bind_ports(contract: SwapContract, model: OnnxModel) -> tuple[SwapContract, Ports]:
    """Finds the graph's inputs by their purpose. Returns the contract with the size and the numbers of the outputs that the graph has,
    and the inputs; FaceLoomError where graph and contract disagree."""
    target, source = _find_inputs(contract, model)
    rest = [port for port in model.inputs if port is not target and port is not source]
    morph = next((port for port in rest if "morph" in port.name and contract.source == "none"), None)
    if [port for port in rest if port is not morph]:
        raise FaceLoomError(f"{model.name} takes more than its kind of model does: {describe_ports(model.inputs)}.")
    size = _image_size(contract, target, contract.size, model)
    if contract.source == "image" and source is not None:
        _image_size(contract, source, contract.source_size, model)
    elif source is not None and (source.shape or (None,))[-1] not in (None, VECTOR_LENGTH):
        raise FaceLoomError(f"{model.name} should take a vector of {VECTOR_LENGTH} numbers, but takes {describe_ports([source])}.")
    contract = replace(contract, size=size, **_find_outputs(contract, model))
    _check_floating_point(model, [target, source, morph, model.outputs[contract.picture_output]])
    return contract, Ports(target, source, morph)


def _find_inputs(contract: SwapContract, model: OnnxModel) -> tuple[Port, Port | None]:
    """Finds the target's and the source's input: by the contract's names, else by the number of their dimensions."""
    images = [port for port in model.inputs if len(port.shape or ()) == 4]
    vectors = [port for port in model.inputs if len(port.shape or ()) == 2]
    target = _find_by_name(model.inputs, contract.target_input, 4)
    source = _find_by_name(model.inputs, contract.source_input, 4 if contract.source == "image" else 2)
    if contract.source == "image":
        target = target or _single_of_size([port for port in images if port is not source], contract.size)
        source = source or _single_of_size([port for port in images if port is not target], contract.source_size)
    else:
        target = target or (images[0] if len(images) == 1 else None)
        source = (source or (vectors[0] if len(vectors) == 1 else None)) if contract.source == "embedding" else None
    if target is None or (source is None and contract.source != "none"):
        raise FaceLoomError(f"{model.name} should take {_describe_inputs(contract, images)}, but takes {describe_ports(model.inputs)}.")
    return target, source


def _find_by_name(ports: Sequence[Port], name: str | None, rank: int) -> Port | None:
    """Finds the port of this name, unless its shape is known to have another number of dimensions."""
    return next((port for port in ports if port.name == name and len(port.shape or ()) in (0, rank)), None)


def _single_of_size(ports: Sequence[Port], size: int | None) -> Port | None:
    """Returns the only port, or of several the only one with this edge; None where that leaves none or several."""
    fitting = [port for port in ports if size in (port.shape or ())] if len(ports) > 1 else ports
    return fitting[0] if len(fitting) == 1 else None


def _describe_inputs(contract: SwapContract, images: Sequence[Port]) -> str:
    """Says what the graph should take, for an error message."""
    if contract.source == "image" and len(images) == 2:
        return f"pictures called {contract.target_input} and {contract.source_input}"
    return {"embedding": "a picture and an identity vector", "image": "two pictures", "none": "one picture"}[contract.source]


def _image_size(contract: SwapContract, port: Port, expected: int | None, model: OnnxModel) -> int:
    """Returns the edge of the square image that ``port`` takes, pixels; FaceLoomError where it takes none of the expected edge."""
    shape = port.shape or (None,) * 4
    channels, height, width = (shape[i] for i in ((1, 2, 3) if contract.layout == "nchw" else (3, 1, 2)))
    size = expected or height
    if channels not in (None, 3) or size is None or {height, width} - {None, size}:
        edge = expected or "?"
        layout = f"3×{edge}×{edge}" if contract.layout == "nchw" else f"{edge}×{edge}×3"
        raise FaceLoomError(f"{model.name} should take pictures of {layout}, but takes {describe_ports([port])}.")
    return size


def _find_outputs(contract: SwapContract, model: OnnxModel) -> dict[str, int | tuple[int, ...]]:
    """Finds the image and the masks among the graph's outputs: by the published names if it has all of them, else by the contract's
    numbers. Returns the contract's fields that say so."""
    names = [port.name for port in model.outputs]
    published = bool(contract.outputs) and set(contract.outputs) <= set(names)
    numbers = [names.index(name) for name in contract.outputs] if published else range(len(names))

    def has_channels(output: int, channels: int) -> bool:
        return output < len(numbers) and _channels(contract, model.outputs[numbers[output]]) in (None, channels)

    output = contract.picture_output
    if not has_channels(output, 3):
        raise FaceLoomError(f"{model.name} should return a picture as output number {output + 1}, but returns "
                            f"{describe_ports(model.outputs)}.")
    masks = tuple(numbers[output] for output in contract.mask_outputs if has_channels(output, 1))
    return {"picture_output": numbers[output], "mask_outputs": masks}


def _channels(contract: SwapContract, port: Port) -> int | None:
    """Returns the channels of an image; None where the graph does not say, 0 for what is no image."""
    shape = port.shape or (None,) * 4
    return shape[1 if contract.layout == "nchw" else 3] if len(shape) == 4 else 0


def _check_floating_point(model: OnnxModel, ports: Sequence[Port | None]) -> None:
    """Raises FaceLoomError where a port takes or returns whole numbers: a quantized export."""
    whole = [port for port in ports if port is not None and port.dtype is not None and port.dtype.kind != "f"]
    if whole:
        described = ", ".join(f"{port.name} ({port.dtype})" for port in whole)
        raise FaceLoomError(f"{model.name} works with whole numbers, {described}; export it again with floating-point inputs and outputs.")
