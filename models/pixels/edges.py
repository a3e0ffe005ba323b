"""Canny's edges."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..progress import Progress, silent

_TANGENT = np.tan(np.pi / 8)
# Pictures of this many pixels at a time: gradients take a dozen planes.
_CHUNK = 1 << 23


def canny(pictures: torch.Tensor, low: float = 100, high: float = 200, progress: Progress = silent) -> torch.Tensor:
    """Edges ``[N, H, W]`` (0 or 1) of ``[N, H, W, 3]`` 0..1 (Canny 1986), as OpenCV defines them and ControlNets were trained on.

    Sobel's 3×3 gradients of the 8-bit picture, in each pixel of the colour that changes most, measured by the sum of both directions.
    Where one is the largest across its edge it is an edge above ``high``, and above ``low`` if it hangs together with such a one.
    """
    low, high = sorted((low, high))
    rows = max(1, _CHUNK // (pictures.shape[1] * pictures.shape[2]))
    parts = []
    for start in range(0, len(pictures), rows):
        ridges = _ridges(pictures[start:start + rows])
        parts.append(_connected(ridges > low, ridges > high))
        progress(min(start + rows, len(pictures)), len(pictures))
    return torch.cat(parts)


def _ridges(pictures: torch.Tensor) -> torch.Tensor:
    """Strength ``[N, H, W]`` of the gradient where it is the largest across its direction, 0 elsewhere."""
    values = (pictures.movedim(-1, 1).to(torch.float32) * 255).round()
    across, down = _sobel(values)
    strength = across.abs() + down.abs()
    strength, channel = strength.max(1, keepdim=True)
    across, down = (part.gather(1, channel)[:, 0] for part in (across, down))
    padded = F.pad(strength[:, 0], (1, 1, 1, 1))
    height, width = across.shape[1:]

    def beside(dy: int, dx: int) -> torch.Tensor:
        return padded[:, 1 + dy:1 + dy + height, 1 + dx:1 + dx + width]

    here, x, y = beside(0, 0), across.abs(), down.abs()
    flat, steep = y < x * _TANGENT, y > x * (_TANGENT + 2)
    falling = (across < 0) != (down < 0)
    along_row = (here > beside(0, -1)) & (here >= beside(0, 1))
    along_column = (here > beside(-1, 0)) & (here >= beside(1, 0))
    rising_diagonal = (here > beside(-1, 1)) & (here > beside(1, -1))
    falling_diagonal = (here > beside(-1, -1)) & (here > beside(1, 1))
    diagonal = torch.where(falling, rising_diagonal, falling_diagonal)
    return here * torch.where(flat, along_row, torch.where(steep, along_column, diagonal))


def _sobel(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences to the right and downwards of ``[N, C, H, W]``, the border repeated."""
    padded = F.pad(values, (1, 1, 1, 1), mode="replicate")
    rows = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    columns = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return rows[..., 2:] - rows[..., :-2], columns[:, :, 2:] - columns[:, :, :-2]


def _connected(weak: torch.Tensor, strong: torch.Tensor) -> torch.Tensor:
    """1 in every 8-connected patch of ``weak`` ``[N, H, W]`` that has a ``strong`` pixel."""
    from scipy.ndimage import label

    structure = np.zeros((3, 3, 3), int)
    structure[1] = 1
    patches, count = label(weak.cpu().numpy(), structure)
    kept = np.zeros(count + 1, bool)
    kept[patches[strong.cpu().numpy()]] = True
    kept[0] = False
    return torch.from_numpy(kept[patches]).to(weak.device, torch.float32)
