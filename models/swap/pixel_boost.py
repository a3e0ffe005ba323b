"""Pixel boost: a picture k times finer than a network sees, as k × k pictures of the network's own size.

Tile ``(i, j)`` holds every k-th pixel from row i and column j on, so every tile shows the whole face and the network is on home ground;
put back together they are one picture of k times the size.
"""

from __future__ import annotations

import numpy as np
import torch

MAX_BOOST = 8


def finer(matrix: np.ndarray, boost: float) -> np.ndarray:
    """Image → crop ``[..., 2, 3]`` to the matrix of a crop ``boost`` times as fine that shows the same square.

    Pixels are areas: each becomes ``boost`` × ``boost`` smaller ones, so that the tiles lie evenly around the alignment
    the network was trained with.
    """
    out = np.asarray(matrix, np.float64) * boost
    out[..., 2] += (boost - 1) / 2
    return out


def split_tiles(pictures: torch.Tensor, boost: int) -> torch.Tensor:
    """``[N, k·n, k·n, C]`` to ``[N·k·k, n, n, C]``; the tiles of one picture follow each other, row by row."""
    count, edge, _, channels = pictures.shape
    size = edge // boost
    tiles = pictures.reshape(count, size, boost, size, boost, channels).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(count * boost * boost, size, size, channels)


def join_tiles(tiles: torch.Tensor, boost: int) -> torch.Tensor:
    """The inverse of ``split_tiles``."""
    count, size, _, channels = tiles.shape
    pictures = tiles.reshape(-1, boost, boost, size, size, channels).permute(0, 3, 1, 4, 2, 5)
    return pictures.reshape(count // (boost * boost), size * boost, size * boost, channels)


def lattice_pattern(answers: torch.Tensor, tiles: torch.Tensor, boost: int) -> torch.Tensor:
    """``[N, k·k, C]``: by how much each answered tile is brighter than the mean of its picture's tiles, beyond what the tiles that went
    in differ by. A network that treats all tiles alike gives 0; anything else shows as a pattern that repeats every k pixels."""
    def deviation(pictures: torch.Tensor) -> torch.Tensor:
        means = pictures.mean((1, 2)).reshape(-1, boost * boost, pictures.shape[-1])
        return means - means.mean(1, keepdim=True)

    return deviation(answers) - deviation(tiles)


def even_tiles(answers: torch.Tensor, tiles: torch.Tensor, boost: int) -> torch.Tensor:
    """The answers with their ``lattice_pattern`` taken out, so that no seams show when they are joined."""
    if boost == 1:
        return answers
    pattern = lattice_pattern(answers, tiles, boost)
    return answers - pattern.reshape(-1, 1, 1, answers.shape[-1])
