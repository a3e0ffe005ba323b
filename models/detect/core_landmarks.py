"""Faces from the FACE_LANDMARKS payload of ComfyUI's own MediaPipe node (a plain dict)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import FaceLoomError
from ..face3d.topology import points68_from_mesh
from ..faces import Face, box_from_68, keypoints_from_68
from ..pixels.affine import scale_of, similarity


def face_from_mesh(frame: int, mesh: np.ndarray, score: float) -> Face:
    """Make a face from a MediaPipe mesh ``[478, 3]`` in image pixels: it has the mesh, and 68 points, keypoints and box from it."""
    points = points68_from_mesh(mesh[:, :2])
    return Face(frame, box_from_68(points), keypoints_from_68(points), score, points68=points, mesh=mesh)


def faces_from_core(landmarks: Mapping, frames: int, height: int, width: int) -> list[list[Face]]:
    """Read the faces of every frame from ``{"frames": [[{"landmarks_xy" [478, 2], "landmarks_3d" [478, 3], "score"}, ...], ...],
    "image_size": (H, W)}``.

    frames, height, width: of the images, which the payload must fit. No threshold is applied: the node that found the faces has its own.
    ``landmarks_3d`` are in units of that network's crop; their z is scaled to image pixels by the similarity between the two.
    """
    try:
        found, size = [list(items) for items in landmarks["frames"]], tuple(int(v) for v in landmarks["image_size"])
    except (KeyError, TypeError, ValueError):
        raise FaceLoomError("face_landmarks is not what ComfyUI's MediaPipe Face Landmarker gives; connect its first output.") from None
    if len(found) != frames or size != (height, width):
        raise FaceLoomError(
            f"The face_landmarks are for {len(found)} image(s) of {size[1]}×{size[0]}, but {frames} of {width}×{height} are connected; "
            "connect the same image to both nodes."
        )
    return [[_face_from_item(frame, item) for item in items] for frame, items in enumerate(found)]


def _face_from_item(frame: int, item: Mapping) -> Face:
    try:
        in_image = np.asarray(item["landmarks_xy"], np.float64)
        in_crop = np.asarray(item["landmarks_3d"], np.float64)
        score = float(item.get("score", 1.0))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise FaceLoomError("A face in face_landmarks has no landmarks; connect the output of MediaPipe Face Landmarker.") from None
    if not (np.isfinite(in_image).all() and np.isfinite(in_crop).all() and np.isfinite(score)):
        raise FaceLoomError("A face in face_landmarks has a point that is NaN or infinite; leave that face out before it is connected.")
    if in_image.shape != (478, 2) or in_crop.shape != (478, 3):
        raise FaceLoomError(f"A face in face_landmarks must have 478 points, not {in_image.shape} and {in_crop.shape}.")
    scale = float(scale_of(similarity(in_crop[:, :2], in_image)))
    return face_from_mesh(frame, np.concatenate([in_image, in_crop[:, 2:] * scale], 1), score)
