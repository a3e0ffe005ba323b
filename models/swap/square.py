"""The square of a photograph that a network swaps: sampled in the network's own alignment, and drawn into the canonical crop."""

from __future__ import annotations

import numpy as np
import torch

from ..crops.crop import crop_matrices
from ..crops.draw_back import draw_back
from ..faces import Faces
from ..parse import region_mask
from ..pixels.affine import compose, invert
from ..pixels.sampling import sample_crops
from .pixel_boost import even_tiles, join_tiles, split_tiles


def sample_tiles(images: torch.Tensor, faces: Faces, to_square: np.ndarray, edge: int, boost: int) -> torch.Tensor:
    """Samples the squares of ``faces`` from ``images`` ``[B, H, W, 3]``, straight through image → square matrices ``[N, 2, 3]``.

    Returns ``[N·boost·boost, edge/boost, edge/boost, 3]``: the tiles of squares of ``edge`` pixels, see ``split_tiles``.
    """
    return split_tiles(sample_crops(images, faces.frame_indices, to_square, edge), boost)


def join_outputs(outputs: torch.Tensor, tiles: torch.Tensor, boost: int) -> torch.Tensor:
    """Joins a network's outputs for ``tiles`` ``[N·boost·boost, n, n, 3]`` without seams. Returns ``[N, n·boost, n·boost, 3]``."""
    return join_tiles(even_tiles(outputs, tiles, boost), boost)


def draw_outputs(outputs: torch.Tensor, own_masks: torch.Tensor | None, to_square: np.ndarray, faces: Faces, crops: torch.Tensor,
                 masks: torch.Tensor, share: float = 1.0) -> None:
    """Draws outputs ``[N, E, E, 3]`` into ``crops`` ``[N, S, S, 3]``, and writes into ``masks`` ``[N, S, S]`` where they show.

    own_masks: the network's masks ``[N, e, e, 1]``; None: the outlines of the faces. to_square: image → outputs, ``[N, 2, 3]``. share: how
    much of the outputs, and how much of the crops, shows there.
    """
    size = crops.shape[1]
    outlines = region_mask(("face",), size, faces=faces).to(crops) if own_masks is None else own_masks
    for each in zip(crops, masks, outputs, compose(crop_matrices(faces, size), invert(to_square)), outlines, strict=True):
        draw_back(*each, share)
