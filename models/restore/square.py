"""Cuts the square that a restoration network was trained on out of the canonical crop, and draws the network's output back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..crops.crop import crop_matrix
from ..crops.draw_back import draw_back
from ..crops.squares import quad_square
from ..crops.templates import TEMPLATES
from ..faces import Face, Faces
from ..pixels.affine import compose, invert, similarity, transform
from ..pixels.resize import resize_bicubic
from ..pixels.sampling import sample_crops
from ..progress import Progress, silent

# How many crops are held at the network's size at once.
MAX_SQUARES = 8

Run = Callable[[torch.Tensor, Progress], torch.Tensor]


def restore_squares(run: Run, crops: torch.Tensor, edge: int, template: str | None, points: np.ndarray | None,
                    progress: Progress = silent) -> torch.Tensor:
    """Restore crops ``[N, S, S, 3]`` with a network that takes squares of its own alignment and size.

    run: takes squares ``[n, edge, edge, 3]`` to ``[n, T, T, 3]``, both 0..1, and reports how many are done. template: what the squares are
    aligned to (a key of ``TEMPLATES``); None where the network takes any picture. points: ``[N, 5, 2]``, where the crops show the five
    points of the face (``face_points``); None is where FFHQ's template has them.

    Returns ``[N, T, T, 3]`` where the network's square is the crop itself (FFHQ, framing 1). Else the outputs are drawn into the crops,
    ``[N, S, S, 3]``, and what the network did not see stays.
    """
    count, size = crops.shape[:2]
    if count == 0:
        return crops
    own = usual_points(size)
    points = np.broadcast_to(own, (count, 5, 2)) if points is None else points
    crop_is_square = template == "ffhq_512" and np.allclose(points, own, atol=1e-3)
    matrices = None if template is None or crop_is_square else square_matrix(template, edge, points)
    restored = []
    for start in range(0, count, MAX_SQUARES):
        part = crops[start : start + MAX_SQUARES, ..., :3]
        if matrices is None:
            squares = resize_bicubic(part, edge)
        else:
            squares = sample_crops(part, range(len(part)), matrices[start : start + MAX_SQUARES], edge)
        outputs = run(squares, lambda done, _, start=start: progress(start + done, count)).to(crops.device)
        if matrices is not None:
            drawn = zip(part, outputs, matrices[start : start + MAX_SQUARES], strict=True)
            outputs = torch.stack([draw_square_back(*each, edge) for each in drawn])
        restored.append(outputs)
    return torch.cat(restored)


def usual_points(size: int, framing: float = 1.0) -> np.ndarray:
    """Return where a canonical crop of ``size`` pixels shows the five points of FFHQ's template, ``[5, 2]``."""
    return ((TEMPLATES["ffhq_512"] - 0.5) / framing + 0.5) * size - 0.5


def face_points(faces: Faces, size: int) -> np.ndarray:
    """Return where crops of ``size`` pixels show the five points that a network aligns by, ``[N, 5, 2]``.

    In FFHQ's crops these are the points of FFHQ's template; in crops by another square they are the face's own keypoints.
    """
    def points(face: Face) -> np.ndarray:
        # FFHQ's pictures themselves were cut by the quad, and face restorers were trained on those.
        if face.square is None or np.allclose(face.square, quad_square(face)):
            return usual_points(size, faces.framing)
        return transform(face.keypoints, crop_matrix(face, size, faces.framing))

    return np.stack([points(face) for face in faces])


def square_matrix(template: str, edge: int, points: np.ndarray) -> np.ndarray:
    """Return crop → the network's square of ``edge`` pixels, ``[N, 2, 3]``. points: ``[N, 5, 2]``, where the crops show the five points."""
    # FFHQ's template counts from the border of the crop (crops/crop.py); the others are insightface's pixel coordinates.
    return similarity(points, TEMPLATES[template] * edge - (0.5 if template == "ffhq_512" else 0))


def draw_square_back(crop: torch.Tensor, output: torch.Tensor, matrix: np.ndarray, edge: int) -> torch.Tensor:
    """Return ``crop`` ``[S, S, 3]`` with the network's output ``[T, T, 3]`` drawn in, fading in at the square's edge.

    matrix: crop → square of ``edge`` pixels, ``[2, 3]``.
    """
    finer = len(output) / edge
    to_output = compose(np.array([[finer, 0, (finer - 1) / 2], [0, finer, (finer - 1) / 2]]), matrix)
    drawn = crop.to(torch.float32, copy=True)
    mask = drawn.new_empty(drawn.shape[:2])
    draw_back(drawn, mask, output, invert(to_output), torch.ones_like(mask))
    return torch.lerp(crop.to(torch.float32), drawn, mask[..., None])
