"""Pixel boost: a crop k times finer than a network sees, as k × k tiles of the network's own size.

Tile ``(i, j)`` holds every k-th pixel from row i and column j on, so every tile shows the whole face as the network was trained to see it;
joined again the tiles are one crop of k times the size.
"""

from __future__ import annotations

import numpy as np
import torch


def finer(matrix: np.ndarray, boost: float) -> np.ndarray:
    """Returns the matrices ``[..., 2, 3]`` image → crop of crops ``boost`` times as fine that show the same squares as ``matrix``.

    Pixels are areas: each becomes ``boost`` × ``boost`` smaller ones, so that the tiles lie evenly around the alignment
    the network was trained with.
    """
    out = np.asarray(matrix, np.float64) * boost
    out[..., 2] += (boost - 1) / 2
    return out


def split_tiles(crops: torch.Tensor, boost: int) -> torch.Tensor:
    """Splits crops ``[N, k·n, k·n, C]`` into tiles ``[N·k·k, n, n, C]``; the tiles of one crop follow each other, row by row."""
    count, edge, _, channels = crops.shape
    size = edge // boost
    tiles = crops.reshape(count, size, boost, size, boost, channels).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(count * boost * boost, size, size, channels)


def join_tiles(tiles: torch.Tensor, boost: int) -> torch.Tensor:
    """Joins tiles ``[N·k·k, n, n, C]`` to crops ``[N, k·n, k·n, C]``: the inverse of ``split_tiles``."""
    count, size, _, channels = tiles.shape
    crops = tiles.reshape(-1, boost, boost, size, size, channels).permute(0, 3, 1, 4, 2, 5)
    return crops.reshape(count // (boost * boost), size * boost, size * boost, channels)


def lattice_pattern(outputs: torch.Tensor, tiles: torch.Tensor, boost: int) -> torch.Tensor:
    """Returns ``[N, k·k, C]``: by how much each output tile is brighter than the mean of its crop's tiles, beyond what the input tiles
    differ by. A network that treats all tiles alike gives 0; anything else shows as a pattern that repeats every k pixels."""
    def deviation(crops: torch.Tensor) -> torch.Tensor:
        means = crops.mean((1, 2)).reshape(-1, boost * boost, crops.shape[-1])
        return means - means.mean(1, keepdim=True)

    return deviation(outputs) - deviation(tiles)


def even_tiles(outputs: torch.Tensor, tiles: torch.Tensor, boost: int) -> torch.Tensor:
    """Returns output tiles without their ``lattice_pattern``, so that no seams show when they are joined."""
    if boost == 1:
        return outputs
    pattern = lattice_pattern(outputs, tiles, boost)
    return outputs - pattern.reshape(-1, 1, 1, outputs.shape[-1])
