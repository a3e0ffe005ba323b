"""Boxes of other nodes: the places in which to look for faces, or the faces themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..faces import Face
from ..progress import Progress, silent
from .boxes import suppress

if TYPE_CHECKING:
    from . import Detector
    from .dlib import DlibDetector

# How much more than the box the detector is shown on each side, in box edges: it knows faces with something around.
_AROUND = 0.5
# Part of a box's area that may lie outside the picture, and how often as long as the picture it may be, where the box is the face.
_MOST_OUTSIDE, _MOST_TIMES = 0.75, 2.0


def look_inside(images: torch.Tensor, boxes: Sequence[np.ndarray], detector: Detector, threshold: float, progress: Progress = silent
                ) -> tuple[list[list[Face]], int]:
    """Find the faces whose middles lie in the boxes ``[K, 4]`` (x0, y0, x1, y1) of each frame of ``[B, H, W, 3]`` 0..1, each face once.

    Boxes may have any size and lie anywhere. Returns the faces of every frame, and how many boxes have none.
    """
    found, empty = [], 0
    for frame, places in enumerate(boxes):
        faces: list[Face] = []
        for box in places:
            inside = _faces_inside(images[frame:frame + 1], box, detector, threshold, frame)
            empty += not inside
            faces += inside
        kept = suppress(np.array([face.box for face in faces]).reshape(-1, 4), np.array([face.score for face in faces]))
        found.append([faces[i] for i in kept])
        progress(frame + 1, len(images))
    return found, empty


def _faces_inside(image: torch.Tensor, box: np.ndarray, detector: Detector, threshold: float, frame: int) -> list[Face]:
    """Find the faces of ``[1, H, W, 3]`` whose middles lie in ``box``; they get the index ``frame``."""
    size = np.array([image.shape[2], image.shape[1]], np.float64)
    low, high = np.clip(box[:2], 0, size), np.clip(box[2:], 0, size)
    if not (high - low >= 1).all():
        return []
    around = _AROUND * (high - low)
    x0, y0 = np.clip(np.floor(low - around), 0, size).astype(int)
    x1, y1 = np.clip(np.ceil(high + around), 0, size).astype(int)
    faces = (_moved(face, x0, y0, frame) for face in detector.detect(image[:, y0:y1, x0:x1], threshold)[0])
    return [face for face in faces if (face.center >= low).all() and (face.center <= high).all()]


def _moved(face: Face, x: int, y: int, frame: int) -> Face:
    """Return the face of a part of the picture, which begins at pixel x, y, in the picture."""
    return replace(
        face, frame=frame, box=face.box + np.array([x, y, x, y]), keypoints=face.keypoints + np.array([x, y]),
        points68=None if face.points68 is None else face.points68 + np.array([x, y]),
        mesh=None if face.mesh is None else face.mesh + np.array([x, y, 0]),
    )


def take_as_faces(images: torch.Tensor, boxes: Sequence[tuple[np.ndarray, np.ndarray]], fitter: DlibDetector, progress: Progress = silent
                  ) -> tuple[list[list[Face]], int]:
    """Fit a face in every box ``[K, 4]`` of each frame of ``[B, H, W, 3]`` 0..1, whatever it shows; its score ``[K]`` becomes the face's.

    Returns the faces of every frame, and how many boxes were left out because no face of that place and size could be in the picture.
    """
    size = np.array([images.shape[2], images.shape[1]], np.float64)
    found, empty = [], 0
    for frame, (places, scores) in enumerate(boxes):
        possible = np.array([_may_be_face(box, size) for box in places], bool)
        empty += int((~possible).sum())
        found.append(fitter.faces_in_boxes(images[frame], places[possible], scores[possible], frame))
        progress(frame + 1, len(images))
    return found, empty


def _may_be_face(box: np.ndarray, size: np.ndarray) -> bool:
    """Whether a box has an area, most of it near a picture of this width and height, and is not far larger than that."""
    edges = box[2:] - box[:2]
    if not (edges > 0).all() or (edges > _MOST_TIMES * size.max()).any():
        return False
    inside = np.clip(np.minimum(box[2:], size) - np.maximum(box[:2], 0), 0, None)
    return bool(inside.prod() >= (1 - _MOST_OUTSIDE) * edges.prod())
