"""How much a photograph says about a face: 0 (nothing) to 1."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..crops.crop import crop_matrix
from ..faces import Face, Faces
from ..pixels.sampling import sample_crops

_SIZE = 192
_ENOUGH = 64.0  # pixels between the eyes beyond which more resolution tells the networks nothing


def resolution(face: Face) -> float:
    """Eye distance against 64 pixels, at most 1."""
    return min(1.0, face.eye_distance / _ENOUGH)


def frontality(face: Face) -> float:
    """1 looking at the camera, towards 0 in profile: how far the nose tip leaves the middle between the eyes and the mouth."""
    eye0, eye1, nose, mouth0, mouth1 = face.keypoints.astype(np.float64)
    down = (mouth0 + mouth1 - eye0 - eye1) / 2
    length = max(np.linalg.norm(down), 1e-6)
    middle = (eye0 + eye1 + mouth0 + mouth1) / 4
    aside = abs((nose - middle) @ np.array([-down[1], down[0]])) / length**2
    return float(np.exp(-((aside / 0.35) ** 2)))


def sharpness(crops: torch.Tensor) -> np.ndarray:
    """``[N]`` 0..1 for face crops ``[N, S, S, 3]``: the energy of the Laplacian against the contrast, 0.5 for a face a little soft."""
    gray = crops.mean(-1)[:, None]
    kernel = torch.tensor([[[[0, 1, 0], [1, -4, 1], [0, 1, 0]]]], dtype=gray.dtype, device=gray.device)
    detail = F.conv2d(gray, kernel).square().mean((1, 2, 3)).sqrt()
    contrast = gray.std((1, 2, 3)).clamp_min(1e-4)
    ratio = (detail / contrast).cpu().numpy()
    return ratio / (ratio + 0.08)


def quality(images: torch.Tensor, faces: Faces) -> np.ndarray:
    """``[N]``: resolution × frontality × sharpness × the detector's score."""
    if not len(faces):
        return np.zeros(0)
    matrices = np.stack([crop_matrix(face, _SIZE) for face in faces])
    crisp = sharpness(sample_crops(images[..., :3], faces.frame_indices, matrices, _SIZE))
    return np.array([resolution(f) * frontality(f) * s * min(1.0, max(f.score, 0.05)) for f, s in zip(faces, crisp, strict=True)])
