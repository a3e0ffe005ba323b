"""The built-in engine: the source's photograph as texture of a 3-D face, drawn in the target's pose.

The graphics method of FaceSwap (2017), with what it lacked: shape and expression kept apart (``face3d/expression.py``), visibility
in both photographs, hair and hat left alone, the target's own mouth, and the light of the scene.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from ..crops.crop import crop_faces, crop_matrix
from ..errors import FaceLoomError
from ..face3d.expression import distance_to_ring, eye_openings, mouth_opening, nearest_pose, reference_fits, transfer_shape
from ..face3d.fit import Fit, fit_face, mean_face
from ..face3d.raster import rasterize, vertex_normals
from ..face3d.topology import FACE_OVAL, INNER_LIPS, LEFT_BROW, LEFT_EYE, OUTER_LIPS, RIGHT_BROW, RIGHT_EYE
from ..faces import Faces, Identity
from ..parse.skin import fast_gaussian_blur, local_mean, skin_likelihood
from ..pixels.affine import scale_of, transform
from ..pixels.masks import signed_distance
from ..progress import Progress, silent
from . import USUAL, SwapSettings

_FEATHER = 0.06  # width of the mask's soft border, in eye distances
_SHADOW = 0.15  # how much darker or brighter than the cheek the side of a face may be
_SHADING = 0.6  # how much of the scene's shading, part against part of the face, is taken over
_CONTRAST = 0.7  # how much of the contrast is kept where the light is lowered
_GAIN = 3.0  # the scene's light may make the texture this much brighter or darker


@dataclass(frozen=True, eq=False)
class Texture:
    """One reference photo of the source. picture: ``[3, S, S]``. fit: the head in it, in its pixels. skin: ``[1, S, S]``, how likely each
    pixel is skin. facing: ``[V]``, how squarely the photo shows each vertex."""

    picture: torch.Tensor
    fit: Fit
    skin: torch.Tensor
    facing: np.ndarray

    def to(self, device: torch.device) -> Texture:
        """Returns the texture on a device."""
        return replace(self, picture=self.picture.to(device), skin=self.skin.to(device))


class MeshEngine:
    """A ``SwapEngine`` that draws the source's photo on a fitted 3-D face. Needs no network and no GPU."""

    name = "mesh"

    def prepare(self, identity: Identity) -> list[Texture]:
        """Returns the heads of the reference photos and their textures."""
        if not len(identity.crops):
            raise FaceLoomError("This identity has no photograph in it, only an embedding; use a network as swap_model, or make the "
                                "identity from photos with ArcFace Embed.")  # fmt: skip
        return [_texture(crop, fit) for crop, fit in zip(identity.crops, reference_fits(identity), strict=True)]

    def check_settings(self, settings: SwapSettings) -> None:
        """Raises FaceLoomError for settings that ``swap`` refuses."""
        settings.check("The built-in warp can only show the source photo as it is; use a strength from 0 to 1, or a swap model.")

    def swap(self, images: torch.Tensor, faces: Faces, source: list[Texture], settings: SwapSettings = USUAL, progress: Progress = silent
             ) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``SwapEngine.swap``; the masks are 1 wherever the crop differs from the photograph.

        ``strength`` morphs shape and colour from the target (0) to the source (1); a photo has no more to give, so more is an error.
        ``pixel_boost`` has no meaning here: the texture is drawn at the crop's own resolution.
        """
        self.check_settings(settings)
        size = settings.edge(faces)
        crops = crop_faces(images, faces, size)
        masks = torch.zeros(crops.shape[:3], device=crops.device)
        if settings.strength == 0:
            return crops, masks
        references = [texture.fit for texture in source]
        for i, face in enumerate(faces):
            target = fit_face(face)
            texture = source[nearest_pose(references, target)].to(crops.device)
            crops[i], masks[i] = _draw(crops[i], crop_matrix(face, size, faces.framing), target, texture, settings.strength)
            progress(i + 1, len(faces))
        return crops, masks


def _texture(crop: np.ndarray, fit: Fit) -> Texture:
    """The texture of a reference photo ``[S, S, 3]``."""
    picture = torch.from_numpy(np.array(crop))
    points = fit.project()
    zones, covered = rasterize(points, mean_face().triangles, _zones().sure[:, None], len(picture))
    skin = skin_likelihood(picture, torch.from_numpy(zones[..., 0] * covered))
    return Texture(picture.permute(2, 0, 1), fit, skin[None], _facing(points))


@dataclass(frozen=True, eq=False)
class Zones:
    """Weights 0..1 per vertex. sure: certainly skin. core: nose and mouth, which every photograph shows. brow_up: the forehead, where
    hair begins. side: along cheeks and temples. mouth: inside the lips. eyes: ``[V, 2]`` inside the left and right lids."""

    sure: np.ndarray
    core: np.ndarray
    brow_up: np.ndarray
    side: np.ndarray
    mouth: np.ndarray
    eyes: np.ndarray


@lru_cache(maxsize=1)
def _zones() -> Zones:
    """The zones of the mean face, whose vertices every face has."""
    v = mean_face().vertices
    to_outline = distance_to_ring(v, FACE_OVAL)
    to_outline[468:] = 0
    lids = np.minimum(distance_to_ring(v, LEFT_EYE), distance_to_ring(v, RIGHT_EYE))
    y = v[:, 1]
    core = np.clip((4.5 - np.minimum(distance_to_ring(v, (4,)), distance_to_ring(v, INNER_LIPS))) / 1.5, 0, 1)
    sure = ((lids > 0.9) & (to_outline > 1.2) & (y > -1.5) & (y < 3.2)).astype(np.float64)
    brows = v[list(LEFT_BROW[:5] + RIGHT_BROW[:5])]
    brow_up = np.clip((np.interp(v[:, 0], brows[:, 0], brows[:, 1]) - 0.15 - y) / 0.6, 0, 1)
    side = np.clip((1.8 - to_outline) / 1.0, 0, 1) * np.clip((4.0 - y) / 1.5, 0, 1)
    mouth, eyes = np.zeros(len(v)), np.zeros((len(v), 2))
    mouth[list(INNER_LIPS)] = 1
    for i, ring in enumerate((LEFT_EYE, RIGHT_EYE)):
        eyes[list(ring), i] = 1
    return Zones(sure, core, brow_up, side, mouth, eyes)


def _facing(points: np.ndarray) -> np.ndarray:
    """``[V]``: how squarely each vertex faces the camera, 0 (edge-on, behind, or hidden by the nose) to 1."""
    triangles = mean_face().triangles
    facing = np.clip(-vertex_normals(points, triangles)[:, 2], 0, 1)
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    scale = 127 / (high - low).max()
    small = np.concatenate([(points[:, :2] - low) * scale, points[:, 2:] * scale], 1)
    depth, covered = rasterize(small, triangles, small[:, 2:], 128)
    x, y = np.clip(small[:, :2].round().astype(int), 0, 127).T
    hidden = covered[y, x] & (depth[y, x, 0] < small[:, 2] - 6)
    return np.where(hidden, 0, facing)


def _draw(crop: torch.Tensor, matrix: np.ndarray, target: Fit, texture: Texture, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One face: ``crop`` ``[S, S, 3]`` with the source drawn in, and where it changed."""
    size = len(crop)
    device = crop.device
    mesh, zones = mean_face(), _zones()
    ours = target.project()
    head = target.head + strength * (transfer_shape(texture.fit, target) - target.head)
    drawn = target.project(head)
    drawn[:, :2], ours[:, :2] = transform(drawn[:, :2], matrix), transform(ours[:, :2], matrix)
    depth_scale = float(scale_of(matrix))
    drawn[:, 2] *= depth_scale
    from_source = _texture_points(texture.fit, target)
    trust = np.maximum(_visible(texture.facing, _facing(drawn)), zones.core)
    attributes = np.concatenate(
        [from_source, ours[:, :2], np.stack([trust, zones.sure, zones.brow_up, zones.side], 1)], 1)  # fmt: skip
    values, covered = rasterize(drawn, mesh.triangles, attributes, size)
    values = torch.from_numpy(values).to(device)
    covered = torch.from_numpy(covered).to(device, torch.float32)

    shrink = texture.fit.scale / (target.scale * depth_scale)
    painted = _sample(texture.picture, values[..., :2], shrink)
    source_skin = _sample(texture.skin, values[..., :2], shrink)[0]
    trust, sure, brow_up, side = values[..., 4:].unbind(-1)
    skin = skin_likelihood(crop, sure * covered, _SHADOW * side * (1 - brow_up))

    eye_distance = target.scale * depth_scale * 6.3
    rounded = fast_gaussian_blur(covered[None], 0.1 * eye_distance) * (covered > 0)
    soft = (-signed_distance(rounded, 0.2 * eye_distance)[0] / (_FEATHER * eye_distance)).clamp(0, 1)
    soft = soft * soft * (3 - 2 * soft)
    upper = torch.maximum(brow_up, side)
    mask = soft * trust * (1 - upper * (1 - skin)) * (1 - torch.maximum(brow_up, 0.5 * side) * (1 - source_skin))

    target_colors = crop.permute(2, 0, 1)
    mask = (mask * (1 - _target_parts(drawn, texture.fit, target, mesh, zones, size, device))).clamp(0, 1)
    painted = _relight(painted, target_colors, mask, skin * source_skin * covered, eye_distance)
    if strength < 1:
        own = _sample(target_colors, values[..., 2:4], 1.0)
        painted = own + strength * (painted - own)
    out = target_colors + mask * (painted - target_colors)
    return out.permute(1, 2, 0).clamp(0, 1), (4 * mask).clamp(0, 1)


