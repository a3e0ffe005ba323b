"""Random looks at a face for identity guidance as DiffFace takes them: turned, shifted and seen at a slant (Kim et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Degrees, shares of the picture's edge, how far corners move towards the middle (1: all the way), and how often each change is made.
_TURN, _SHIFT, _SLANT, _OFTEN = 15.0, 0.1, 0.7, 0.7
_CORNERS = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)


@dataclass(frozen=True, eq=False)
class Look:
    """Where a view's pixels come from: output → the slanted picture's square (edges 0 and 1) → the picture."""

    slant: np.ndarray
    turn: np.ndarray

    @property
    def plain(self) -> bool:
        return bool((self.slant == np.eye(3)).all() and (self.turn == np.eye(3)).all())


PLAIN = Look(np.eye(3), np.eye(3))


def random_look(random: np.random.Generator) -> Look:
    """A look that changes nothing one time in eleven."""
    turn, slant = np.eye(3), np.eye(3)
    if random.random() < _OFTEN:
        angle = np.deg2rad(random.uniform(-_TURN, _TURN))
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        turn[:2, 2] = 0.5 - turn[:2, :2] @ [0.5, 0.5] + random.uniform(-_SHIFT, _SHIFT, 2)
    if random.random() < _OFTEN:
        slant = homography(_CORNERS + _SLANT * (0.5 - _CORNERS) * random.random((4, 2)), _CORNERS)
    return Look(slant, turn)


def homography(points: np.ndarray, images: np.ndarray) -> np.ndarray:
    """``[3, 3]`` that takes four points ``[4, 2]`` to four others."""
    rows = []
    for (x, y), (u, v) in zip(points, images, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    return np.append(np.linalg.solve(np.array(rows), images.reshape(-1)), 1).reshape(3, 3)


def view(picture: Tensor, look: Look) -> Tensor:
    """``[C, n, n]`` as it looks, same shape, with a gradient. Beyond its border a turned picture goes on, a slanted one is 0."""
    if look.plain:
        return picture
    size = picture.shape[-1]
    places = (np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1) + 0.5) / size
    places = _through(look.slant, places)
    inside = ((places >= 0) & (places <= 1)).all(-1)
    grid = torch.from_numpy(2 * _through(look.turn, places) - 1).to(picture)
    seen = F.grid_sample(picture[None], grid[None], padding_mode="border", align_corners=False)[0]
    return seen * torch.from_numpy(inside).to(picture)


def _through(matrix: np.ndarray, places: np.ndarray) -> np.ndarray:
    moved = places @ matrix[:, :2].T + matrix[:, 2]
    return moved[..., :2] / moved[..., 2:]
