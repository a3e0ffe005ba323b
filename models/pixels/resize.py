"""Resizing whole pictures and masks: bicubic for a network's input, bilinear for masks, areas or Lanczos for a diffusion model's crops.

Edges of the old picture lie on edges of the new one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .magnify import LOBES, lanczos


def resize_bicubic(pictures: torch.Tensor, size: int | tuple[int, int]) -> torch.Tensor:
    """Resize ``[N, H, W, C]`` 0..1 to ``[N, height, width, C]`` float32 0..1, bicubic, with an area filter where they shrink.

    size: height and width, or the edge of a square. Pictures of this size come back as they are.
    """
    height, width = (size, size) if isinstance(size, int) else size
    pictures = pictures.to(torch.float32)
    if tuple(pictures.shape[1:3]) == (height, width):
        return pictures
    planes = pictures.movedim(-1, 1)
    planes = F.interpolate(planes, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
    return planes.movedim(1, -1).clamp(0, 1)


def resize_bilinear(planes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize masks or scores ``[N, H, W]`` to ``[N, height, width]``, bilinear, averaged where they shrink. No value leaves their range."""
    if tuple(planes.shape[1:]) == (height, width):
        return planes
    return F.interpolate(planes[:, None], size=(height, width), mode="bilinear", antialias=True, align_corners=False)[:, 0]


def resize_area_or_lanczos(pictures: torch.Tensor, size: int) -> torch.Tensor:
    """Resize square pictures ``[N, S, S, C]`` or masks ``[N, S, S]`` to ``size`` pixels, clipped to 0..1; their type stays.

    Shrinking averages exact areas; enlarging is Lanczos of three lobes.
    """
    if pictures.shape[1] == size:
        return pictures
    weights = _resampling_weights(pictures.shape[1], size).to(pictures.device, pictures.dtype)
    out = torch.einsum("oh,nh...->no...", weights, pictures)
    out = torch.einsum("ow,nhw...->nho...", weights, out)
    return out.clamp(0, 1)


def _resampling_weights(old: int, new: int) -> torch.Tensor:
    """What each of ``old`` pixels gives to each new one: ``[new, old]`` float32, whose rows add up to 1."""
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
