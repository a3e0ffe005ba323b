"""Reference crops: what an identity keeps of its photographs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..crops.crop import crop_matrix
from ..crops.templates import TEMPLATES
from ..crops.transformed import transform_face
from ..faces import Face, Faces
from ..pixels.sampling import sample_crops

FRAMING = 1.6  # the whole head with forehead and hair
MOST = 8
_STEP, _SMALLEST, _LARGEST = 32, 256, 1024


def native_size(faces: Faces, framing: float = FRAMING) -> int:
    """Edge of the crop at which the largest of the faces keeps its pixels, 256 to 1024 in steps of 32."""
    template = TEMPLATES["ffhq_512"]
    eyes = float(np.linalg.norm(template[1] - template[0])) / framing
    wanted = max(face.eye_distance for face in faces) / eyes
    return int(np.clip(np.ceil(wanted / _STEP) * _STEP, _SMALLEST, _LARGEST))


def reference_crops(images: torch.Tensor, faces: Faces) -> tuple[np.ndarray, tuple[Face, ...], float]:
    """Crops ``[K, S, S, 3]`` of the first 8 faces, those faces in crop pixels, and the framing.

    The values are whole 255ths, so that an identity that was saved and loaded gives the very same swap.
    """
    faces = replace(faces, items=tuple(replace(face, square=None) for face in faces.items[:MOST]))
    size = native_size(faces)
    matrices = np.stack([crop_matrix(face, size, FRAMING) for face in faces])
    crops = sample_crops(images, faces.frame_indices, matrices, size)
    crops = crops.mul(255).round().div(255).cpu().numpy()
    return crops, tuple(transform_face(face, matrix) for face, matrix in zip(faces, matrices, strict=True)), FRAMING
