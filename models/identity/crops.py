"""Reference crops: what an identity keeps of its photos."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..crops.crop import crop_matrix
from ..crops.templates import TEMPLATES
from ..crops.transformed import transform_face
from ..faces import Face, Faces
from ..pixels.sampling import sample_crops

REFERENCE_FRAMING = 1.6  # the whole head with forehead and hair
MAX_CROPS = 8
# Edges in pixels that a reference crop may have.
_STEP, _SMALLEST, _LARGEST = 32, 256, 1024


def native_size(faces: Faces, framing: float = REFERENCE_FRAMING) -> int:
    """Return the edge in pixels of the crop at which the largest of the faces keeps its resolution: 256 to 1024 in steps of 32."""
    template = TEMPLATES["ffhq_512"]
    eyes = float(np.linalg.norm(template[1] - template[0])) / framing  # their distance, in crop edges
    wanted = max(face.eye_distance for face in faces) / eyes
    return int(np.clip(np.ceil(wanted / _STEP) * _STEP, _SMALLEST, _LARGEST))


def round_to_8_bits(crops: torch.Tensor) -> torch.Tensor:
    """Round values 0..1 to whole 255ths, as identity files hold them: a saved and loaded identity gives the very same swap."""
    return crops.mul(255).round().div(255)


def reference_crops(images: torch.Tensor, faces: Faces) -> tuple[np.ndarray, tuple[Face, ...], float]:
    """Cut the reference crops ``[K, S, S, 3]`` float32 of the first 8 faces from ``images`` ``[B, H, W, 3]`` 0..1.

    Returns them with their faces, in crop pixels, and their framing.
    """
    faces = replace(faces, items=tuple(replace(face, square=None) for face in faces.items[:MAX_CROPS]))
    size = native_size(faces)
    matrices = np.stack([crop_matrix(face, size, REFERENCE_FRAMING) for face in faces])
    crops = sample_crops(images, faces.frame_indices, matrices, size)
    crops = round_to_8_bits(crops).cpu().numpy()
    return crops, tuple(transform_face(face, matrix) for face, matrix in zip(faces, matrices, strict=True)), REFERENCE_FRAMING
