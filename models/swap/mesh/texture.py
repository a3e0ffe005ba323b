"""What is made once per reference photo of the source: the texture of its 3-D face."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from ...face3d.fit import Fit, mean_face
from ...face3d.raster import rasterize, vertex_normals
from ...parse.skin import skin_likelihood
from .delight import even_light
from .zones import zones


@dataclass(frozen=True, eq=False)
class Texture:
    """The texture of a 3-D face, from one reference photo.

    image: ``[3, S, S]``. fit: the face in it, in its pixels. skin: ``[1, S, S]``, how likely each pixel is skin. facing: ``[V]``, how
    squarely the photo shows each vertex, 0 (edge-on or hidden) to 1.
    """

    image: torch.Tensor
    fit: Fit
    skin: torch.Tensor
    facing: np.ndarray

    def to(self, device: torch.device) -> Texture:
        """Returns the texture on a device."""
        return replace(self, image=self.image.to(device), skin=self.skin.to(device))


@dataclass(frozen=True, eq=False)
class ReferencePhoto:
    """A reference photo of the source: its crop ``[S, S, 3]`` and the face fitted to it. Most photos of an identity are never drawn, so
    the texture is made when it is first used."""

    crop: np.ndarray
    fit: Fit

    @cached_property
    def texture(self) -> Texture:
        """The photo's texture, on the CPU, without the photo's own light from one side."""
        points = self.fit.project()
        shown = facing(points)
        image = even_light(torch.from_numpy(np.array(self.crop)).permute(2, 0, 1), self.fit, zones().sure, shown)
        sure, covered = rasterize(points, mean_face().triangles, zones().sure[:, None], image.shape[1])
        skin = skin_likelihood(image.permute(1, 2, 0), torch.from_numpy(sure[..., 0] * covered))
        return Texture(image, self.fit, skin[None], shown)


def facing(points: np.ndarray) -> np.ndarray:
    """Returns ``[V]``: how squarely each vertex faces the camera, 0 (edge-on, behind, or hidden by the nose) to 1."""
    triangles = mean_face().triangles
    squarely = np.clip(-vertex_normals(points, triangles)[:, 2], 0, 1)
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    scale = 127 / (high - low).max()
    small = np.concatenate([(points[:, :2] - low) * scale, points[:, 2:] * scale], 1)
    depth, covered = rasterize(small, triangles, small[:, 2:], 128)
    x, y = np.clip(small[:, :2].round().astype(int), 0, 127).T
    hidden = covered[y, x] & (depth[y, x, 0] < small[:, 2] - 6)
    return np.where(hidden, 0, squarely)
