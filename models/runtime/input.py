"""Turns images into what a network takes, and its output into images, as its contract says. Tensors stay on their device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..errors import FaceLoomError
from ..files.catalogue import NetContract, PixelFormat
from ..files.onnx import Port

if TYPE_CHECKING:
    from .onnx import OnnxModel


def to_network_input(images: torch.Tensor, contract: PixelFormat) -> torch.Tensor:
    """Turn RGB images in 0..1 ``[N, H, W, 3]`` into float32 of the colour order, range and layout that the network was trained with."""
    values = _reorder_channels(images, contract)
    if any(contract.mean) or any(part != 1 for part in contract.std):
        values = (values - values.new_tensor(contract.mean)) / values.new_tensor(contract.std)
    return (values.permute(0, 3, 1, 2) if contract.layout == "nchw" else values).contiguous()


def normalize_channels(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Subtract the mean of each channel from images ``[N, C, H, W]`` and divide by its standard deviation."""
    means, deviations = (images.new_tensor(values)[:, None, None] for values in (mean, std))
    return (images - means) / deviations


def from_network_output(output: torch.Tensor, contract: PixelFormat) -> torch.Tensor:
    """Turn a network's output into RGB images ``[N, H, W, 3]`` float32, not yet clipped to 0..1."""
    values = output.to(torch.float32)
    if contract.layout == "nchw":
        values = values.permute(0, 2, 3, 1)
    return _reorder_channels(values * values.new_tensor(contract.output_std) + values.new_tensor(contract.output_mean), contract)


def _reorder_channels(images: torch.Tensor, contract: PixelFormat) -> torch.Tensor:
    """Turn RGB into the network's colour order, or back, in float32."""
    images = images.to(torch.float32)
    return images.flip(-1) if contract.color == "bgr" else images


def find_image_input(model: OnnxModel, contract: NetContract, exact: bool) -> tuple[Port, NetContract]:
    """Find the one input that takes an image. Returns it, and the contract with the layout and size that the graph states.

    exact: the contract is the catalogue's for this very file, so another size means that the file is not what its name says.
    FaceLoomError for a graph that does not take one square colour image of the right size.
    """
    ports = [port for port in model.inputs if port.shape is None or len(port.shape) == 4]
    shape = list(ports[0].shape or [None] * 4) if len(ports) == 1 else []
    layout = next((layout for layout, place in (("nchw", 1), ("nhwc", 3)) if shape and shape[place] == 3), contract.layout)
    channels, edges = (shape[1], shape[2:]) if layout == "nchw" else (shape[3:], shape[1:3])
    fixed = {edge for edge in edges if isinstance(edge, int)}
    allowed = {contract.size} if exact and contract.size else fixed
    if not shape or (isinstance(channels, int) and channels != 3) or len(fixed) > 1 or fixed - allowed:
        edge = f" of {contract.size}×{contract.size}" if exact else ""
        raise FaceLoomError(f"{model.name} should take one square colour picture{edge}, but takes {describe_ports(model.inputs)}.")
    return ports[0], replace(contract, layout=layout, size=next(iter(fixed), contract.size))


def describe_ports(ports: Sequence[Port]) -> str:
    """Write the names and shapes of ports for an error message: ``target (1×3×128×128), source (1×512)``."""
    shapes = ("×".join("?" if size is None else str(size) for size in port.shape or ()) for port in ports)
    return ", ".join(f"{port.name} ({shape or 'any shape'})" for port, shape in zip(ports, shapes, strict=True))
