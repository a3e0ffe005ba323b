"""Squares to crop a face by other than FFHQ's: those that research systems were trained on.

A face carries its square along (``Face.square``), so that every later stage, Paste Back included, works on that crop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..errors import FaceLoomError
from ..faces import Face, Faces
from ..options.ranges import check_choice

# Face-Adapter's crop: 0.81 box widths on each side of the box's middle end at pixels 80 and 432 of a picture of 512.
_BOX_SHARE, _BOX_EDGE, _BOX_MARGIN = 0.81, 512, 80


def quad_square(face: Face) -> np.ndarray:
    """Return image → unit square ``[2, 3]`` of the crop that FFHQ itself was cut by (Karras et al. 2019, appendix A).

    REFace, DiffSwap, MegaFS and pSp use it. Its position and turn come from the middles of the eyes and of the mouth: half its edge is
    twice the eye distance or 1.8 times the distance from eyes to mouth, whichever is longer, and it is turned by the mean of both
    directions.
    """
    left, right, _, *corners = face.keypoints.astype(np.float64)
    eyes, mouth = (left + right) / 2, sum(corners) / 2
    across, down = right - left, mouth - eyes
    x = across - np.array([-down[1], down[0]])
    length = np.hypot(*x)
    if length < 1e-6:
        raise FaceLoomError("A face's keypoints lie in one place; remove that face with Face Select.")
    x *= max(2 * np.hypot(*across), 1.8 * np.hypot(*down)) / length
    return _unit(eyes + 0.1 * down, x)


def box_square(face: Face) -> np.ndarray:
    """Return image → unit square ``[2, 3]`` of Face-Adapter's crop, which is upright around the detector's box."""
    half = _BOX_SHARE * float(face.box[2] - face.box[0]) * _BOX_EDGE / (_BOX_EDGE - 2 * _BOX_MARGIN)
    if half < 1e-6:
        raise FaceLoomError("A face's box is empty; remove that face with Face Select.")
    return _unit(face.center.astype(np.float64), np.array([half, 0.0]), middle=0.5 + 0.5 / _BOX_EDGE)


ALIGNMENTS: dict[str, Callable[[Face], np.ndarray] | None] = {"FFHQ": None, "FFHQ quad": quad_square, "box": box_square}


def align_faces(faces: Faces, alignment: str, crop_size: int | None = None, framing: float = 1.0) -> Faces:
    """Return the same faces, cropped by another of ``ALIGNMENTS``. crop_size: edge of the crops, pixels; None keeps theirs."""
    check_choice("alignment", alignment, ALIGNMENTS)
    square = ALIGNMENTS[alignment]
    items = tuple(replace(face, square=None if square is None else square(face)) for face in faces)
    return replace(faces, items=items, crop_size=crop_size or faces.crop_size, framing=framing)


def _unit(center: np.ndarray, half: np.ndarray, middle: float = 0.5) -> np.ndarray:
    """Return image → unit square ``[2, 3]``.

    center: the image point that comes to lie at (``middle``, ``middle``). half: half the square's upper edge, from left to right, as a
    vector ``[2]`` in image pixels.
    """
    x, y = half / (2 * half @ half)
    linear = np.array([[x, y], [-y, x]])
    return np.concatenate([linear, (middle - linear @ center)[:, None]], 1)
