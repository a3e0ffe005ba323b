"""Pictures into a network's numbers and back, as its contract says. Nothing leaves the pictures' device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..errors import FaceLoomError
from ..files.catalogue import NetContract, SwapContract
from ..files.onnx import Port
from .onnx import OnnxModel


def to_network_input(pictures: torch.Tensor, contract: SwapContract | NetContract) -> torch.Tensor:
    """RGB 0..1 ``[N, H, W, 3]`` in the colour order, range and layout that the network was trained with, float32."""
    values = _swapped(pictures, contract)
    if any(contract.mean) or any(part != 1 for part in contract.std):
        values = (values - values.new_tensor(contract.mean)) / values.new_tensor(contract.std)
    return (values.permute(0, 3, 1, 2) if contract.layout == "nchw" else values).contiguous()


def from_network_output(values: torch.Tensor, contract: SwapContract | NetContract) -> torch.Tensor:
    """What the network answers as RGB ``[N, H, W, 3]`` float32, not yet clipped to 0..1."""
    values = values.to(torch.float32)
    if contract.layout == "nchw":
        values = values.permute(0, 2, 3, 1)
    return _swapped(values * values.new_tensor(contract.output_std) + values.new_tensor(contract.output_mean), contract)


def _swapped(pictures: torch.Tensor, contract: SwapContract | NetContract) -> torch.Tensor:
    """Between RGB and the network's colour order, float32."""
    pictures = pictures.to(torch.float32)
    return pictures.flip(-1) if contract.color == "bgr" else pictures


def find_image_input(model: OnnxModel, contract: NetContract, exact: bool) -> tuple[Port, NetContract]:
    """The one input that takes a picture, and the contract with the layout and edge the graph states.

    exact: the contract is the catalogue's for this very file, so another edge means that the file is not what its name says.
    """
    ports = [port for port in model.inputs if port.shape is None or len(port.shape) == 4]
    shape = (ports[0].shape or (None,) * 4) if len(ports) == 1 else ()
    layout = next((layout for layout, place in (("nchw", 1), ("nhwc", 3)) if shape and shape[place] == 3), contract.layout)
    channels, edges = (shape[1], shape[2:]) if layout == "nchw" else (shape[3:], shape[1:3])
    fixed = {edge for edge in edges if isinstance(edge, int)}
    wanted = {contract.size} if exact and contract.size else fixed
    if not shape or (isinstance(channels, int) and channels != 3) or len(fixed) > 1 or fixed - wanted:
        edge = f" of {contract.size}×{contract.size}" if exact else ""
        raise FaceLoomError(f"{model.name} should take one square colour picture{edge}, but takes {describe_ports(model.inputs)}.")
    return ports[0], replace(contract, layout=layout, size=next(iter(fixed), contract.size))


def describe_ports(ports: Sequence[Port]) -> str:
    """Names and shapes for an error message."""
    shapes = ("×".join("?" if size is None else str(size) for size in port.shape or ()) for port in ports)
    return ", ".join(f"{port.name} ({shape or 'any shape'})" for port, shape in zip(ports, shapes, strict=True))
