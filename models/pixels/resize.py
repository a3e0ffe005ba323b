"""Resizing whole pictures: bicubic for a network's input, exact areas or Lanczos for a diffusion model's crops."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .magnify import LOBES, lanczos


def resize(pictures: torch.Tensor, edge: int) -> torch.Tensor:
    """``[N, H, W, C]`` to ``[N, edge, edge, C]`` float32 0..1: bicubic, with an area filter where it shrinks."""
    pictures = pictures.to(torch.float32)
    if tuple(pictures.shape[1:3]) == (edge, edge):
        return pictures
    planes = pictures.movedim(-1, 1)
    return F.interpolate(planes, size=(edge, edge), mode="bicubic", antialias=True, align_corners=False).movedim(1, -1).clamp(0, 1)


def resample(pictures: Tensor, size: int) -> Tensor:
    """Square ``[N, S, S, C]`` or masks ``[N, S, S]`` to ``size``, float to float, clipped to 0..1.

    Shrinking averages exact areas; enlarging is Lanczos (three lobes). The picture's border lies where it lay.
    """
    if pictures.shape[1] == size:
        return pictures
    weights = _resampling(pictures.shape[1], size).to(pictures.device, pictures.dtype)
    out = torch.einsum("oh,nh...->no...", weights, pictures)
    out = torch.einsum("ow,nhw...->nho...", weights, out)
    return out.clamp(0, 1)


def _resampling(old: int, new: int) -> Tensor:
    """``[new, old]`` rows that sum to 1."""
    scale = old / new
    if new < old:
        edges = torch.arange(new + 1, dtype=torch.float64) * scale
        pixels = torch.arange(old, dtype=torch.float64)
        low = torch.maximum(edges[:-1, None], pixels)
        high = torch.minimum(edges[1:, None], pixels + 1)
        return ((high - low).clamp(min=0) / scale).to(torch.float32)
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * scale - 0.5
    first = torch.floor(centres).to(torch.int64) - LOBES + 1
    taps = first[:, None] + torch.arange(2 * LOBES)
    weights = torch.zeros(new, old, dtype=torch.float64)
    weights.scatter_add_(1, taps.clamp(0, old - 1), lanczos(centres[:, None] - taps))
    return (weights / weights.sum(1, keepdim=True)).to(torch.float32)
