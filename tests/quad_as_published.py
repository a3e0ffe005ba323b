"""Cuts FFHQ's crop and draws it back with PIL in 8 bits, exactly as published programs do: what FaceLoom's way is measured by.

A quad is the four corners ``[4, 2]`` of FFHQ's crop in image pixels: upper left, lower left, lower right, upper right.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from faceloom.models.crops.squares import quad_square
from faceloom.models.faces import Face, Faces
from faceloom.models.pixels.affine import invert, transform
from faceloom.models.pixels.tensors import to_uint8
from PIL import Image
from torch import Tensor

_CORNERS = np.array([[0, 0], [0, 1], [1, 1], [1, 0]], np.float64)


def quad_of(face: Face) -> np.ndarray:
    """Return the quad ``[4, 2]`` of a face."""
    return transform(_CORNERS, invert(quad_square(face)))


def cut(photo: np.ndarray, quad: np.ndarray, size: int) -> np.ndarray:
    """Cut the quad out of a photo ``[H, W, 3]`` uint8: ``[size, size, 3]`` uint8, black where the quad reaches outside."""
    picture = Image.fromarray(photo)
    shrink = int(np.hypot(*(quad[3] - quad[0])) / size / 2)
    if shrink > 1:  # FFHQ's own preparation of very large faces
        picture = picture.resize((round(picture.width / shrink), round(picture.height / shrink)), Image.Resampling.LANCZOS)
        quad = quad / shrink
    corners = tuple((quad + 0.5).flatten())
    return np.array(picture.transform((size, size), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR))


def perspective_coefficients(quad: np.ndarray, size: int) -> np.ndarray:
    """Solve for the ``[8]`` coefficients of PIL's perspective transform that draws a crop of ``size`` pixels into its quad."""
    rows, values = [], []
    for (x, y), (u, v) in zip(quad + 0.5, _CORNERS * size, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]


def put_back(photo: np.ndarray, crop: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """Return a photo ``[H, W, 3]`` uint8 with a square crop drawn over its whole quad."""
    layer = Image.fromarray(crop).convert("RGBA").transform(
        photo.shape[1::-1], Image.Transform.PERSPECTIVE, tuple(perspective_coefficients(quad, len(crop))), Image.Resampling.BILINEAR)
    return np.array(Image.alpha_composite(Image.fromarray(photo).convert("RGBA"), layer).convert("RGB"))


def cut_squares(images: Tensor, faces: Faces, size: int, cut: Callable[[np.ndarray, np.ndarray, int], np.ndarray] = cut) -> Tensor:
    """Cut every face's quad out of photos ``[B, H, W, 3]`` 0..1 by ``cut``: ``[N, size, size, 3]`` 0..1 in steps of a 255th."""
    photos = {frame: to_uint8(images[frame]) for frame in set(faces.frame_indices.tolist())}
    crops = np.stack([cut(photos[face.frame], quad_of(face), size) for face in faces])
    return torch.from_numpy(crops).float().div(255).to(images.device)


def draw_squares(images: Tensor, faces: Faces, crops: np.ndarray, draw: Callable[..., np.ndarray] = put_back) -> Tensor:
    """Return photos ``[B, H, W, 3]`` 0..1 with the crops ``[N, S, S, 3]`` uint8 drawn over their quads by ``draw``, one after the other.

    Pixels that this does not change keep their float value.
    """
    out = images.clone()
    for face, crop in zip(faces, crops, strict=True):
        before = to_uint8(out[face.frame])
        drawn = draw(before, crop, quad_of(face))
        changed = torch.from_numpy(drawn != before).to(out.device)
        out[face.frame] = torch.where(changed, torch.from_numpy(drawn).to(out).div(255), out[face.frame])
    return out


def paste_as_published(images: Tensor, faces: Faces, painted: Tensor, size: int = 1024) -> Tensor:
    """Draw every crop that REFace painted over its whole square in the photos ``[B, H, W, 3]``, without a mask."""
    large = F.interpolate(painted.movedim(-1, 1), (size, size), mode="bilinear", align_corners=False).movedim(1, -1)
    return draw_squares(images, faces, to_uint8(large))
