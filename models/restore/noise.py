"""Measures the noise of pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from ..pixels.blur import gaussian_blur

# Orthonormal lightness and two colour differences: noise that is independent in R, G and B has equal variance in all three.
OPPONENT = torch.tensor([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / torch.tensor([[3.0], [2.0], [6.0]]).sqrt()
# Gaussian widths, photograph pixels, between the bands that grain is measured and made in.
WIDTHS = (0.6, 1.2, 2.4)
_STRUCTURE = 4.8
_BLOCK = 8


def blur(channels: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur ``[C, H, W]`` with a Gaussian of this many pixels, mirrored at the borders."""
    radius = min(math.ceil(3.5 * sigma), min(channels.shape[-2:]) - 1)
    return channels if radius < 1 else gaussian_blur(channels, sigma, radius)


def opponent(picture: torch.Tensor) -> torch.Tensor:
    """Convert RGB ``[h, w, 3]`` to lightness and two colour differences, ``[3, h, w]``."""
    return torch.einsum("hwc,dc->dhw", picture, OPPONENT.to(picture.device))


def slope_of(grey: torch.Tensor) -> torch.Tensor:
    """Return the length of the gradient of ``[1, h, w]``, by central differences."""
    padded = F.pad(grey[None], (1, 1, 1, 1), mode="replicate")[0, 0]
    across, down = padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]
    return torch.hypot(across, down)[None][0] / 2


def bands(channels: torch.Tensor) -> list[torch.Tensor]:
    """Split ``[C, H, W]`` into differences of Gaussians, finest first."""
    smooth = [channels, *(blur(channels, width) for width in WIDTHS)]
    return [fine - coarse for fine, coarse in pairwise(smooth)]


@dataclass(frozen=True)
class Noise:
    """The noise of a picture.

    variance: ``[3, 3]``, by band (finest first) and channel (``opponent``). level: at lightness L the variance is
    ``level[0] + level[1] · L`` times that.
    """

    variance: np.ndarray
    level: tuple[float, float] = (1.0, 0.0)


def measure_noise(picture: torch.Tensor, where: torch.Tensor) -> Noise | None:
    """Measure the noise of ``[h, w, 3]`` inside ``where`` ``[h, w]`` bool; None where fewer than four blocks can be judged.

    Blocks are ranked by their structure coarser than grain. The flattest fifth are taken for noise alone, and the result is their median
    variance in each band. The picture's blacks and whites, where clipping hides grain, are left out.
    """
    channels = opponent(picture)
    if min(picture.shape[:2]) < 4 * _BLOCK:
        return None
    full = F.avg_pool2d(where[None].to(torch.float32), _BLOCK)[0] > 0.999
    light = F.avg_pool2d(picture.mean(-1)[None], _BLOCK)[0]
    spare = F.avg_pool2d(((picture <= 0.004) | (picture >= 0.996)).any(-1)[None].to(torch.float32), _BLOCK)[0]
    full &= (spare < 0.02) & (light > 0.03) & (light < 0.97)
    if int(full.sum()) < 4:
        return None
    coarse = blur(channels, WIDTHS[-1])
    structure = F.avg_pool2d((coarse - blur(channels, _STRUCTURE)).square().sum(0)[None], _BLOCK)[0][full]
    structure += F.avg_pool2d(slope_of(coarse[:1]).square()[None], _BLOCK)[0][full] * 4
    flat = _flattest(structure)
    power = torch.stack([F.avg_pool2d(band.square(), _BLOCK)[:, full] for band in bands(channels)])
    variance = power[..., flat].median(-1).values.cpu().double().numpy()
    return Noise(variance, _level(light[full], power[:, 0], structure, flat))


def smaller_noise(around: Noise | None, here: Noise | None) -> Noise | None:
    """Return the noise of the square ``around``, but no more than the original face ``here`` has.

    Texture adds to what is measured and never takes away from it, so the smaller of two measurements is the better one.
    """
    if around is None or here is None:
        return around
    return Noise(np.minimum(around.variance, here.variance), around.level)


def _flattest(structure: torch.Tensor) -> torch.Tensor:
    """Return which of ``[K]`` blocks are the fifth with the least structure (a dozen at least), ``[K]`` bool."""
    return structure <= torch.quantile(structure, max(0.2, min(1.0, 12 / structure.numel())))


def _level(light: torch.Tensor, power: torch.Tensor, structure: torch.Tensor, flat: torch.Tensor) -> tuple[float, float]:
    """Fit a line to how the variance of the finest band, relative to that of the ``flat`` blocks, depends on lightness.

    light, structure: ``[K]`` of each block. power: ``[3, K]``, the lightness' variance in each band. The line goes through the medians of
    the flattest darker and of the flattest brighter blocks. Hair is dark, textured and never flat: blocks whose coarse bands are stronger
    than in noise are left out. Returns offset and slope; (1, 0) where the blocks are too few or too alike in lightness.
    """
    plain = power[2] / power[0].clamp_min(1e-12) < 2 * (power[2, flat].median() / power[0, flat].median().clamp_min(1e-12))
    bright = light > light[plain].median() if bool(plain.any()) else plain
    halves = (plain & ~bright, plain & bright)
    if min(int(half.sum()) for half in halves) < 12:
        return 1.0, 0.0
    (x0, y0), (x1, y1) = ((float(light[half][quiet].median()), float(power[0, half][quiet].median()))
                          for half in halves for quiet in (_flattest(structure[half]),))
    middle = float(light[flat].median())
    if x1 - x0 < 0.12:
        return 1.0, 0.0
    slope = (y1 - y0) / (x1 - x0)
    base = max(y0 + slope * (middle - x0), 0.25 * max(y0, y1), 1e-12)
    return (y0 - slope * x0) / base, slope / base
