"""The built-in engine: draws the source's photo as the texture of a 3-D face in the target's pose.

The method is that of FaceSwap (2017), and adds to it: shape apart from expression (``face3d/expression.py``), visibility in both
photos, hair and hats that stay, the target's own mouth, and the light of the scene.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

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
from ..options.swap import USUAL, SwapSettings
from ..parse.skin import fast_gaussian_blur, local_mean, skin_likelihood
from ..pixels.affine import scale_of, transform
from ..pixels.masks import signed_distance
from ..progress import Progress, silent
from .mesh_delight import even_light

# Width of the mask's soft border, in eye distances.
_BORDER = 0.06
# How much darker or brighter than the cheek the side of a face may be and still count as skin.
_SHADOW = 0.15
# Exponent of the scene's shading, part of the face against part, that the texture takes over: 0 none, 1 all.
_SHADING = 0.6
# Share of the contrast that is kept where the texture is darkened.
_CONTRAST = 0.7
# The scene's light makes the texture at most this much brighter or darker.
_GAIN = 3.0


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
        facing = _facing(points)
        image = even_light(torch.from_numpy(np.array(self.crop)).permute(2, 0, 1), self.fit, _zones().sure, facing)
        zones, covered = rasterize(points, mean_face().triangles, _zones().sure[:, None], image.shape[1])
        skin = skin_likelihood(image.permute(1, 2, 0), torch.from_numpy(zones[..., 0] * covered))
        return Texture(image, self.fit, skin[None], facing)


class MeshEngine:
    """A ``SwapEngine`` that draws the source's photo on a fitted 3-D face. Needs no network and no GPU."""

    name = "mesh"
    swap_in_threads = True

    def prepare(self, identity: Identity) -> list[ReferencePhoto]:
        """Returns the identity's photos with a face fitted to each; FaceLoomError where it has none."""
        if not len(identity.crops):
            raise FaceLoomError("This identity has no photograph in it, only an embedding; use a network as swap_model, or make the "
                                "identity from photos with ArcFace Embed.")  # fmt: skip
        return [ReferencePhoto(crop, fit) for crop, fit in zip(identity.crops, reference_fits(identity), strict=True)]

    def check_settings(self, settings: SwapSettings) -> None:
        """Raises FaceLoomError for settings that ``swap`` refuses."""
        settings.check("The built-in warp can only show the source photo as it is; use a strength from 0 to 1, or a swap model.")

    def swap(self, images: torch.Tensor, faces: Faces, source: list[ReferencePhoto], settings: SwapSettings = USUAL,
             progress: Progress = silent) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``SwapEngine.swap``; the masks are 1 wherever the crop differs from the photograph.

        ``strength`` morphs shape and colour from the target's (0) to the source's (1); above 1 is an error, since a photo shows no more
        than the person. ``pixel_boost`` is ignored: the texture is drawn at the crop's own resolution.
        """
        self.check_settings(settings)
        size = settings.edge(faces)
        crops = crop_faces(images, faces, size)
        masks = torch.zeros(crops.shape[:3], device=crops.device)
        if settings.strength == 0:
            return crops, masks
        references = [photo.fit for photo in source]
        for i, face in enumerate(faces):
            target = fit_face(face)
            texture = source[nearest_pose(references, target)].texture.to(crops.device)
            crops[i], masks[i] = _draw(crops[i], crop_matrix(face, size, faces.framing), target, texture, settings.strength)
            progress(i + 1, len(faces))
        return crops, masks


@dataclass(frozen=True, eq=False)
class Zones:
    """Parts of the face as weights ``[V]`` from 0 to 1 for each vertex.

    sure: certainly skin. core: nose and mouth, which every photo shows. forehead: above the brows, where hair may be. side: along cheeks
    and temples. mouth: inside the lips. eyes: ``[V, 2]``, inside the left and the right lids.
    """

    sure: np.ndarray
    core: np.ndarray
    forehead: np.ndarray
    side: np.ndarray
    mouth: np.ndarray
    eyes: np.ndarray


@lru_cache(maxsize=1)
def _zones() -> Zones:
    """Returns the zones of the mean face, whose vertices every fitted face has."""
    v = mean_face().vertices
    to_outline = distance_to_ring(v, FACE_OVAL)
    to_outline[468:] = 0
    lids = np.minimum(distance_to_ring(v, LEFT_EYE), distance_to_ring(v, RIGHT_EYE))
    y = v[:, 1]
    core = np.clip((4.5 - np.minimum(distance_to_ring(v, (4,)), distance_to_ring(v, INNER_LIPS))) / 1.5, 0, 1)
    sure = ((lids > 0.9) & (to_outline > 1.2) & (y > -1.5) & (y < 3.2)).astype(np.float64)
    brows = v[list(LEFT_BROW[:5] + RIGHT_BROW[:5])]
    forehead = np.clip((np.interp(v[:, 0], brows[:, 0], brows[:, 1]) - 0.15 - y) / 0.6, 0, 1)
    side = np.clip((1.8 - to_outline) / 1.0, 0, 1) * np.clip((4.0 - y) / 1.5, 0, 1)
    mouth, eyes = np.zeros(len(v)), np.zeros((len(v), 2))
    mouth[list(INNER_LIPS)] = 1
    for i, ring in enumerate((LEFT_EYE, RIGHT_EYE)):
        eyes[list(ring), i] = 1
    return Zones(sure, core, forehead, side, mouth, eyes)


def _facing(points: np.ndarray) -> np.ndarray:
    """Returns ``[V]``: how squarely each vertex faces the camera, 0 (edge-on, behind, or hidden by the nose) to 1."""
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
    """Draws the source over one face. matrix: photo → crop. Returns the crop ``[S, S, 3]`` and the mask ``[S, S]`` of what changed."""
    size = len(crop)
    device = crop.device
    zones = _zones()
    head = target.head + strength * (transfer_shape(texture.fit, target) - target.head)
    own, drawn = target.project(), target.project(head)
    own[:, :2], drawn[:, :2] = transform(own[:, :2], matrix), transform(drawn[:, :2], matrix)
    to_crop = float(scale_of(matrix))
    drawn[:, 2] *= to_crop
    visible = np.maximum(_visible(texture.facing, _facing(drawn)), zones.core)
    attributes = np.concatenate([_texture_points(texture.fit, target), own[:, :2],
                                 np.stack([visible, zones.sure, zones.forehead, zones.side], 1)], 1)  # fmt: skip
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
    painted = _relight(painted, target_colors, mask, skin * source_skin * covered, eye_distance)
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
    zones, triangles = _zones(), mean_face().triangles
    parts = []
    if abs(mouth_opening(source.head) - mouth_opening(target.head)) > 0.06:
        parts.append((zones.mouth, 0.012))
    for i, (source_eye, target_eye) in enumerate(zip(eye_openings(source.head), eye_openings(target.head), strict=True)):
        if not 0.55 < source_eye / max(target_eye, 1e-3) < 1.8:
            parts.append((zones.eyes[:, i], 0.02))
    kept = torch.zeros((size, size), device=device)
    for inside, softness in parts:
        _, covered = rasterize(drawn, triangles[(inside[triangles] > 0).all(1)], inside[:, None], size)
        part = torch.from_numpy(covered).to(device, torch.float32)
        kept = torch.maximum(kept, fast_gaussian_blur(part[None], max(0.8, softness * size * 0.25))[0])
    return kept


def _relight(painted: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, skin: torch.Tensor, eye_distance: float) -> torch.Tensor:
    """Gives the texture ``[3, S, S]`` the light of the scene, found by comparing the means of both skins.

    The face as a whole takes all of it, parts of the face most of it (light and shade also draw the source's features), and the border,
    where a step would show, takes it more finely.
    """
    weight = (skin * mask.clamp(0.02, 1))[None]
    near_border = (2 * (1 - fast_gaussian_blur(mask[None], 0.1 * eye_distance)[0])).clamp(0, 0.8)
    lit = painted
    for sigma, share in ((0.55 * eye_distance, _SHADING), (0.12 * eye_distance, near_border)):
        have = local_mean(lit, weight, sigma)
        gain = local_mean(target, weight, sigma) / have.clamp_min(0.01)
        overall = (target * weight).sum((1, 2), keepdim=True) / (lit * weight).sum((1, 2), keepdim=True).clamp_min(1e-6)
        lit = _expose(lit, (overall * (gain / overall) ** share).clamp(1 / _GAIN, _GAIN), have)
    return lit


def _expose(image: torch.Tensor, gain: torch.Tensor, middle: torch.Tensor) -> torch.Tensor:
    """Makes ``image`` ``gain`` times as bright at its local mean ``middle``, along a curve that never passes white and, where it darkens,
    keeps some of the contrast that a mere factor loses."""
    wanted, middle = (middle * gain).clamp(0.01, 0.98), middle.clamp(0.01, 0.98)
    odds = (wanted * (1 - middle) / (middle * (1 - wanted))).clamp(1 / (3 * _GAIN), 3 * _GAIN)
    curved = image * odds / (1 - image + image * odds)
    return torch.where(gain > 1, curved, torch.lerp(image * gain, curved, _CONTRAST * (2 - 2 * middle).clamp(0, 1)))
