"""Pictures made twice as fine, so that a bilinear look-up is all that a large magnification takes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

LOBES = 3
# A bilinear look-up of a picture that was made twice as fine takes sinc²(f / 2) of it, f cycles an old pixel: about (πf)² / 12 too much.
# So much is given before: each new pixel is sharpened by this much of what sets it apart from the new ones beside it.
_SHARPEN = 1 / 12
# Whole stretches of pixels are multiplied by one matrix; the longer, the more of it is zeros.
_STRETCH = 32


def lanczos(x: torch.Tensor) -> torch.Tensor:
    """Lanczos' windowed sinc of three lobes (Duchon 1979, Lanczos filtering in one and two dimensions) at ``x`` pixels from its middle."""
    return torch.sinc(x) * torch.sinc(x / LOBES) * (x.abs() < LOBES)


def _weights() -> torch.Tensor:
    """``[7, 2]``: the new pixels a quarter before and after an old one, from that and three on either side. Lanczos' filter sharpened, then
    a sum of 1 and a middle in the right place: slopes stay exact."""
    old = torch.arange(-LOBES, LOBES + 1, dtype=torch.float64)
    columns = []
    for new in (-0.25, 0.25):
        there, before, after = (lanczos(old - at) for at in (new, new - 0.5, new + 0.5))
        column = there + _SHARPEN * (2 * there - before - after)
        column /= column.sum()
        size = column.abs()
        lever = size * (old - (size * old).sum() / size.sum())
        columns.append(column + (new - (column * old).sum()) * lever / (lever * old).sum())
    return torch.stack(columns, 1)


def _matrix() -> torch.Tensor:
    """A stretch of old pixels and what is beside it → new pixels."""
    weights, out = _weights().float(), torch.zeros(_STRETCH + 2 * LOBES, 2 * _STRETCH)
    for i in range(_STRETCH):
        out[i : i + 2 * LOBES + 1, 2 * i : 2 * i + 2] = weights
    return out


_MATRIX = _matrix()


def twice(planes: torch.Tensor) -> torch.Tensor:
    """``[1, C, h, w]`` float32 as ``[1, C, 2h, 2w]``, the border repeated: read bilinearly, it gives what Lanczos' filter of three lobes
    gives of ``planes``; where it is read at three times the size, in less than half the time of a bicubic look-up."""
    return _along(_along(planes).mT).mT


def _along(planes: torch.Tensor) -> torch.Tensor:
    width = planes.shape[-1]
    padded = F.pad(planes, (LOBES, LOBES + -width % _STRETCH, 0, 0), "replicate")
    stretches = padded.unfold(3, _STRETCH + 2 * LOBES, _STRETCH).reshape(-1, _STRETCH + 2 * LOBES)
    return (stretches @ _MATRIX.to(planes.device)).view(*planes.shape[:3], -1)[..., : 2 * width]
