"""Networks that look at one picture: its size and layout in the graph, and pictures brought to that size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from ..errors import FaceLoomError
from ..files.catalogue import NetContract
from ..files.onnx import Port
from .onnx import OnnxModel


def bind_picture(model: OnnxModel, contract: NetContract, exact: bool) -> tuple[Port, NetContract]:
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
        raise FaceLoomError(f"{model.name} should take one square colour picture{edge}, but takes {listed(model.inputs)}.")
    return ports[0], replace(contract, layout=layout, size=next(iter(fixed), contract.size))


def listed(ports: Sequence[Port]) -> str:
    """Names and shapes for an error message."""
    shapes = ("×".join("?" if size is None else str(size) for size in port.shape or ()) for port in ports)
    return ", ".join(f"{port.name} ({shape or 'any shape'})" for port, shape in zip(ports, shapes, strict=True))


def resize(pictures: torch.Tensor, edge: int) -> torch.Tensor:
    """``[N, H, W, C]`` to ``[N, edge, edge, C]`` float32 0..1: bicubic, with an area filter where it shrinks."""
    pictures = pictures.to(torch.float32)
    if tuple(pictures.shape[1:3]) == (edge, edge):
        return pictures
    planes = pictures.movedim(-1, 1)
    return F.interpolate(planes, size=(edge, edge), mode="bicubic", antialias=True, align_corners=False).movedim(1, -1).clamp(0, 1)
