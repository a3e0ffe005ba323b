"""Reference crops: what an identity keeps of its photographs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..detect.dlib_points import face_box
from ..faces import Face, Faces
from ..pixels.sampling import TEMPLATES, crop_matrix, sample_crops, scale_of, transform

FRAMING = 1.6  # the whole head with forehead and hair
MOST = 8
_STEP, _SMALLEST, _LARGEST = 32, 256, 1024


def native_size(faces: Faces, framing: float = FRAMING) -> int:
    """Edge of the crop at which the largest of the faces keeps its pixels, 256 to 1024 in steps of 32."""
    template = TEMPLATES["ffhq_512"]
    eyes = float(np.linalg.norm(template[1] - template[0])) / framing
    wanted = max(face.eye_distance for face in faces) / eyes
    return int(np.clip(np.ceil(wanted / _STEP) * _STEP, _SMALLEST, _LARGEST))


def face_through(face: Face, matrix: np.ndarray, frame: int = 0) -> Face:
    """The face as it appears after ``matrix`` ``[2, 3]`` (a similarity), z of the dense points scaled with it."""
    keypoints = transform(face.keypoints, matrix)
    points = None if face.points68 is None else transform(face.points68, matrix).astype(np.float32)
    dense = face.dense
    if dense is not None:
        dense = np.concatenate([transform(dense[:, :2], matrix), dense[:, 2:] * float(scale_of(matrix))], 1)
    if points is not None:
        box = face_box(points)
    else:
        x0, y0, x1, y1 = face.box
        corners = transform(np.array([[x0, y0], [x1, y0], [x0, y1], [x1, y1]]), matrix)
        box = np.concatenate([corners.min(0), corners.max(0)])
    return replace(face, frame=frame, box=box, keypoints=keypoints, points68=points, dense=dense, square=None)


def reference_crops(images: torch.Tensor, faces: Faces) -> tuple[np.ndarray, tuple[Face, ...], float]:
    """Crops ``[K, S, S, 3]`` of the first 8 faces, those faces in crop pixels, and the framing.

    The values are whole 255ths, so that an identity that was saved and loaded gives the very same swap.
    """
    faces = replace(faces, items=tuple(replace(face, square=None) for face in faces.items[:MOST]))
    size = native_size(faces)
    matrices = np.stack([crop_matrix(face, size, FRAMING) for face in faces])
    crops = sample_crops(images, faces.frame_indices, matrices, size)
    crops = crops.mul(255).round().div(255).cpu().numpy()
    return crops, tuple(face_through(face, matrix) for face, matrix in zip(faces, matrices, strict=True)), FRAMING
