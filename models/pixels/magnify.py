"""Doubling the resolution of pictures, so that they can be magnified further by cheap bilinear look-ups."""

from __future__ import annotations

import torch
import torch.nn.functional as F

LOBES = 3  # of Lanczos' filter to either side
# Bilinear look-ups of the doubled picture weaken a frequency of f cycles per old pixel by about (πf)² / 12. To make up for that, each new
# pixel is sharpened by this share of its difference from the two new pixels beside it.
_SHARPENING = 1 / 12
# Old pixels that are multiplied by one matrix at a time; the more there are, the more of the matrix is zeros.
_BLOCK = 32


def lanczos(x: torch.Tensor) -> torch.Tensor:
    """Evaluate Lanczos' filter of three lobes ``x`` pixels from its middle (Duchon 1979, "Lanczos Filtering in One and Two Dimensions")."""
    return torch.sinc(x) * torch.sinc(x / LOBES) * (x.abs() < LOBES)


def _doubling_weights() -> torch.Tensor:
    """Compute how the two new pixels, a quarter before and after an old one, are made from it and three on either side: ``[7, 2]``.

    Lanczos' filter, sharpened, then corrected so that weights add up to 1 and their centre lies in the right place, which keeps slopes
    exact.
    """
    old = torch.arange(-LOBES, LOBES + 1, dtype=torch.float64)
    columns = []
    for new in (-0.25, 0.25):
        there, before, after = (lanczos(old - at) for at in (new, new - 0.5, new + 0.5))
        column = there + _SHARPENING * (2 * there - before - after)
        column /= column.sum()
        size = column.abs()
        lever = size * (old - (size * old).sum() / size.sum())
        columns.append(column + (new - (column * old).sum()) * lever / (lever * old).sum())
    return torch.stack(columns, 1)


def _block_matrix() -> torch.Tensor:
    """Make the matrix from a block of old pixels and its ``LOBES`` neighbours on both sides to the block's new pixels."""
    weights, out = _doubling_weights().float(), torch.zeros(_BLOCK + 2 * LOBES, 2 * _BLOCK)
    for i in range(_BLOCK):
        out[i : i + 2 * LOBES + 1, 2 * i : 2 * i + 2] = weights
    return out


_BLOCK_MATRIX = _block_matrix()


def double_resolution(planes: torch.Tensor) -> torch.Tensor:
    """Double the resolution of ``[1, C, h, w]`` float32: ``[1, C, 2h, 2w]``, the border repeated.

    Read bilinearly, the result gives what Lanczos' filter of three lobes gives of ``planes``. For a magnification of three both steps
    together take less than half the time of a bicubic look-up.
    """
    return _double_width(_double_width(planes).mT).mT


def _double_width(planes: torch.Tensor) -> torch.Tensor:
    """Double the resolution of ``[1, C, h, w]`` along its rows."""
    width = planes.shape[-1]
    padded = F.pad(planes, (LOBES, LOBES + -width % _BLOCK, 0, 0), "replicate")
    blocks = padded.unfold(3, _BLOCK + 2 * LOBES, _BLOCK).reshape(-1, _BLOCK + 2 * LOBES)
    return (blocks @ _BLOCK_MATRIX.to(planes.device)).view(*planes.shape[:3], -1)[..., : 2 * width]