def _texture_points(source: Fit, target: Fit) -> np.ndarray:
    """``[V, 2]`` where the texture is read. A little inside the source's outline, so that an outline drawn a pixel too wide brings no
    background; and, where the source's open mouth has to close, on the lips rather than on the teeth."""
    points = source.project()[:, :2]
    middle = points[[4, 168, 152]].mean(0)
    points[list(FACE_OVAL)] += 0.03 * (middle - points[list(FACE_OVAL)])
    closing = np.clip((mouth_opening(source.head) - mouth_opening(target.head)) / 0.15, 0, 1)
    points[list(INNER_LIPS)] += 0.35 * closing * (points[list(OUTER_LIPS)] - points[list(INNER_LIPS)])
    return points


def _visible(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """1 where the source's photograph shows the place at least about half as squarely as the target's does, 0 where it hardly does."""
    ratio = source / np.maximum(target, 0.15)
    return np.clip((ratio - 0.15) / 0.35, 0, 1)


def _sample(picture: torch.Tensor, at: torch.Tensor, shrink: float) -> torch.Tensor:
    """``[C, H, W]`` read at pixel positions ``[S, S, 2]``; ``shrink`` picture pixels fall on one read pixel and are averaged."""
    height, width = picture.shape[-2:]
    if shrink > 1.3:
        small = (max(1, round(height / shrink)), max(1, round(width / shrink)))
        picture = F.interpolate(picture[None], size=small, mode="area")[0]
    scale = torch.tensor([2 / width, 2 / height], device=at.device)
    grid = (at + 0.5) * scale - 1
    return F.grid_sample(picture[None], grid[None], mode="bicubic", padding_mode="border", align_corners=False)[0].clamp(0, 1)


def _target_parts(drawn, source: Fit, target: Fit, mesh, zones: Zones, size: int, device) -> torch.Tensor:
    """Where the target's own pixels stay: the inside of its mouth, and eyes opened very differently from the source's."""
    keep = torch.zeros((size, size), device=device)
    parts = []
    ours, theirs = mouth_opening(source.head), mouth_opening(target.head)
    if abs(ours - theirs) > 0.06:
        parts.append((zones.mouth, 0.012))
    for i, (a, b) in enumerate(zip(eye_openings(source.head), eye_openings(target.head), strict=True)):
        if not 0.55 < a / max(b, 1e-3) < 1.8:
            parts.append((zones.eyes[:, i], 0.02))
    for inside, softness in parts:
        triangles = mesh.triangles[(inside[mesh.triangles] > 0).all(1)]
        _, covered = rasterize(drawn, triangles, inside[:, None], size)
        part = torch.from_numpy(covered).to(device, torch.float32)
        keep = torch.maximum(keep, fast_gaussian_blur(part[None], max(0.8, softness * size * 0.25))[0])
    return keep


def _relight(painted: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, skin: torch.Tensor, eye_distance: float) -> torch.Tensor:
    """Give the texture the scene's light, from the means of both skins: all of it over the face as a whole, most of it part by part
    (light and shade also draw the source's features), and more finely along the border, where a step would show."""
    weight = (skin * mask.clamp(0.02, 1))[None]
    near_border = (2 * (1 - fast_gaussian_blur(mask[None], 0.1 * eye_distance)[0])).clamp(0, 0.8)
    lit = painted
    for sigma, share in ((0.55 * eye_distance, _SHADING), (0.12 * eye_distance, near_border)):
        have = local_mean(lit, weight, sigma)
        gain = local_mean(target, weight, sigma) / have.clamp_min(0.01)
        overall = (target * weight).sum((1, 2), keepdim=True) / (lit * weight).sum((1, 2), keepdim=True).clamp_min(1e-6)
        lit = _expose(lit, (overall * (gain / overall) ** share).clamp(1 / _GAIN, _GAIN), have)
    return lit


def _expose(picture: torch.Tensor, gain: torch.Tensor, middle: torch.Tensor) -> torch.Tensor:
    """``picture`` made ``gain`` times as bright at its local mean ``middle``, along a curve that never passes white and, downwards,
    keeps some of the contrast that a mere factor loses."""
    wanted, middle = (middle * gain).clamp(0.01, 0.98), middle.clamp(0.01, 0.98)
    odds = (wanted * (1 - middle) / (middle * (1 - wanted))).clamp(1 / (3 * _GAIN), 3 * _GAIN)
    curved = picture * odds / (1 - picture + picture * odds)
    return torch.where(gain > 1, curved, torch.lerp(picture * gain, curved, _CONTRAST * (2 - 2 * middle).clamp(0, 1)))
