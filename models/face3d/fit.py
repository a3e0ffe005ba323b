"""A 3-D face fitted to 5, 68 or 478 landmarks.

The mean face is MediaPipe's canonical face model (468 vertices, in cm) with two more rows of vertices, which reach up to the hairline.
Head space is the mean face's: x to the viewer's right, y down, z away from the viewer, origin inside the head.
A fit is a scaled orthographic camera and a face whose projected landmarks lie exactly where the photo has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..faces import Face
from .topology import FACE_OVAL, LEFT_EYE, RIGHT_EYE, WEIGHTS_68

FOREHEAD_EDGE = np.array([127, 162, 21, 54, 103, 67, 109, 10, 338, 297, 332, 284, 251, 389, 356])
_RIGID_POINTS = np.r_[17:48]  # brows, nose and eyes move least with expression


@dataclass(frozen=True, eq=False)
class Mesh:
    """The mean face.

    vertices: ``[V, 3]`` in head space, cm. triangles: ``[T, 3]`` vertex indices, in the order that makes the outside's normals point to the
    viewer (negative z).
    """

    vertices: np.ndarray
    triangles: np.ndarray


@lru_cache(maxsize=1)
def mean_face() -> Mesh:
    """Read the mean face and add the forehead; the file is under 20 kB and read once."""
    from safetensors.numpy import load_file

    data = load_file(Path(__file__).with_name("canonical_face.safetensors"))
    vertices, triangles = data["vertices"].astype(np.float64), data["triangles"].astype(np.int64)
    return _with_forehead(vertices, triangles)


def _with_forehead(vertices: np.ndarray, triangles: np.ndarray) -> Mesh:
    """Extend the mesh upwards by two rows of vertices along an ellipsoid, which get narrow towards the temples."""
    edge = vertices[FOREHEAD_EDGE]
    share = np.sin(np.linspace(0, np.pi, len(edge)))[:, None] ** 0.7
    rows, faces, below = [], [], FOREHEAD_EDGE
    for step in (1, 2):
        # each row rises 1.5 cm at the middle and leans back more than the one before
        lift = np.array([[0, -1.5, 0.75 * step - 0.25]]) * share
        edge = edge + lift - edge * [0.035 * step, 0, 0] * share
        above = len(vertices) + len(rows) * len(edge) + np.arange(len(edge))
        rows.append(edge)
        a, b, c, d = below[:-1], below[1:], above[:-1], above[1:]
        faces += [np.stack([a, b, c], 1), np.stack([b, d, c], 1)]
        below = above
    return Mesh(np.concatenate([vertices, *rows]), np.concatenate([triangles, *faces]))


def five_points(head: np.ndarray) -> np.ndarray:
    """Return the eye centres, nose tip and mouth corners ``[5, 3]`` of mesh vertices ``[V, 3]``."""
    return np.stack([head[list(LEFT_EYE)].mean(0), head[list(RIGHT_EYE)].mean(0), head[4], head[61], head[291]])


@dataclass(frozen=True, eq=False)
class Fit:
    """A 3-D face fitted to one photo, and the scaled orthographic camera that sees it.

    head: the face's vertices ``[V, 3]`` in head space, cm. rotation: ``[3, 3]`` from head to camera. scale: pixels per cm. shift: ``[2]``
    pixels.
    """

    head: np.ndarray
    rotation: np.ndarray
    scale: float
    shift: np.ndarray

    def project(self, head: np.ndarray | None = None) -> np.ndarray:
        """Project vertices ``head`` (None is the fit's own) into the photo: ``[V, 3]``, x and y in pixels, and depth, larger is farther."""
        camera = (self.head if head is None else head) @ self.rotation.T * self.scale
        camera[:, :2] += self.shift
        return camera

    @property
    def angles(self) -> np.ndarray:
        """Yaw, pitch and roll ``[3]`` in degrees.

        Yaw above 0 is turned to the viewer's right, pitch above 0 looks up, roll above 0 is tilted clockwise as the viewer sees it.
        """
        r = self.rotation
        forward = -r[:, 2]  # where the face looks, in camera axes
        yaw = np.arctan2(forward[0], -forward[2])
        pitch = np.arctan2(-forward[1], np.hypot(forward[0], forward[2]))
        level = _look_at(yaw, pitch)
        turn = level.T @ r
        roll = np.arctan2(turn[1, 0], turn[0, 0])
        return np.degrees([yaw, pitch, roll])


def _look_at(yaw: float, pitch: float) -> np.ndarray:
    """Compute the rotation ``[3, 3]`` of a head with this yaw and pitch (radians) and no roll."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    turn = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    return turn @ nod


def fit_face(face: Face) -> Fit:
    """Fit the mean face to a face's 478 points where it has them, else to its 68 points.

    A face with neither gets the mean face in about the right pose, from its five keypoints.
    """
    if face.mesh is not None:
        return _fit_mesh(np.asarray(face.mesh[:468], np.float64))
    if face.points68 is not None:
        return _fit_68(np.asarray(face.points68, np.float64))
    mean = mean_face().vertices
    rotation, scale, shift = _camera(five_points(mean), np.asarray(face.keypoints, np.float64), np.ones(5))
    return Fit(mean, rotation, scale, shift)


def _fit_mesh(points: np.ndarray) -> Fit:
    mesh = mean_face()
    rotation, scale, shift = _similarity_3d(mesh.vertices[:468], points)
    head = (points - shift) @ rotation / scale
    oval, forehead = mesh.vertices[list(FACE_OVAL)], mesh.vertices[468:]
    head = np.concatenate([head, forehead + spread_moves(oval, head[list(FACE_OVAL)] - oval, forehead)])
    return Fit(head, rotation, scale, shift[:2])


def _fit_68(points: np.ndarray) -> Fit:
    mean = mean_face().vertices
    trust = np.full(68, 0.25)
    trust[_RIGID_POINTS] = 1.0
    trust[48:] = 0.4
    rotation, scale, shift = _camera(points68_of_head(mean)[17:], points[17:], trust[17:])
    for _ in range(4):
        anchors = points68_of_head(mean, rotation)
        rotation, scale, shift = _camera(anchors, points, trust)
    projected = anchors @ rotation.T[:, :2] * scale + shift
    residual = np.concatenate([(points - projected) / scale, np.zeros((68, 1))], 1) @ rotation
    return Fit(mean + spread_moves(anchors, residual, mean), rotation, scale, shift)


def _camera(vertices: np.ndarray, points: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Fit a scaled orthographic camera to points by weighted least squares: rotation ``[3, 3]``, scale, and shift ``[2]``.

    vertices: ``[K, 3]`` in head space. points: ``[K, 2]`` pixels. weights: ``[K]``. The affine camera is fitted, then replaced by the
    nearest rotation (POS, DeMenthon & Davis 1995, section 3, with an orthogonal Procrustes step).
    """
    w = weights[:, None] / weights.sum()
    center_v, center_p = (w * vertices).sum(0), (w * points).sum(0)
    v, p = vertices - center_v, points - center_p
    affine = np.linalg.lstsq(np.sqrt(w) * v, np.sqrt(w) * p, rcond=None)[0].T  # [2, 3]
    u, _, vt = np.linalg.svd(affine, full_matrices=False)
    two = u @ vt
    rotation = np.stack([two[0], two[1], np.cross(two[0], two[1])])
    fitted = v @ two.T
    scale = float((w * fitted * p).sum() / (w * fitted**2).sum())
    return rotation, scale, center_p - scale * two @ center_v


def _similarity_3d(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Fit rotation ``[3, 3]``, scale and shift ``[3]`` from ``[K, 3]`` to ``[K, 3]`` points by least squares (Umeyama 1991)."""
    ms, mt = source.mean(0), target.mean(0)
    a, b = source - ms, target - mt
    u, s, vt = np.linalg.svd(b.T @ a)
    flip = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * flip) @ vt
    scale = float((s * flip).sum() / (a**2).sum())
    return rotation, scale, mt - scale * rotation @ ms


def spread_moves(anchors: np.ndarray, moves: np.ndarray, at: np.ndarray, stiffness: float = 0.02) -> np.ndarray:
    """Interpolate moves ``[K, 3]`` known at anchors ``[K, 3]`` to the points ``at`` ``[V, 3]``: ``[V, 3]``.

    A biharmonic spline in 3-D (kernel r, with an affine part), regularised by ``stiffness``.
    """
    n = len(anchors)
    k = np.linalg.norm(anchors[:, None] - anchors[None], axis=-1)
    k[np.diag_indices(n)] = -stiffness * 10
    p = np.concatenate([np.ones((n, 1)), anchors], 1)
    system = np.block([[k, p], [p.T, -1e-6 * np.eye(4)]])
    weights = np.linalg.solve(system, np.concatenate([moves, np.zeros((4, 3))]))
    r = np.linalg.norm(at[:, None] - anchors[None], axis=-1)
    return r @ weights[:n] + np.concatenate([np.ones((len(at), 1)), at], 1) @ weights[n:]


def points68_of_head(head: np.ndarray, rotation: np.ndarray | None = None) -> np.ndarray:
    """Return the 68 points ``[68, 3]`` of mesh vertices ``[V, 3]``.

    With the head's ``rotation``, jaw points of the side that is turned away move from the jaw line to the visible outline of the cheek,
    where a photo's landmarks are: to the vertex at their height that reaches farthest out (landmark marching, Zhu et al., CVPR 2015,
    section 3.2).
    """
    points = WEIGHTS_68[:, :468].astype(np.float64) @ head[:468]
    if rotation is None:
        return points
    across = head[:468] @ rotation[0]
    far = np.sign(rotation[2, 0])  # the side that turns away
    for i in range(17):
        x, y, _ = points[i]
        if far * x > 2:
            level = np.flatnonzero((np.abs(head[:468, 1] - y) < 0.7) & (far * head[:468, 0] > 1))
            horizon = level[np.argmax(far * across[level])]
            if far * across[horizon] > far * points[i] @ rotation[0]:
                points[i] = head[horizon]
    return points
