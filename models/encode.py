"""Pictures into a network's numbers and back, as its contract says."""

from __future__ import annotations

import numpy as np
import torch

from .catalogue import Contract, NetContract


def encode(pictures: torch.Tensor, contract: Contract | NetContract) -> np.ndarray:
    """RGB 0..1 ``[N, H, W, 3]`` in the colour order, range and layout that the network was trained with."""
    values = pictures.cpu().numpy()
    if contract.color == "bgr":
        values = values[..., ::-1]
    values = (values - np.float32(contract.mean)) / np.float32(contract.std)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if contract.layout == "nchw" else values, np.float32)


def decode(values: np.ndarray, contract: Contract | NetContract) -> torch.Tensor:
    """What the network answers as RGB ``[N, H, W, 3]``, not yet clipped to 0..1."""
    if contract.layout == "nchw":
        values = values.transpose(0, 2, 3, 1)
    values = values * np.float32(contract.output_std) + np.float32(contract.output_mean)
    if contract.color == "bgr":
        values = values[..., ::-1]
    return torch.from_numpy(np.ascontiguousarray(values))
