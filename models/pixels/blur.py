"""Gaussian blur of planes of pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def gaussian_blur(planes: torch.Tensor, sigma: float, radius: int, border: str = "reflect") -> torch.Tensor:
    """Blur every plane of ``[C, H, W]`` or ``[N, C, H, W]`` by a Gaussian with a standard deviation of ``sigma`` pixels.

    The filter is separable, reaches ``radius`` pixels to either side and sums to 1. border: what lies outside the planes, ``"zeros"``,
    ``"replicate"`` (the outermost pixels) or ``"reflect"`` (the mirrored planes; ``radius`` must then be below H and W).
    """
    channels = planes.shape[-3]
    offsets = torch.arange(-radius, radius + 1, dtype=planes.dtype, device=planes.device)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = (weights / weights.sum()).expand(channels, 1, 1, -1)
    batch = planes.reshape(-1, *planes.shape[-3:])
    across = down = 0
    if border == "zeros":
        across, down = (0, radius), (radius, 0)
    else:
        batch = F.pad(batch, (radius,) * 4, mode=border)
    rows = F.conv2d(batch, weights, padding=across, groups=channels)
    return F.conv2d(rows, weights.mT, padding=down, groups=channels).reshape(planes.shape)
