"""Takes the light of its own photograph out of a texture, so that a face lit from one side shows no dark half under any light.

A face is the same on both sides, to a close approximation; light is not. So the local brightness and colour of the skin are compared
with those at the mirrored place of the fitted 3-D face, and both halves are brought to their mean.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from ...face3d.fit import Fit, mean_face
from ...face3d.raster import rasterize
from ...parse.skin import fast_gaussian_blur, local_mean

# Width in eye distances of what is taken for light; features are finer.
_SIGMA = 0.10
# How much what may be brow, hair or background counts against what is certainly skin.
_ELSEWHERE = 0.3
_DARKEST = 0.02  # of a channel, below which noise is all there is
# No place is made more than this much brighter or darker.
_MOST = 3.0
# Spread of the skin's share of red and of green, for flat skin.
_LEAST_SPREAD = 0.012
# How squarely the photo must show a place, 0..1, and its mirror image, to be compared.
_FACING = 0.2


@lru_cache(maxsize=1)
def mirrored_vertices() -> np.ndarray:
    """Return for each vertex of the mean face the one at the mirrored place, ``[V]``."""
    vertices = mean_face().vertices
    mirrored = vertices * (-1, 1, 1)
    distances = ((mirrored[:, None] - vertices[None]) ** 2).sum(-1)
    return distances.argmin(1)


def even_light(image: torch.Tensor, fit: Fit, skin_zone: np.ndarray, facing: np.ndarray) -> torch.Tensor:
    """Return a texture ``[3, S, S]`` 0..1 with the same light on both halves of the face.

    fit: the face in it, in its pixels. skin_zone: ``[V]`` 0..1, vertices that are certainly skin. facing: ``[V]`` 0..1, how squarely the
    photo shows each vertex. Where one of two mirrored places is hidden nothing changes.
    """
    size = image.shape[-1]
    points, triangles, mirror = fit.project(), mean_face().triangles, mirrored_vertices()
    shown = np.clip((np.minimum(facing, facing[mirror]) - _FACING) / _FACING, 0, 1)
    attributes = np.concatenate([points[mirror, :2], np.stack([shown, _ELSEWHERE + (1 - _ELSEWHERE) * skin_zone], 1)], 1)
    values, covered = rasterize(points, triangles, attributes, size)
    place, inside = torch.from_numpy(values), torch.from_numpy(covered).float()[None]
    eye_distance = fit.scale * 6.3
    level = image.clamp_min(_DARKEST).log()
    skin = place[..., 3][None] * inside * _hue_of_skin(image, place[..., 3] * inside[0])[None]
    light = local_mean(level, skin, _SIGMA * eye_distance)
    known = fast_gaussian_blur(skin, _SIGMA * eye_distance)
    grid = (place[..., :2] + 0.5) * (2 / size) - 1
    beyond = F.grid_sample(torch.cat([light, known])[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]
    sure = (torch.minimum(known, beyond[3:]) / 0.05).clamp(0, 1) * place[..., 2][None] * inside
    change = 0.5 * (beyond[:3] - light) * sure
    change = fast_gaussian_blur(change, 0.04 * eye_distance)
    return (image * change.clamp(-np.log(_MOST), np.log(_MOST)).exp()).clamp(0, 1)


def _hue_of_skin(image: torch.Tensor, zone: torch.Tensor) -> torch.Tensor:
    """Return how much each pixel of ``image`` ``[3, S, S]`` has the hue of the skin, ``[S, S]`` 0..1, in light and shadow alike: what lies
    before a face says nothing about its light. zone: ``[S, S]``, 1 where skin is certain."""
    hue = image[:2] / image.sum(0, keepdim=True).clamp_min(_DARKEST)
    known = hue[:, zone > 0.5]
    if not known.numel():
        return torch.ones_like(zone)
    middle = known.median(1, keepdim=True).values
    spread = (1.48 * (known - middle).abs().median(1, keepdim=True).values).clamp_min(_LEAST_SPREAD)
    distance = (((hue - middle[..., None]) / spread[..., None]) ** 2).sum(0)
    return torch.exp(-(distance - 5).clamp_min(0) / 4)
