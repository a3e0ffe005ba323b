"""Canny's edge detector."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F

from ..progress import Progress, silent

_TAN_22_5 = np.tan(np.pi / 8)
# As many pictures as have this many pixels are done at once, because gradients take a dozen planes of memory.
_PIXELS_AT_A_TIME = 1 << 23


def canny(pictures: torch.Tensor, low: float = 100, high: float = 200, progress: Progress = silent) -> torch.Tensor:
    """Find the edges of pictures ``[N, H, W, 3]`` 0..1: ``[N, H, W]``, 0 or 1 (Canny 1986, as OpenCV does and ControlNets were trained).

    Gradients are Sobel's, 3×3, of the 8-bit picture; each pixel takes the colour that changes most, measured by the sum of both
    directions. A pixel whose gradient is the largest across its edge is an edge above ``high``, and also above ``low`` where it is
    connected to such a pixel.
    """
    low, high = sorted((low, high))
    count = max(1, _PIXELS_AT_A_TIME // (pictures.shape[1] * pictures.shape[2]))
    parts = []
    for start in range(0, len(pictures), count):
        ridges = _ridge_strength(pictures[start:start + count])
        parts.append(_connected_edges(ridges > low, ridges > high))
        progress(min(start + count, len(pictures)), len(pictures))
    return torch.cat(parts)


def _ridge_strength(pictures: torch.Tensor) -> torch.Tensor:
    """Compute the strength ``[N, H, W]`` of the gradient where it is the largest across its direction, and 0 elsewhere."""
    values = (pictures.movedim(-1, 1).to(torch.float32) * 255).round()
    across, down = _sobel(values)
    strength = across.abs() + down.abs()
    strength, channel = strength.max(1, keepdim=True)
    across, down = (part.gather(1, channel)[:, 0] for part in (across, down))
    padded = F.pad(strength[:, 0], (1, 1, 1, 1))
    height, width = across.shape[1:]

    def neighbour(dy: int, dx: int) -> torch.Tensor:
        return padded[:, 1 + dy:1 + dy + height, 1 + dx:1 + dx + width]

    here, x, y = neighbour(0, 0), across.abs(), down.abs()
    flat, steep = y < x * _TAN_22_5, y > x * (_TAN_22_5 + 2)
    falling = (across < 0) != (down < 0)
    along_row = (here > neighbour(0, -1)) & (here >= neighbour(0, 1))
    along_column = (here > neighbour(-1, 0)) & (here >= neighbour(1, 0))
    rising_diagonal = (here > neighbour(-1, 1)) & (here > neighbour(1, -1))
    falling_diagonal = (here > neighbour(-1, -1)) & (here > neighbour(1, 1))
    diagonal = torch.where(falling, rising_diagonal, falling_diagonal)
    return here * torch.where(flat, along_row, torch.where(steep, along_column, diagonal))


def _sobel(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute Sobel's differences to the right and downwards of ``[N, C, H, W]``, with the border repeated."""
    padded = F.pad(values, (1, 1, 1, 1), mode="replicate")
    rows = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    columns = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return rows[..., 2:] - rows[..., :-2], columns[:, :, 2:] - columns[:, :, :-2]


def _connected_edges(weak: torch.Tensor, strong: torch.Tensor) -> torch.Tensor:
    """Keep every 8-connected patch of ``weak`` pixels ``[N, H, W]`` that has a ``strong`` one: 1 there, 0 elsewhere."""
    from scipy.ndimage import label

    structure = np.zeros((3, 3, 3), int)
    structure[1] = 1
    # A number alone comes out only where ``label`` is given an array to write into.
    patches, count = cast("tuple[np.ndarray, int]", label(weak.cpu().numpy(), structure))
    kept = np.zeros(count + 1, bool)
    kept[patches[strong.cpu().numpy()]] = True
    kept[0] = False
    return torch.from_numpy(kept[patches]).to(weak.device, torch.float32)
