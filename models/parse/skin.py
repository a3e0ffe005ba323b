"""Telling skin from hair, hats and background by the skin's own colour, without a network."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..pixels.blur import gaussian_blur

_LEAST_SPREAD = (0.10, 0.022, 0.022)  # of brightness and of the two colour axes, for flat skin
_THIN_HALF_WIDTH = 0.014  # in crop edges, of what is a brow, a frame or a strand rather than hair
_SAME_COLOR_SIGMA = 0.08  # how far, in crop edges, the skin's colour is taken to be the same


def fast_gaussian_blur(planes: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur planes ``[C, H, W]`` by a Gaussian with a standard deviation of ``sigma`` pixels, repeating the edges. A wide blur is done on a
    coarser grid, which is exact enough because nothing finer than the filter survives it."""
    coarse = max(1, int(sigma / 4))
    height, width = planes.shape[-2:]
    small = planes[None]
    if coarse > 1:
        small = F.avg_pool2d(F.pad(small, (0, -width % coarse, 0, -height % coarse), mode="replicate"), coarse)
        sigma = sigma / coarse
    radius = max(1, int(3 * sigma + 0.5))
    small = gaussian_blur(small, sigma, radius, "replicate")
    if coarse > 1:
        small = F.interpolate(small, scale_factor=coarse, mode="bilinear", align_corners=False)[..., :height, :width]
    return small[0]


def local_mean(planes: torch.Tensor, weight: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return the local mean ``[C, H, W]`` of planes, weighted by ``weight`` ``[1, H, W]`` and a Gaussian of ``sigma`` pixels; where no
    weight is near, the mean over all of them."""
    overall = (planes * weight).sum((1, 2), keepdim=True) / weight.sum().clamp_min(1e-6)
    blurred = fast_gaussian_blur(torch.cat([planes * weight, weight]), sigma)
    overall_weight = 1e-3
    return (blurred[:-1] + overall_weight * overall) / (blurred[-1:] + overall_weight)


def skin_likelihood(crop: torch.Tensor, sure: torch.Tensor, slack: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Rate how much each pixel of a crop ``[S, S, 3]`` 0..1 looks like the skin at the pixels marked in ``sure`` ``[S, S]``, as
    ``[S, S]`` 0..1.

    Colour is compared with the nearest known colour of the skin in brightness and two opponent axes, so the result follows shading and
    coloured light; brows, spectacle frames and strands thinner than about 3 % of the crop do not count. slack: ``[S, S]``, widens the
    tolerance in brightness where shadows are expected.
    """
    rgb = crop.permute(2, 0, 1)
    light = rgb.mean(0)
    axes = torch.stack([light, rgb[0] - rgb[1], (rgb[0] + rgb[1]) / 2 - rgb[2]])
    known = sure > 0.5
    if not known.any():
        return torch.ones_like(light)
    floor = torch.tensor(_LEAST_SPREAD, device=crop.device)
    middle = axes[:, known].median(1).values
    spread = torch.maximum((axes[:, known] - middle[:, None]).abs().median(1).values * 1.48, floor)
    typical = (((axes - middle[:, None, None]) / spread[:, None, None]) ** 2).sum(0) < 9
    edge = crop.shape[0]
    near = local_mean(axes, (known & typical).float()[None], _SAME_COLOR_SIGMA * edge)
    scale = spread[:, None, None] + torch.stack([torch.ones_like(light) * slack, *torch.zeros_like(axes[1:])])
    distance = (((axes - near) / scale) ** 2).sum(0)
    likelihood = torch.exp(-(distance - 5).clamp_min(0) / 4)
    reach = max(1, round(_THIN_HALF_WIDTH * edge))
    other = 1 - fast_gaussian_blur(likelihood[None], 0.004 * edge)
    other = _square_maximum(-_square_maximum(-other, reach), reach)
    return fast_gaussian_blur(_keep_connected(1 - other, known.float()[None]), 0.006 * edge)[0]


def _square_maximum(planes: torch.Tensor, reach: int) -> torch.Tensor:
    """Return the largest value within ``reach`` pixels to every side, of planes ``[C, H, W]``: along the rows, then along the columns."""
    along = F.max_pool2d(planes, (1, 2 * reach + 1), 1, (0, reach))
    return F.max_pool2d(along, (2 * reach + 1, 1), 1, (reach, 0))


def _keep_connected(likelihood: torch.Tensor, start: torch.Tensor, grid: int = 96) -> torch.Tensor:
    """Keep of ``likelihood`` ``[1, H, W]`` only what can be reached from ``start`` ``[1, H, W]`` over likely pixels (greyscale
    reconstruction by dilation, Vincent 1993, on a coarse grid): a highlight in the hair is no skin."""
    small = F.adaptive_avg_pool2d(likelihood, grid)
    reached = torch.minimum(small, F.adaptive_max_pool2d(start, grid))
    reached = torch.from_numpy(_reconstructed(reached[0].cpu().numpy(), small[0].cpu().numpy())).to(small)[None]
    kept = F.interpolate((reached / small.clamp_min(1e-3))[None], size=likelihood.shape[-2:], mode="bilinear", align_corners=False)[0]
    return likelihood * kept.clamp(0, 1)


def _reconstructed(start: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Spread the values ``[H, W]`` of ``start`` to their neighbours, nowhere above ``limit``, until nothing changes or they went across."""
    reached = np.pad(start, 1, constant_values=-np.inf)
    inner, rows = reached[1:-1, 1:-1], np.empty((len(start), reached.shape[1]), start.dtype)
    for _ in range(max(limit.shape)):
        np.maximum(np.maximum(reached[:-2], reached[2:]), reached[1:-1], out=rows)
        spread = np.minimum(np.maximum(np.maximum(rows[:, :-2], rows[:, 2:]), rows[:, 1:-1]), limit)
        if np.array_equal(spread, inner):
            break
        inner[:] = spread
    return inner
