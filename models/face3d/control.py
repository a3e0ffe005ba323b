"""Control images made of faces: InstantID's keypoints, the MediaPipe mesh's outlines, depth and normals of the fitted 3-D face."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..crops.crop import crop_matrix
from ..errors import FaceLoomError
from ..faces import Face, Faces
from ..options.ranges import check_choice
from ..pixels.affine import transform
from ..pixels.edges import canny
from ..progress import Progress, silent
from .fit import fit_face, mean_face
from .raster import rasterize, vertex_normals
from .topology import FACE_OVAL, INNER_LIPS, LEFT_BROW, LEFT_EYE, LEFT_IRIS, OUTER_LIPS, RIGHT_BROW, RIGHT_EYE, RIGHT_IRIS

WHERE = ("crop", "image")
HINT_KINDS = ("canny", "mesh", "depth", "normal")

# InstantID's drawing (Wang et al. 2024, the released inference code): discs on eyes, nose and mouth corners, darker limbs to the nose.
# Sizes are in pixels.
_COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
_NOSE = 2
_LIMBS = (0, 1, 3, 4)
_LIMB_HALF_WIDTH, _DOT_RADIUS, _LIMB_SHADE = 4, 10, 0.6

# ControlNetMediaPipeFace was trained at 512 pixels with pupils of 4 pixels and OpenCV's lines of thickness 2, which are 3 pixels wide, in
# these colours (RGB).
_MESH_SIZE, _MESH_LINE, _MESH_PUPIL = 512, 3, 4
_HEAD, _MOUTH = (10, 200, 10), (10, 180, 10)
_OUTLINES: tuple[tuple[tuple[int, ...], bool, tuple[int, int, int]], ...] = (
    (FACE_OVAL, True, _HEAD),
    (RIGHT_EYE, True, (10, 200, 180)), (RIGHT_BROW[:5], False, (10, 220, 180)), (RIGHT_BROW[5:], False, (10, 220, 180)),
    (LEFT_EYE, True, (180, 200, 10)), (LEFT_BROW[:5], False, (180, 220, 10)), (LEFT_BROW[5:], False, (180, 220, 10)),
    (OUTER_LIPS, True, _MOUTH), (INNER_LIPS, True, _MOUTH),
)  # fmt: skip
_PUPILS = ((LEFT_IRIS[0], (250, 200, 10)), (RIGHT_IRIS[0], (10, 200, 250)))

# The brightness of a face's farthest visible point; the background is 0 and the nearest point 1.
_FARTHEST_SHADE = 0.25


def keypoint_pictures(faces: Faces, size: int = 0, where: str = "crop", thickness: float = 1.0, progress: Progress = silent
                      ) -> torch.Tensor:
    """Draw faces' five keypoints as InstantID's ControlNet expects them.

    where: ``"crop"`` makes one control image ``[N, size, size, 3]`` per face, ``"image"`` one per frame, ``[B, H, W, 3]``, with all its
    faces. size: edge of the crops, or longer edge of the frames, in pixels; 0 keeps their own. thickness: 1 draws limbs of 9 pixels and
    discs of 21, as the original does.
    """
    check_choice("where", where, WHERE)
    if where == "crop":
        height = width = size or faces.crop_size
        groups = [[transform(face.keypoints, crop_matrix(face, width, faces.framing))] for face in faces]
    else:
        scale = size / max(faces.height, faces.width) if size else 1.0
        height, width = (max(1, round(edge * scale)) for edge in (faces.height, faces.width))
        groups = [[(face.keypoints + 0.5) * scale - 0.5 for face in faces if face.frame == frame] for frame in range(faces.frames)]
    out = torch.zeros(len(groups), height, width, 3)
    for i, group in enumerate(groups):
        out[i] = draw_keypoints(np.reshape(group, (-1, 5, 2)), height, width, thickness)
        progress(i + 1, len(groups))
    return out


def draw_keypoints(keypoints: np.ndarray, height: int, width: int, thickness: float = 1.0) -> torch.Tensor:
    """Draw keypoints ``[F, 5, 2]`` on black: ``[height, width, 3]`` 0..1.

    An ellipse runs from each keypoint to the nose, in the keypoint's colour at 0.6, with discs of the full colour on top; later faces
    cover earlier ones. Centres, lengths and angles are cut to whole numbers, as in the original.
    """
    picture = torch.zeros(height, width, 3)
    colors = torch.tensor(_COLORS, dtype=torch.float32) / 255
    ys, xs = torch.arange(height, dtype=torch.float32)[:, None], torch.arange(width, dtype=torch.float32)
    stick, dot = _LIMB_HALF_WIDTH * thickness + 0.5, _DOT_RADIUS * thickness
    for points in np.asarray(keypoints, np.float64):
        for limb in _LIMBS:
            x, y = np.trunc((points[limb] + points[_NOSE]) / 2).tolist()
            dx, dy = (points[limb] - points[_NOSE]).tolist()
            half, angle = np.trunc(np.hypot(dx, dy) / 2) + 0.5, np.radians(np.trunc(np.degrees(np.arctan2(dy, dx))))
            along, across = (xs - x) * np.cos(angle) + (ys - y) * np.sin(angle), (ys - y) * np.cos(angle) - (xs - x) * np.sin(angle)
            picture[(along / half).square() + (across / stick).square() <= 1] = colors[limb] * _LIMB_SHADE
        for point, color in zip(np.trunc(points).tolist(), colors, strict=True):
            picture[(xs - point[0]).square() + (ys - point[1]).square() <= dot**2] = color
    return picture


def control_hints(crops: torch.Tensor, faces: Faces | None, kind: str, *, low: float = 100, high: float = 200,
                  progress: Progress = silent) -> torch.Tensor:
    """Make a control image ``[N, S, S, 3]`` for every crop ``[N, S, S, 3]``.

    kind: ``"canny"`` draws the crop's edges (low, high: OpenCV's thresholds on a scale of 255). The others are drawn from the crops'
    ``faces``: ``"mesh"``, ``"depth"`` (bright is near) or ``"normal"`` (red is left, green is up, blue is towards the viewer, as in
    ControlNet 1.1).
    """
    check_choice("kind", kind, HINT_KINDS)
    if kind == "canny":
        edges = canny(crops, low, high, progress)
        return edges[..., None].expand(*edges.shape, 3)
    if faces is None:
        raise FaceLoomError(f"The {kind} hint is drawn from the faces; connect those that these crops were cut from.")
    if len(faces) != len(crops) and (len(faces) or bool(crops.any())):
        raise FaceLoomError(f"There are {len(crops)} crops but {len(faces)} faces; connect the faces that these crops were cut from.")
    size, draw = crops.shape[1], _DRAWERS[kind]
    out = torch.zeros(len(crops), size, size, 3)
    for i, face in enumerate(faces):
        out[i] = draw(face, crop_matrix(face, size, faces.framing), size)
        progress(i + 1, len(faces))
    return out


def mesh_points(face: Face) -> np.ndarray:
    """Return a face's own mesh ``[478, 2]`` in pixels of the photo, or that of the 3-D face fitted to its landmarks.

    A fitted face has its pupils in the middle of the eyes.
    """
    if face.mesh is not None:
        return face.mesh[:, :2].astype(np.float64)
    points = np.zeros((478, 2))
    points[:468] = fit_face(face).project()[:468, :2]
    for iris, eye in ((LEFT_IRIS, LEFT_EYE), (RIGHT_IRIS, RIGHT_EYE)):
        points[list(iris)] = points[list(eye)].mean(0)
    return points


def draw_mesh(points: np.ndarray, size: int) -> torch.Tensor:
    """Draw oval, eyes, brows, lips and pupils of a mesh ``[478, 2]`` on black: ``[size, size, 3]`` 0..1.

    Lines are as wide, relative to the picture, as in training.
    """
    picture = Image.new("RGB", (size, size))
    draw = ImageDraw.Draw(picture)
    line = max(1, round(_MESH_LINE * size / _MESH_SIZE))
    for ring, closed, color in _OUTLINES:
        path = points[[*ring, ring[0]] if closed else list(ring)]
        draw.line([tuple(point) for point in path.tolist()], fill=color, width=line, joint="curve")
    half = max(1, round(_MESH_PUPIL * size / _MESH_SIZE / 2))
    for iris, color in _PUPILS:
        x, y = np.floor(points[iris]).astype(int).tolist()
        draw.rectangle((x - half, y - half, x + half - 1, y + half - 1), fill=color)
    return torch.from_numpy(np.array(picture, np.float32) / 255)


def _draw_mesh_hint(face: Face, matrix: np.ndarray, size: int) -> torch.Tensor:
    return draw_mesh(transform(mesh_points(face), matrix), size)


def _draw_depth(face: Face, matrix: np.ndarray, size: int) -> torch.Tensor:
    values, covered = _rasterize_face(face, matrix, size, lambda points, triangles: points[:, 2:])
    near, far = values[covered].min(), values[covered].max()
    shade = np.where(covered, 1 - (1 - _FARTHEST_SHADE) * (values[..., 0] - near) / (far - near), 0)
    return torch.from_numpy(shade.astype(np.float32))[..., None].expand(size, size, 3)


def _draw_normals(face: Face, matrix: np.ndarray, size: int) -> torch.Tensor:
    values, covered = _rasterize_face(face, matrix, size, vertex_normals)
    values[~covered] = (0, 0, -1)
    values /= np.linalg.norm(values, axis=-1, keepdims=True)
    return torch.from_numpy((1 - values) / 2)  # x to the right, y down and z away from the viewer become left, up and towards


def _rasterize_face(face: Face, matrix: np.ndarray, size: int, attributes: Callable[[np.ndarray, np.ndarray], np.ndarray]
             ) -> tuple[np.ndarray, np.ndarray]:
    """Rasterize the values that ``attributes(points, triangles)`` gives every vertex of the fitted face, in the crop of ``matrix``."""
    points, triangles = fit_face(face).project(), mean_face().triangles
    points[:, :2] = transform(points[:, :2], matrix)
    points[:, 2] *= np.sqrt(abs(np.linalg.det(np.asarray(matrix)[:, :2])))
    values, covered = rasterize(points, triangles, attributes(points, triangles), size)
    if not covered.any():
        raise FaceLoomError("The face lies outside its crop; connect the faces that these crops were cut from.")
    return values, covered


_DRAWERS: dict[str, Callable[[Face, np.ndarray, int], torch.Tensor]] = {
    "mesh": _draw_mesh_hint, "depth": _draw_depth, "normal": _draw_normals,
}  # fmt: skip
