"""How much a photo says about a face: scores of 0 (nothing) to 1."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..crops.crop import crop_matrix
from ..faces import Face, Faces
from ..pixels.sampling import sample_crops

_CROP_EDGE = 192  # pixels, in which sharpness is measured
_ENOUGH_EYE_DISTANCE = 64.0  # pixels beyond which more resolution tells the networks nothing


def resolution(face: Face) -> float:
    """Rate the resolution: eye distance over 64 pixels, at most 1."""
    return min(1.0, face.eye_distance / _ENOUGH_EYE_DISTANCE)


def frontality(face: Face) -> float:
    """Rate how frontal a face is, 1 looking at the camera, towards 0 in profile, by how far the nose tip leaves the
    middle between the eyes and the mouth."""
    eye0, eye1, nose, mouth0, mouth1 = face.keypoints.astype(np.float64)
    down = (mouth0 + mouth1 - eye0 - eye1) / 2
    length = max(np.linalg.norm(down), 1e-6)
    middle = (eye0 + eye1 + mouth0 + mouth1) / 4
    aside = abs((nose - middle) @ np.array([-down[1], down[0]])) / length**2
    return float(np.exp(-((aside / 0.35) ** 2)))


def sharpness(crops: torch.Tensor) -> np.ndarray:
    """Rate the sharpness ``[N]`` of crops ``[N, S, S, 3]``: energy of the Laplacian over contrast, as 0..1, 0.5 for a face that is
    a little soft."""
    gray = crops.mean(-1)[:, None]
    kernel = torch.tensor([[[[0, 1, 0], [1, -4, 1], [0, 1, 0]]]], dtype=gray.dtype, device=gray.device)
    detail = F.conv2d(gray, kernel).square().mean((1, 2, 3)).sqrt()
    contrast = gray.std((1, 2, 3)).clamp_min(1e-4)
    ratio = (detail / contrast).cpu().numpy()
    return ratio / (ratio + 0.08)


def photo_quality(images: torch.Tensor, faces: Faces) -> np.ndarray:
    """Rate faces of ``images`` ``[B, H, W, 3]`` 0..1: ``[N]``, resolution × frontality × sharpness × the detector's score."""
    if not len(faces):
        return np.zeros(0)
    matrices = np.stack([crop_matrix(face, _CROP_EDGE) for face in faces])
    sharp = sharpness(sample_crops(images[..., :3], faces.frame_indices, matrices, _CROP_EDGE))
    return np.array([resolution(f) * frontality(f) * s * min(1.0, max(f.score, 0.05)) for f, s in zip(faces, sharp, strict=True)])
