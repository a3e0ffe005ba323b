"""Drawing a texture over one face: the mask, the parts that stay the target's, and the sampling."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ...face3d.expression import eye_openings, mouth_opening, transfer_shape
from ...face3d.fit import Fit, mean_face
from ...face3d.raster import rasterize
from ...face3d.topology import FACE_OVAL, INNER_LIPS, OUTER_LIPS
from ...parse.skin import fast_gaussian_blur, skin_likelihood
from ...pixels.affine import scale_of, transform
from ...pixels.masks import signed_distance
from .light import relight
from .texture import Texture, facing
from .zones import zones

# Width of the mask's soft border, in eye distances.
_BORDER = 0.06
# How much darker or brighter than the cheek the side of a face may be and still count as skin.
_SHADOW = 0.15


def draw(crop: torch.Tensor, matrix: np.ndarray, target: Fit, texture: Texture, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws the source over one face. matrix: photo → crop. Returns the crop ``[S, S, 3]`` and the mask ``[S, S]`` of what changed."""
    size = len(crop)
    device = crop.device
    parts = zones()
    head = target.head + strength * (transfer_shape(texture.fit, target) - target.head)
    own, drawn = target.project(), target.project(head)
    own[:, :2], drawn[:, :2] = transform(own[:, :2], matrix), transform(drawn[:, :2], matrix)
    to_crop = float(scale_of(matrix))
    drawn[:, 2] *= to_crop
    visible = np.maximum(_visible(texture.facing, facing(drawn)), parts.core)
    attributes = np.concatenate([_texture_points(texture.fit, target), own[:, :2],
                                 np.stack([visible, parts.sure, parts.forehead, parts.side], 1)], 1)  # fmt: skip
    values, covered = rasterize(drawn, mean_face().triangles, attributes, size)
    values = torch.from_numpy(values).to(device)
    covered = torch.from_numpy(covered).to(device, torch.float32)

    shrink = texture.fit.scale / (target.scale * to_crop)
    painted = _sample(texture.image, values[..., :2], shrink)
    source_skin = _sample(texture.skin, values[..., :2], shrink)[0]
    visible, sure, forehead, side = values[..., 4:].unbind(-1)
    skin = skin_likelihood(crop, sure * covered, _SHADOW * side * (1 - forehead))

    eye_distance = target.scale * to_crop * 6.3
    rounded = fast_gaussian_blur(covered[None], 0.1 * eye_distance) * (covered > 0)
    soft = (-signed_distance(rounded, 0.2 * eye_distance)[0] / (_BORDER * eye_distance)).clamp(0, 1)
    soft = soft * soft * (3 - 2 * soft)
    upper = torch.maximum(forehead, side)
    mask = soft * visible * (1 - upper * (1 - skin)) * (1 - torch.maximum(forehead, 0.5 * side) * (1 - source_skin))

    target_colors = crop.permute(2, 0, 1)
    mask = (mask * (1 - _kept_parts(drawn, texture.fit, target, size, device))).clamp(0, 1)
    painted = relight(painted, target_colors, mask, skin * source_skin * covered, eye_distance)
    if strength < 1:
        own_colors = _sample(target_colors, values[..., 2:4], 1.0)
        painted = own_colors + strength * (painted - own_colors)
    out = target_colors + mask * (painted - target_colors)
    return out.permute(1, 2, 0).clamp(0, 1), (4 * mask).clamp(0, 1)


def _texture_points(source: Fit, target: Fit) -> np.ndarray:
    """Returns the pixels of the source's image ``[V, 2]`` that the vertices show.

    The outline's are a little inside the source's, so that an outline drawn a pixel too wide brings no background. Where the source's
    open mouth has to close, the inner lips' are on the lips rather than on the teeth.
    """
    points = source.project()[:, :2]
    middle = points[[4, 168, 152]].mean(0)
    points[list(FACE_OVAL)] += 0.03 * (middle - points[list(FACE_OVAL)])
    closing = np.clip((mouth_opening(source.head) - mouth_opening(target.head)) / 0.15, 0, 1)
    points[list(INNER_LIPS)] += 0.35 * closing * (points[list(OUTER_LIPS)] - points[list(INNER_LIPS)])
    return points


def _visible(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Compares how squarely both photos show each vertex, ``[V]``: 1 where the source's does at least half as squarely as the target's,
    0 where it hardly shows the vertex."""
    ratio = source / np.maximum(target, 0.15)
    return np.clip((ratio - 0.15) / 0.35, 0, 1)


def _sample(image: torch.Tensor, at: torch.Tensor, shrink: float) -> torch.Tensor:
    """Samples ``image`` ``[C, H, W]`` at pixel positions ``[S, S, 2]``. Returns ``[C, S, S]``.

    shrink: how many pixels of the image fall on one sample; they are averaged.
    """
    height, width = image.shape[-2:]
    if shrink > 1.3:
        small = (max(1, round(height / shrink)), max(1, round(width / shrink)))
        image = F.interpolate(image[None], size=small, mode="area")[0]
    scale = torch.tensor([2 / width, 2 / height], device=at.device)
    grid = (at + 0.5) * scale - 1
    return F.grid_sample(image[None], grid[None], mode="bicubic", padding_mode="border", align_corners=False)[0].clamp(0, 1)


def _kept_parts(drawn: np.ndarray, source: Fit, target: Fit, size: int, device: torch.device) -> torch.Tensor:
    """Masks ``[size, size]`` where the target's own pixels stay: the inside of its mouth where the source's is not as open, and eyes that
    are opened very differently from the source's. drawn: the vertices ``[V, 3]`` in the crop's pixels."""
    face, triangles = zones(), mean_face().triangles
    parts = []
    if abs(mouth_opening(source.head) - mouth_opening(target.head)) > 0.06:
        parts.append((face.mouth, 0.012))
    for i, (source_eye, target_eye) in enumerate(zip(eye_openings(source.head), eye_openings(target.head), strict=True)):
        if not 0.55 < source_eye / max(target_eye, 1e-3) < 1.8:
            parts.append((face.eyes[:, i], 0.02))
    kept = torch.zeros((size, size), device=device)
    for inside, softness in parts:
        _, covered = rasterize(drawn, triangles[(inside[triangles] > 0).all(1)], inside[:, None], size)
        part = torch.from_numpy(covered).to(device, torch.float32)
        kept = torch.maximum(kept, fast_gaussian_blur(part[None], max(0.8, softness * size * 0.25))[0])
    return kept
