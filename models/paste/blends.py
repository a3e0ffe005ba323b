"""Hides the seam of a pasted region in two ways: with Laplacian pyramids and with the Poisson equation.

Both functions take the photograph ``base`` and the crop ``pasted`` (``[h, w, C]`` float32) and the mask ``[h, w, 1]``. They return what to
composite, ``[h, w, C]``, and its weight ``[h, w, 1]``, which is 0 where the mask is 0. The arrays' borders are taken for borders of the
photograph, so a region inside it must come with at least one pixel of unmasked surroundings.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

# The solver stops after this many rounds, or where the largest residual is below this.
_MAX_ROUNDS = 60
_MAX_RESIDUAL = 1e-4


def multi_band(base: torch.Tensor, pasted: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Blend every band of frequencies over a distance as long as its waves (Burt & Adelson, ACM TOG 1983).

    The wide blends of the low bands would reach out of the mask. So the mask that blends is drawn inwards by the width of the lowest band,
    and a short ramp ends the result exactly at the mask's border.
    """
    height, width = mask.shape[:2]
    levels = max(1, min(6, (min(height, width) // 16).bit_length()))
    step = 1 << levels
    stacked = torch.cat([base, pasted, mask, (mask > 0).to(mask.dtype)], -1).permute(2, 0, 1)[None]
    stacked = F.pad(stacked, (0, -width % step, 0, -height % step), mode="replicate")
    channels = base.shape[-1]
    inwards, ramp = (_inside(stacked[:, -1:], reach) for reach in (levels, max(1, levels - 1)))
    stacked = torch.cat([stacked[:, :2 * channels], stacked[:, 2 * channels:-1] * inwards], 1)
    bands = []
    for _ in range(levels):
        coarse = _reduce(stacked)
        bands.append(_mix(torch.cat([stacked[:, :-1] - _expand(coarse[:, :-1]), stacked[:, -1:]], 1), channels))
        stacked = coarse
    mixed = _mix(stacked, channels)
    for band in reversed(bands):
        mixed = _expand(mixed) + band
    ramp = (2 * ramp).clamp_(0, 1)[0, :, :height, :width].permute(1, 2, 0)
    return mixed[0, :, :height, :width].permute(1, 2, 0).clamp(0, 1), torch.where(mask > 0, ramp, mask)


def _mix(stacked: torch.Tensor, channels: int) -> torch.Tensor:
    """Blend the first ``channels`` planes of ``[1, 2 C + 1, h, w]`` with the next ones by the last one."""
    return torch.lerp(stacked[:, :channels], stacked[:, channels:2 * channels], stacked[:, -1:])


def _reduce(planes: torch.Tensor) -> torch.Tensor:
    """Halve planes ``[1, C, h, w]`` with the kernel 1 3 3 1; pixel centres lie where ``_expand`` puts them back."""
    for dim in (2, 3):
        size = planes.shape[dim]
        ends = (planes.narrow(dim, 0, 1), planes, planes.narrow(dim, size - 1, 1))
        padded = torch.cat(ends, dim)
        even, odd = (padded[:, :, i::2] if dim == 2 else padded[:, :, :, i::2] for i in (0, 1))
        half = size // 2
        outer, inner = even.narrow(dim, 0, half) + odd.narrow(dim, 1, half), odd.narrow(dim, 0, half) + even.narrow(dim, 1, half)
        planes = outer / 8 + inner * 0.375
    return planes


def _expand(planes: torch.Tensor) -> torch.Tensor:
    return F.interpolate(planes, scale_factor=2, mode="bilinear", align_corners=False)


def _inside(support: torch.Tensor, levels: int) -> torch.Tensor:
    """0 on and outside the border of a 0/1 ``support``, rising to 1 within about ``2 ** levels`` pixels of it."""
    soft = support
    for _ in range(levels):
        soft = _reduce(soft)
    for _ in range(levels):
        soft = _expand(soft)
    return (2 * soft - 1).clamp_(0, 1) * support


def poisson(base: torch.Tensor, pasted: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Clone seamlessly (Pérez, Gangnet & Blake, SIGGRAPH 2003): keep the gradients of the crop and the colours around the mask.

    What is added to ``pasted`` is the membrane (harmonic function) through the differences along the mask's border. Where the border
    crosses hair, a hat or background, those differences say nothing about the skin's colour, and a plain solution smears them over the
    face. So border pixels are left free, with no gradient across them, where they are unusual in the photograph, in the crop or in the
    difference of both: more than 2.5 robust standard deviations from the median inside the mask, in any channel. A soft mask fades the
    result; the membrane spans everything above 0.
    """
    domain = mask[..., 0] > 0
    trusted = _neighbours(domain.to(mask.dtype)[None])[0].gt(0) & ~domain
    difference = (base - pasted).permute(2, 0, 1)
    for planes, slack in ((base.permute(2, 0, 1), 0.05), (pasted.permute(2, 0, 1), 0.05), (difference, 0.02)):
        inner = planes[:, domain]
        middle = inner.median(1).values[:, None, None]
        limit = 2.5 * 1.4826 * (inner - middle[:, 0]).abs().median(1).values[:, None, None] + slack
        trusted = trusted & ((planes - middle).abs() <= limit).all(0)
    membrane = middle + solve_membrane(difference - middle, trusted, domain)
    return (pasted + membrane.permute(1, 2, 0)).clamp(0, 1), mask


def solve_membrane(fixed: torch.Tensor, border: torch.Tensor, domain: torch.Tensor) -> torch.Tensor:
    """Solve the Laplace equation: ``[C, h, w]``, harmonic inside ``domain`` ``[h, w]`` and zero outside it.

    On ``border`` ``[h, w]`` the solution continues ``fixed`` ``[C, h, w]``. The edges of the array, and those of the domain beyond
    ``border``, are free (Neumann). Conjugate gradients, preconditioned by one multigrid V-cycle (Tatebe 1993).
    """
    inside, known = domain.to(fixed.dtype)[None], border.to(fixed.dtype)[None]
    grids = [_grid(inside, known)]
    while min(inside.shape[1:]) >= 8:
        known = (F.avg_pool2d(_even(known), 2) > 0).to(fixed.dtype)
        inside = (F.avg_pool2d(_even(inside), 2) > 0.3).to(fixed.dtype) * (1 - known)
        grids.append(_grid(inside, known))
    inside, count = grids[0]
    residual = _neighbours(fixed * border) * inside
    solution = torch.zeros_like(fixed)
    direction, before, energy = residual, residual, None
    for _ in range(_MAX_ROUNDS):
        if float(residual.abs().max()) < _MAX_RESIDUAL:
            break
        better = _v_cycle(residual, grids)
        if energy is None:
            direction = better
        else:  # the flexible (Polak-Ribière) step allows a preconditioner that is not exactly symmetric
            direction = better + ((residual - before) * better).sum((1, 2), keepdim=True) / energy * direction
        energy = (residual * better).sum((1, 2), keepdim=True).clamp_min(1e-30)
        image = (count * direction - _neighbours(direction)) * inside
        length = (residual * direction).sum((1, 2), keepdim=True) / (direction * image).sum((1, 2), keepdim=True).clamp_min(1e-30)
        solution += length * direction
        before, residual = residual, residual - length * image
    return solution


def _grid(inside: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where to solve, ``[1, h, w]``, and how many neighbours of each pixel count."""
    return inside, _neighbours(inside + known)


def _v_cycle(right: torch.Tensor, grids: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Solve the Poisson equation with zeros around it approximately, for the right side ``[C, h, w]``, by one multigrid V-cycle."""
    inside, count = grids[0]
    rounds = 2 if len(grids) > 1 else 20
    relaxation = 0.8 * inside / count.clamp_min(1)
    solution = relaxation * right
    for _ in range(rounds - 1):
        solution += relaxation * (right - count * solution + _neighbours(solution))
    if len(grids) > 1:
        residual = (right - count * solution + _neighbours(solution)) * inside
        coarse = _v_cycle(4 * F.avg_pool2d(_even(residual), 2) * grids[1][0], grids[1:])
        height, width = right.shape[1:]
        solution += F.interpolate(coarse[None], scale_factor=2, mode="bilinear", align_corners=False)[0, :, :height, :width] * inside
    for _ in range(rounds):
        solution += relaxation * (right - count * solution + _neighbours(solution))
    return solution


def _even(planes: torch.Tensor) -> torch.Tensor:
    """Pad ``[C, h, w]`` with zeros to even sizes."""
    return F.pad(planes, (0, planes.shape[2] % 2, 0, planes.shape[1] % 2))


def _neighbours(planes: torch.Tensor) -> torch.Tensor:
    """Add up the four neighbours of every pixel of ``[C, h, w]``; beyond the edges are zeros."""
    total = torch.zeros_like(planes)
    total[:, 1:] += planes[:, :-1]
    total[:, :-1] += planes[:, 1:]
    total[:, :, 1:] += planes[:, :, :-1]
    total[:, :, :-1] += planes[:, :, 1:]
    return total
