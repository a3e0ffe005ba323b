"""The canonical crop: the one place that knows which square of the photograph a face's crop shows."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace

import numpy as np
import torch

from ..errors import FaceLoomError
from ..faces import CutCrop, CutCrops, Face, Faces, unit_square
from ..options.ranges import LARGEST_EDGE, check_number
from ..pixels.affine import bounds, invert
from ..pixels.checksum import checksum
from ..pixels.sampling import sample_crops, source_window
from ..pixels.tensors import as_images, check_images, check_squares

# Part of a sentence.
BYPASSED = "no node between them is bypassed: it hands the whole picture on in place of the crops."
# How much crops take in at least and at most, wherever the number comes from.
LEAST_FRAMING, MOST_FRAMING = 0.05, 40


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


def check_edge(size: int) -> None:
    """Raise FaceLoomError where ``size`` is no edge in whole pixels that a crop can have."""
    check_number("The crop's edge", size, 1, LARGEST_EDGE, whole=True)


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
        raise FaceLoomError(f"There are {count} crops but {len(faces)} faces; connect the faces that these crops were cut from, and see "
                            f"that {BYPASSED}")


def check_crops(crops: torch.Tensor, faces: Faces) -> None:
    """Raise FaceLoomError unless there is one crop ``[N, S, S, 3]`` float32 for each face."""
    check_images(crops, "crops")
    check_squares(crops)
    check_crop_count(len(crops), faces)


def check_crops_are_of(crops: torch.Tensor, faces: Faces, images: torch.Tensor | None = None) -> None:
    """Raise FaceLoomError where pictures ``[N, H, W, C]`` cannot be the crops of these faces: they are not square, not as many, or the
    photograph itself, which is what a bypassed node hands on.

    images: the photographs, where they are at hand; else those that the faces' crops were cut from are told by their checksums. A crop
    that really looks like all of its photograph is one: both have one colour, or the face's square is the whole picture.
    """
    if crops.ndim != 4 or 0 in crops.shape:
        raise FaceLoomError(f"crops must be a picture batch [N, S, S, 3], not {tuple(crops.shape)}.")
    check_squares(crops)
    check_crop_count(len(crops), faces)
    if crops.shape[:3] != (faces.frames, faces.height, faces.width):
        return
    pictures = as_images(crops, "crops", whites=faces.whites)
    if _are_the_photographs(pictures, faces, images) and not _looks_the_same(pictures, faces):
        raise FaceLoomError(f"The crops are the whole picture; connect those that were cut from it, and see that {BYPASSED}")


def _are_the_photographs(pictures: torch.Tensor, faces: Faces, images: torch.Tensor | None) -> bool:
    """Whether ``pictures`` ``[B, H, W, 3]`` 0..1 equal ``images``, or without those look where the faces' crops were cut as the photographs
    did then."""
    if images is not None:
        return images.shape[:3] == pictures.shape[:3] and torch.equal(pictures, as_images(images, whites=faces.whites).to(pictures))
    places = () if faces.cut is None else faces.cut.by_place.items()
    return bool(places) and all(checksum(_source(pictures, frame, np.frombuffer(matrix).reshape(2, 3), faces.crop_size))
                                == crop.source_checksum for (frame, matrix), crop in places)


def _looks_the_same(pictures: torch.Tensor, faces: Faces) -> bool:
    """Whether the crops of ``pictures`` ``[B, S, S, 3]`` look like the pictures themselves."""
    crops = crop_faces(pictures, faces, pictures.shape[1])
    return crops.shape == pictures.shape and torch.allclose(crops, pictures, rtol=0, atol=1e-5)


def crop_faces(images: torch.Tensor, faces: Faces, size: int | None = None) -> torch.Tensor:
    """Cut the canonical crops of all faces out of ``images`` ``[B, H, W, 3]`` float32: ``[N, S, S, 3]`` float32 0..1.

    size: edge of the crops, pixels; None is the faces' own. Without faces the result is ``[0, S, S, 3]``. It is always new memory, even
    where ``cut_crops`` cut the same crops before: those are copied.
    """
    check_images(images)
    faces.check_image(images.shape)
    size = faces.crop_size if size is None else size
    check_edge(size)
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
