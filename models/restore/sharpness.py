"""Measures how sharp pictures are, and makes crops as sharp as their photograph."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .noise import blur, slope_of

# Sharpness within this ratio counts as equal: the estimate is no better on different faces.
_DEAD_ZONE = 1.15
_MOST_SHARPENING = 1.5


def edge_width(picture: torch.Tensor, where: torch.Tensor) -> float | None:
    """Measure how blurred the clear edges of a picture ``[h, w, 3]`` are inside ``where`` ``[h, w]`` bool.

    Returns the standard deviation of the Gaussian that blurs them, pixels; None where there are too few edges.

    The ratio of an edge's gradient before and after blurring it once more tells its width whatever its contrast (Zhuo & Sim 2011,
    "Defocus map estimation from a single image"). Both are measured after a slight blur that keeps noise from passing for edges.
    """
    if min(picture.shape[:2]) < 16:
        return None
    grey = picture.mean(-1)[None]
    if not bool(where.any()):
        return None
    for calm in (0.8, 1.6):
        first = slope_of(blur(grey, calm))
        # The quarter of flattest pixels has the slope that noise alone makes; an edge stands well above it.
        floor = 5 * float(torch.quantile(first[where][::7], 0.25))
        if floor < 0.012:
            break
    floor, again = max(0.012, floor), 1.5 * calm
    second = slope_of(blur(grey, math.hypot(calm, again)))
    edge = (first == F.max_pool2d(first[None], 3, 1, 1)[0]) & where & (first > floor)
    ratio = (first[edge] / second[edge].clamp_min(1e-6)).clamp_min(1.0 + 1e-3)
    if ratio.numel() < 30:
        return None
    strongest = first[edge] >= torch.quantile(first[edge], 0.5)
    width = again / (ratio[strongest].square() - 1).sqrt()
    return math.sqrt(max(float(torch.quantile(width, 0.6)) ** 2 - calm**2, 0.05))


def match_sharpness(crop: torch.Tensor, widths: tuple[float, float] | None, scale: float) -> torch.Tensor:
    """Blur or sharpen a crop ``[S, S, 3]`` whose edges have the first of the ``widths`` (photograph pixels) to the second; the crop itself
    where they are alike or None. scale: crop pixels per photograph pixel."""
    if widths is None:
        return crop
    mine, photo = widths
    channels = crop.movedim(-1, 0)
    if mine < photo / _DEAD_ZONE:
        return blur(channels, math.sqrt(photo**2 - mine**2) * scale).movedim(0, -1)
    if mine > photo * _DEAD_ZONE:
        return _sharpen(channels, mine * scale, photo * scale).movedim(0, -1)
    return crop


def _sharpen(channels: torch.Tensor, width: float, target_width: float) -> torch.Tensor:
    """Sharpen ``[C, S, S]`` by an unsharp mask so that edges of Gaussian ``width`` get ``target_width`` (both in crop pixels).

    The gain follows from the slope at the middle of a blurred step; the result stays within what the neighbourhood already holds.
    """
    gain = (1 / target_width - 1 / width) / (1 / width - 1 / math.hypot(width, width))
    gain = min(gain, _MOST_SHARPENING)
    detail = channels - blur(channels, width)
    reach = 2 * max(1, round(1.5 * width)) + 1
    high = F.max_pool2d(channels[None], reach, 1, reach // 2)[0]
    low = -F.max_pool2d(-channels[None], reach, 1, reach // 2)[0]
    return torch.minimum(torch.maximum(channels + gain * detail, low), high)
