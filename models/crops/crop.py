"""The canonical crop: the one place that knows which square of the photograph a face's crop shows."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace

import numpy as np
import torch

from ..errors import FaceLoomError
from ..faces import CutCrop, CutCrops, Face, Faces, unit_square
from ..options.ranges import check_number
from ..pixels.affine import bounds, invert
from ..pixels.checksum import checksum
from ..pixels.sampling import sample_crops, source_window
from ..pixels.tensors import check_images, check_squares

# Edge in pixels of the largest crop, and how much crops take in at least and at most, wherever the numbers come from.
LARGEST_EDGE, LEAST_FRAMING, MOST_FRAMING = 16384, 0.05, 40


def crop_matrix(face: Face | np.ndarray, size: int, framing: float = 1.0) -> np.ndarray:
    """Return image → canonical crop of ``size`` pixels, ``[2, 3]`` float64, or ``[..., 2, 3]`` for ``[..., 5, 2]`` keypoints.

    The template is a fraction of the crop's edge counted from its border, so crops of different sizes show exactly the same square of the
    photograph. framing: 1.0 is FFHQ's; 1.25 takes in a quarter more in each direction. A face that has a ``square`` of its own is cropped
    by that one.
    """
    _check_numbers(size, framing)
    return _at_size(unit_square(face), size, framing)


def _check_numbers(size: float, framing: float) -> None:
    """Raises FaceLoomError for a size or a framing of which no crop can be made. (Faces that come from nodes have narrower ranges.)"""
    check_number("The crop's edge", size, 1, LARGEST_EDGE)
    check_number("Framing", framing, LEAST_FRAMING, MOST_FRAMING)


def _at_size(square: np.ndarray, size: int, framing: float) -> np.ndarray:
    """Image → unit square ``[..., 2, 3]`` to image → crop that shows ``framing`` times as much."""
    matrix = square * (size / framing)
    matrix[..., 2] += size * (0.5 - 0.5 / framing) - 0.5
    return matrix


def crop_matrices(faces: Faces, size: int | None = None) -> np.ndarray:
    """Return image → canonical crop of every face, ``[N, 2, 3]`` float64. size: edge of the crops, pixels; None is the faces' own."""
    size = faces.crop_size if size is None else size
    _check_numbers(size, faces.framing)
    return _at_size(faces.unit_squares, size, faces.framing)


def face_windows(faces: Faces, scale: float = 2.0) -> list[tuple[slice, slice, slice]]:
    """For each frame with faces, the slices (frame, rows, columns) of the upright rectangle that covers its crops.

    scale: every crop is taken this many times as wide and high, about its middle.
    """
    check_number("The scale of the windows", scale, 1e-3, 100)
    windows: dict[int, list[float]] = {}
    margin = (scale - 1) / 2
    for face, matrix in zip(faces, invert(crop_matrices(faces, 1))):  # integers are pixel centres: a crop of one pixel is -0.5 to 0.5
        x0, y0, x1, y1 = bounds(matrix, -0.5 - margin, -0.5 - margin, 0.5 + margin, 0.5 + margin)
        box = windows.setdefault(face.frame, [x0, y0, x1, y1])
        box[:] = min(x0, box[0]), min(y0, box[1]), max(x1, box[2]), max(y1, box[3])
    return [(slice(frame, frame + 1), slice(max(0, math.floor(y0)), max(0, math.ceil(y1) + 1)), slice(max(0, math.floor(x0)),
            max(0, math.ceil(x1) + 1))) for frame, (x0, y0, x1, y1) in sorted(windows.items())]


def check_crop_count(count: int, faces: Faces) -> None:
    """Raise FaceLoomError unless there are as many crops as faces."""
    if count != len(faces):
        raise FaceLoomError(f"There are {count} crops but {len(faces)} faces; connect the faces that these crops were cut from. (A node "
                            "between them that is bypassed hands the whole picture on in place of the crops.)")


def check_crops(crops: torch.Tensor, faces: Faces) -> None:
    """Raise FaceLoomError unless there is one crop ``[N, S, S, 3]`` float32 for each face."""
    check_images(crops, "crops")
    check_squares(crops)
    check_crop_count(len(crops), faces)


def crop_faces(images: torch.Tensor, faces: Faces, size: int | None = None) -> torch.Tensor:
    """Cut the canonical crops of all faces out of ``images`` ``[B, H, W, 3]`` float32: ``[N, S, S, 3]`` float32 0..1.

    size: edge of the crops, pixels; None is the faces' own. Without faces the result is ``[0, S, S, 3]``. It is always new memory, even
    where ``cut_crops`` cut the same crops before: those are copied.
    """
    check_images(images)
    faces.check_image(images.shape)
    size = faces.crop_size if size is None else size
    check_number("The crop's edge", size, 1, LARGEST_EDGE, whole=True)
    matrices = crop_matrices(faces, size)
    known = [find_cut_crop(images, faces, i, matrix, size) for i, matrix in enumerate(matrices)]
    missing = [i for i, crop in enumerate(known) if crop is None]
    if len(missing) == len(faces):
        return sample_crops(images, faces.frame_indices, matrices, size)
    crops = torch.empty((len(faces), size, size, 3), dtype=torch.float32, device=images.device)
    if missing:
        crops[missing] = sample_crops(images, faces.frame_indices[missing], matrices[missing], size)
    for i, crop in enumerate(known):
        if crop is not None:
            crops[i] = crop
    return crops


def cut_crops(images: torch.Tensor, faces: Faces) -> tuple[Faces, torch.Tensor]:
    """Cut the canonical crops of all faces, as ``crop_faces`` does, and return ``(the same faces, crops)``.

    The faces that are returned know the crops (``Faces.cut``), and later stages that are given them with the same ``images`` copy the
    crops instead of cutting them again, as long as somebody holds both and neither was written in.
    """
    crops = crop_faces(images, faces)
    matrices = crop_matrices(faces)
    by_place = {}
    for i, (face, matrix) in enumerate(zip(faces, matrices, strict=True)):
        source = _source(images, face.frame, matrix, faces.crop_size)
        by_place[face.frame, matrix.tobytes()] = CutCrop(i, checksum(crops[i]), checksum(source))
    return replace(faces, cut=CutCrops(weakref.ref(images), weakref.ref(crops), by_place)), crops


def find_cut_crop(images: torch.Tensor, faces: Faces, index: int, matrix: np.ndarray, size: int) -> torch.Tensor | None:
    """Find the crop ``[size, size, 3]`` of one face that ``cut_crops`` cut out of these ``images``, which must not be written in.

    matrix: image → crop, of this face at this size. None where there is none: it was cut from another tensor, by another matrix, it is
    in memory no more, or somebody wrote in it or in the pixels it was cut from.
    """
    cut = faces.cut
    if cut is None or cut.images() is not images:
        return None
    frame = faces[index].frame
    found, crops = cut.by_place.get((frame, matrix.tobytes())), cut.crops()
    if found is None or crops is None or crops.shape[1] != size:
        return None
    crop = crops[found.number]
    unchanged = checksum(crop) == found.checksum and checksum(_source(images, frame, matrix, size)) == found.source_checksum
    return crop if unchanged else None


def _source(images: torch.Tensor, frame: int, matrix: np.ndarray, size: int) -> torch.Tensor:
    """The pixels ``[h, w, 3]`` that a crop is made of, a view."""
    rows, columns = source_window(invert(matrix), size, size, *images.shape[1:3])
    return images[frame, rows, columns]
