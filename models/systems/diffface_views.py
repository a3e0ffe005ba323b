"""Random views of a face for identity guidance as DiffFace takes them: rotated, shifted and in perspective (Kim et al. 2022).

Positions are shares of the crop's edge, 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_MAX_ROTATION = 15.0  # degrees
_MAX_SHIFT = 0.1  # of the crop's edge
_MAX_CORNER_SHIFT = 0.7  # how far a corner moves towards the middle at most, 1 being all the way
_CHANCE = 0.7  # of each of both changes
_CORNERS = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)


@dataclass(frozen=True, eq=False)
class View:
    """Where a view's pixels come from: ``perspective`` takes output positions to the rotated crop, ``rotation`` those to the crop.
    Both are homographies ``[3, 3]``."""

    perspective: np.ndarray
    rotation: np.ndarray

    @property
    def unchanged(self) -> bool:
        """Whether the view shows the crop as it is."""
        return bool((self.perspective == np.eye(3)).all() and (self.rotation == np.eye(3)).all())


UNCHANGED = View(np.eye(3), np.eye(3))


def random_view(random: np.random.Generator) -> View:
    """Return a random view; one in eleven changes nothing."""
    rotation, perspective = np.eye(3), np.eye(3)
    if random.random() < _CHANCE:
        angle = np.deg2rad(random.uniform(-_MAX_ROTATION, _MAX_ROTATION))
        rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        rotation[:2, 2] = 0.5 - rotation[:2, :2] @ [0.5, 0.5] + random.uniform(-_MAX_SHIFT, _MAX_SHIFT, 2)
    if random.random() < _CHANCE:
        perspective = homography(_CORNERS + _MAX_CORNER_SHIFT * (0.5 - _CORNERS) * random.random((4, 2)), _CORNERS)
    return View(perspective, rotation)


def homography(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the matrix ``[3, 3]`` that takes four points ``[4, 2]`` to four others."""
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    return np.append(np.linalg.solve(np.array(rows), target.reshape(-1)), 1).reshape(3, 3)


def apply_view(crop: Tensor, view: View) -> Tensor:
    """Return a crop ``[C, n, n]`` as the view shows it, in the same shape and with a gradient.

    Beyond the crop's border a rotated one repeats its border pixels, and one in perspective is 0.
    """
    if view.unchanged:
        return crop
    size = crop.shape[-1]
    positions = (np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1) + 0.5) / size
    positions = _apply_homography(view.perspective, positions)
    inside = ((positions >= 0) & (positions <= 1)).all(-1)
    grid = torch.from_numpy(2 * _apply_homography(view.rotation, positions) - 1).to(crop)
    sampled = F.grid_sample(crop[None], grid[None], padding_mode="border", align_corners=False)[0]
    return sampled * torch.from_numpy(inside).to(crop)


def _apply_homography(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return moved[..., :2] / moved[..., 2:]
