"""Pictures into a network's numbers and back, as its contract says. Nothing leaves the pictures' device."""

from __future__ import annotations

import torch

from ..files.catalogue import Contract, NetContract


def encode(pictures: torch.Tensor, contract: Contract | NetContract) -> torch.Tensor:
    """RGB 0..1 ``[N, H, W, 3]`` in the colour order, range and layout that the network was trained with, float32."""
    values = _swapped(pictures, contract)
    if any(contract.mean) or any(part != 1 for part in contract.std):
        values = (values - values.new_tensor(contract.mean)) / values.new_tensor(contract.std)
    return (values.permute(0, 3, 1, 2) if contract.layout == "nchw" else values).contiguous()


def decode(values: torch.Tensor, contract: Contract | NetContract) -> torch.Tensor:
    """What the network answers as RGB ``[N, H, W, 3]`` float32, not yet clipped to 0..1."""
    values = values.to(torch.float32)
    if contract.layout == "nchw":
        values = values.permute(0, 2, 3, 1)
    return _swapped(values * values.new_tensor(contract.output_std) + values.new_tensor(contract.output_mean), contract)


def _swapped(pictures: torch.Tensor, contract: Contract | NetContract) -> torch.Tensor:
    """Between RGB and the network's colour order, float32."""
    pictures = pictures.to(torch.float32)
    return pictures.flip(-1) if contract.color == "bgr" else pictures
