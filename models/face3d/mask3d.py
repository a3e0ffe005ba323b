"""Masks and landmark drawings of the fitted 3-D face, of the target's shape or of the source's in the target's pose."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..crops.crop import crop_matrix
from ..errors import FaceLoomError
from ..faces import Faces, Identity
from ..options.ranges import check_choice
from ..pixels.affine import transform
from ..pixels.masks import feather_mask, grow_mask
from ..progress import Progress, silent
from .drawings import draw_landmarks
from .expression import nearest_pose, reference_fits, transfer_shape
from .fit import Fit, fit_face, mean_face, points68_of_head
from .raster import rasterize

SHAPES = ("target", "source", "union")


def landmark_mask(
    faces: Faces,
    size: int,
    shape: str = "target",
    identity: Identity | None = None,
    *,
    grow: float = 0,
    feather: float = 0,
    progress: Progress = silent,
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Draw each face's silhouette and its 68 landmarks in its crop, and measure the head pose.

    shape: ``"target"`` is the face in the photo, ``"source"`` the identity's proportions in the target's pose and expression
    (Face-Adapter's motion landmarks), ``"union"`` covers both (DiffSwap's 3-D-aware mask). grow, feather: pixels of the crop.
    Returns masks ``[N, size, size]``, drawings ``[N, size, size, 3]`` and yaw, pitch and roll ``[N, 3]`` in degrees (see ``Fit.angles``).
    """
    check_choice("shape", shape, SHAPES)
    if shape != "target" and (identity is None or not identity.faces):
        raise FaceLoomError(f"Shape {shape!r} needs an identity made from a photo; connect ArcFace Embed, or choose 'target'.")
    masks, drawings = torch.zeros(len(faces), size, size), torch.zeros(len(faces), size, size, 3)
    angles = np.zeros((len(faces), 3), np.float32)
    references = reference_fits(identity) if identity is not None and shape != "target" else []
    for i, face in enumerate(faces):
        fit, matrix = fit_face(face), crop_matrix(face, size, faces.framing)
        heads = []
        if shape != "source":
            heads.append(fit.head)
        if shape != "target":
            heads.append(transfer_shape(references[nearest_pose(references, fit)], fit))
        masks[i] = torch.stack([silhouette(fit, head, matrix, size) for head in heads]).amax(0)
        points = transform(fit.project(points68_of_head(heads[-1], fit.rotation))[:, :2], matrix)
        drawings[i] = draw_landmarks(points, size, size)
        angles[i] = fit.angles
        progress(i + 1, len(faces))
    return feather_mask(grow_mask(masks, grow), feather), drawings, angles


def silhouette(fit: Fit, head: np.ndarray, matrix: np.ndarray, size: int) -> torch.Tensor:
    """Compute the share ``[size, size]`` of every crop pixel that vertices ``head`` cover, seen by the fit's camera."""
    points = fit.project(head)
    points[:, :2] = (transform(points[:, :2], matrix) + 0.5) * 2 - 0.5  # twice as fine, for a smooth edge
    _, covered = rasterize(points, mean_face().triangles, points[:, :1], 2 * size)
    return F.avg_pool2d(torch.from_numpy(covered).to(torch.float32)[None], 2)[0]
