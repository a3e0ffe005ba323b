"""Soft erosion of masks, as MegaFS and ReliableSwap do it."""

from __future__ import annotations

import torch
from torch.nn import functional


def cone_weights(edge: int) -> torch.Tensor:
    """Make weights ``[edge, edge]`` that fall with the distance from the middle to 0 in the corners and add up to 1."""
    away = torch.arange(edge, dtype=torch.float32) - edge // 2
    distance = torch.hypot(away[:, None], away)
    weights = distance.max() - distance
    return weights / weights.sum()


def soft_erosion(masks: torch.Tensor, edge: int = 17, threshold: float = .9, steps: int = 7) -> torch.Tensor:
    """Shrink masks ``[N, H, W]`` 0..1 and soften their edge.

    They are averaged over a cone of ``edge`` pixels ``steps`` times, and lowered to the average each time but the last, when they become
    the average. Values from ``threshold`` on become 1; those below are scaled so that the largest becomes 1.
    """
    kernel = cone_weights(edge).to(masks)[None, None]
    x = masks[:, None]
    for step in range(steps):
        soft = functional.conv2d(x, kernel, padding=edge // 2)
        x = torch.minimum(x, soft) if step < steps - 1 else soft
    x = x[:, 0]
    low = x.masked_fill(x >= threshold, 0)
    return torch.where(x >= threshold, 1, low / low.amax((1, 2), keepdim=True).clamp(min=1e-12))
