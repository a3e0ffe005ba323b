"""Shrinking a mask softly, as MegaFS and ReliableSwap do."""

from __future__ import annotations

import torch
from torch.nn import functional


def cone(edge: int) -> torch.Tensor:
    """``[edge, edge]`` weights that fall with the distance from the middle to 0 in the corners; their sum is 1."""
    away = torch.arange(edge, dtype=torch.float32) - edge // 2
    distance = torch.hypot(away[:, None], away)
    weights = distance.max() - distance
    return weights / weights.sum()


def soft_erosion(masks: torch.Tensor, edge: int = 17, threshold: float = .9, steps: int = 7) -> torch.Tensor:
    """``[N, H, W]`` masks 0..1: averaged over a cone of ``edge`` pixels ``steps`` times, all but the last time never above what was there;
    then 1 from ``threshold`` on, and below it stretched so that the largest value left is 1."""
    kernel = cone(edge).to(masks)[None, None]
    x = masks[:, None]
    for step in range(steps):
        soft = functional.conv2d(x, kernel, padding=edge // 2)
        x = torch.minimum(x, soft) if step < steps - 1 else soft
    x = x[:, 0]
    low = x.masked_fill(x >= threshold, 0)
    return torch.where(x >= threshold, 1, low / low.amax((1, 2), keepdim=True).clamp(min=1e-12))
