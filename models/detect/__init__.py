"""Photographs to Faces: the ``Detector`` protocol and ``detect_faces``; ``load.py`` opens detectors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from ..errors import FaceLoomError, brief
from ..faces import Face, Faces
from ..options.detect import ORDERS, DetectSettings
from ..pixels.tensors import check_images
from ..progress import Progress, silent
from .boxes import FaceBoxes, boxes_per_frame
from .dlib import DlibDetector
from .inside_boxes import look_inside, take_as_faces
from .seen import as_seen


@runtime_checkable
class Detector(Protocol):
    """Finds faces."""

    @property
    def name(self) -> str: ...

    def detect(self, images: torch.Tensor, threshold: float, progress: Progress = silent) -> list[list[Face]]:
        """Find the faces of every frame of ``[B, H, W, 3]`` float32 0..1 with a score of at least ``threshold`` (0..1), unsorted."""
        ...


@runtime_checkable
class FollowsFaces(Protocol):
    """A detector that finds faces again where they were a moment ago, faster than by searching."""

    def follow(self, image: torch.Tensor, faces: Sequence[Face], threshold: float) -> list[Face | None]:
        """Find faces again in the next frame ``[H, W, 3]`` float32 0..1 of a clip, each near where it is given; None where one is not
        there. ``frame`` of what is found is that of the face that was given."""
        ...


def detect_faces(images: torch.Tensor, detector: Detector | None = None, settings: DetectSettings | None = None, *,
                 face_landmarks: Mapping | None = None, bboxes: Sequence | Mapping | None = None, progress: Progress = silent,
                 notice: Callable[[str], None] = lambda words: None) -> Faces:
    """Find the faces of every image of ``images`` ``[B, H, W, 3]`` float32 0..1. Any thread may call it, several at the same time.

    Values above 1 (HDR) are found as well: the detector sees them tone-mapped.

    detector: None is dlib. face_landmarks: core FACE_LANDMARKS, used instead of a detector. bboxes: core BOUNDING_BOX: the detector looks
    inside these boxes only, or, with ``settings.bbox_use``, every box is a face in which 68 points are fitted. notice: is told in a few
    words how many boxes have no face, and which numbers in ``settings.keep`` no picture has a face for.
    """
    settings = settings or DetectSettings()
    settings.check()
    kept_positions(settings.keep, 0)
    check_images(images)
    frames = _faces_per_frame(as_seen(images), detector, settings, face_landmarks, bboxes, progress, notice)
    chosen: list[Face] = []
    most = 0
    for index, found in enumerate(frames):
        found = sorted((face for face in found if face.size >= settings.min_size), key=ORDERS[settings.order])
        if not found and settings.no_face == "error":
            raise FaceLoomError(
                f"No face found in image {index + 1} of {len(frames)}; lower the threshold or the minimum size, or connect bboxes."
            )
        chosen += [found[i] for i in kept_positions(settings.keep, len(found))]
        most = max(most, len(found))
    if unknown := unknown_numbers(settings.keep, most):
        notice(unknown)
    count, height, width = images.shape[:3]
    return Faces(tuple(chosen), count, height, width, settings.framing, settings.crop_size)


def _faces_per_frame(images, detector, settings, face_landmarks, bboxes, progress, notice) -> list[list[Face]]:
    """Take the faces of every frame from the landmarks or boxes of another node, or find them with the detector."""
    if face_landmarks is not None:
        from .core_landmarks import faces_from_core

        return faces_from_core(face_landmarks, images.shape[0], images.shape[1], images.shape[2])
    if bboxes is None:
        return (detector or DlibDetector()).detect(images, settings.threshold, progress)
    boxes = boxes_per_frame(bboxes, len(images))
    if settings.bbox_use == "look inside":
        found, empty = look_inside(images, [frame for frame, _ in boxes], detector or DlibDetector(), settings.threshold, progress)
    else:
        found, empty = take_as_faces(images, boxes, DlibDetector(), progress)
    if empty:
        notice(f"{empty} box{'es' if empty > 1 else ''} without a face")
    return found


def kept_positions(keep: str, count: int) -> list[int]:
    """Return the positions that ``keep`` names among ``count`` faces, in the order named, each once.

    keep: ``"all"`` (or nothing), ``"first"``, or positions such as ``"0,2,-1"`` or ``"0-3"``, negative ones counted from the end. Positions
    that do not exist are left out; anything else is a FaceLoomError.
    """
    keep = keep.strip().lower()
    if keep in ("all", ""):
        return list(range(count))
    if keep == "first":
        return [0] if count else []
    positions: list[int] = []
    for part in keep.split(","):
        positions += _positions(part.strip(), count)
    return list(dict.fromkeys(p for p in positions if 0 <= p < count))


def unknown_numbers(keep: str, most: int) -> str:
    """Return a sentence where ``keep`` (see ``kept_positions``) names a face that no picture has, when none has more than ``most``; else
    ""."""
    words = [word.strip() for word in keep.split(",") if word.strip()]
    unknown = [word for word in words if word.lower() not in ("all", "first") and not kept_positions(word, most)]
    if not unknown or most == 0:
        return ""
    return f"there is no face {', '.join(unknown)}, only {'face 0' if most == 1 else f'faces 0 to {most - 1}'} in a picture"


def _positions(part: str, count: int) -> list[int]:
    """Return the positions that one part of ``keep`` names: a number, or a range such as ``0-3``."""
    match = re.fullmatch(r"(-?\d{1,9})(?:\s*-\s*(-?\d{1,9}))?", part, re.ASCII)
    if not match:
        raise FaceLoomError(f"{brief(part)} is not a face number; write all, first, or numbers such as 0,2,-1 or 0-3.")
    first, last = int(match[1]), int(match[2] or match[1])
    first, last = (n + count if n < 0 else n for n in (first, last))
    return list(range(max(first, 0), min(last, count - 1) + 1))


def bounding_boxes(faces: Faces) -> FaceBoxes:
    """Convert faces to a core BOUNDING_BOX: for every frame a list of ``{x, y, width, height, label, score}``, whole pixels inside the
    picture, as nodes need them that cut pictures by a box."""
    out = FaceBoxes(([] for _ in range(faces.frames)), faces.width, faces.height)
    for face in faces:
        x0, x1 = np.clip(np.round(face.box[[0, 2]]), 0, faces.width).astype(int).tolist()
        y0, y1 = np.clip(np.round(face.box[[1, 3]]), 0, faces.height).astype(int).tolist()
        x0, y0 = min(x0, faces.width - 1), min(y0, faces.height - 1)
        out[face.frame].append({"x": x0, "y": y0, "width": max(x1 - x0, 1), "height": max(y1 - y0, 1), "label": "face",
                                "score": float(face.score)})
    return out
