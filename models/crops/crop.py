"""The canonical crop: the one place that knows which square of the photograph a face's crop shows."""

from __future__ import annotations

import math
import weakref

import numpy as np
import torch

from ..faces import Face, Faces
from ..pixels.affine import bounds, invert, similarity
from ..pixels.sampling import sample_crops
from ..pixels.tensors import expand_rgb
from .templates import TEMPLATES


def crop_matrix(face: Face | np.ndarray, size: int, framing: float = 1.0) -> np.ndarray:
    """Image → canonical crop of ``size`` pixels, ``[2, 3]`` (or ``[..., 2, 3]`` for ``[..., 5, 2]`` keypoints).

    The template is a fraction of the crop's edge counted from its border, so crops of different sizes show exactly the same
    square of the photograph. ``framing`` 1.0 is FFHQ; 1.25 takes in a quarter more in each direction. A face that has a ``square`` of
    its own is cropped by that one.
    """
    return _at_size(_square(face), size, framing)


def _square(face: Face | np.ndarray) -> np.ndarray:
    """Image → the unit square that a face, or faces of these keypoints, are cropped by."""
    if isinstance(face, Face):
        return similarity(face.keypoints, TEMPLATES["ffhq_512"]) if face.square is None else face.square
    return similarity(face, TEMPLATES["ffhq_512"])


def _at_size(square: np.ndarray, size: int, framing: float) -> np.ndarray:
    """Image → unit square ``[..., 2, 3]`` to image → crop that shows ``framing`` times as much."""
    matrix = square * (size / framing)
    matrix[..., 2] += size * (0.5 - 0.5 / framing) - 0.5
    return matrix

# Every stage asks for the crops of the same faces.
_squares: weakref.WeakKeyDictionary[Faces, np.ndarray] = weakref.WeakKeyDictionary()


def crop_matrices(faces: Faces, size: int | None = None) -> np.ndarray:
    """``[N, 2, 3]``: the canonical crop of every face, at ``size`` or the faces' own crop size."""
    if faces not in _squares:
        mixed = any(face.square is not None for face in faces)
        _squares[faces] = np.stack([_square(face) for face in faces]) if mixed else _square(faces.keypoints)
    return _at_size(_squares[faces], size or faces.crop_size, faces.framing)


def face_windows(faces: Faces, times: float = 2.0) -> list[tuple[slice, slice, slice]]:
    """Frames (one each), rows and columns of the upright rectangle around all crops of each frame that has any, every crop taken
    ``times`` as wide and high about its middle."""
    found: dict[int, list[float]] = {}
    margin = (times - 1) / 2
    for face, matrix in zip(faces, invert(crop_matrices(faces, 1))):  # integers are pixel centres: a crop of one pixel is -0.5 to 0.5
        x0, y0, x1, y1 = bounds(matrix, -0.5 - margin, -0.5 - margin, 0.5 + margin, 0.5 + margin)
        box = found.setdefault(face.frame, [x0, y0, x1, y1])
        box[:] = min(x0, box[0]), min(y0, box[1]), max(x1, box[2]), max(y1, box[3])
    return [(slice(frame, frame + 1), slice(max(0, math.floor(y0)), max(0, math.ceil(y1) + 1)), slice(max(0, math.floor(x0)),
            max(0, math.ceil(x1) + 1))) for frame, (x0, y0, x1, y1) in sorted(found.items())]


def crop_faces(images: torch.Tensor, faces: Faces, size: int | None = None) -> torch.Tensor:
    """The canonical crops ``[N, S, S, 3]`` of all faces; ``[0, S, S, 3]`` when there are none. Alpha is dropped, grey becomes RGB.

    They are the caller's own, to write in. Crops that ``hand_out_crops`` cut before are copied."""
    faces.check_image(images.shape)
    size = size or faces.crop_size
    cut_before = [handed_out(images, face, faces.framing, size) for face in faces]
    if all(crop is None for crop in cut_before):
        return sample_crops(expand_rgb(images), faces.frame_indices, crop_matrices(faces, size), size)
    crops = torch.empty((len(faces), size, size, 3), dtype=torch.float32, device=images.device)
    for i, before in enumerate(cut_before):
        crops[i] = crop_faces(images, faces.take([i]), size)[0] if before is None else before
    return crops

# Where a face's crop is, as long as somebody holds it and its photograph: both, its number, its framing, and what it adds up to.
_handed_out: weakref.WeakKeyDictionary[Face, tuple[weakref.ref, weakref.ref, int, float, float]] = weakref.WeakKeyDictionary()


def hand_out_crops(images: torch.Tensor, faces: Faces) -> torch.Tensor:
    """``crop_faces`` for crops that, like ``images``, nobody writes in: all stages after this one want the same crops again, and need
    not cut them while these are still there."""
    crops = crop_faces(images, faces)
    for i, face in enumerate(faces):
        _handed_out[face] = weakref.ref(images), weakref.ref(crops), i, faces.framing, float(crops[i].sum())
    return crops


def handed_out(images: torch.Tensor, face: Face, framing: float, size: int) -> torch.Tensor | None:
    """The crop ``[size, size, 3]`` of a face of this very ``images`` from ``hand_out_crops``, not to be written in; None where there is
    none, or where somebody wrote in it all the same."""
    photograph, crops, number, framed, total = _handed_out.get(face, (None, None, 0, 0.0, 0.0))
    if photograph is None or photograph() is not images or framed != framing:
        return None
    crops = crops()
    if crops is None or crops.shape[1] != size:
        return None
    crop = crops[number]
    return crop if float(crop.sum()) == total else None
