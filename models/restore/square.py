"""The square a restoration network was trained on, cut out of the canonical crop, and its answer drawn back."""

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

# Crops held at once at the network's size.
CROPS = 8

Run = Callable[[torch.Tensor, Progress], torch.Tensor]


def restore_squares(run: Run, crops: torch.Tensor, edge: int, template: str | None, points: np.ndarray | None,
                    progress: Progress = silent) -> torch.Tensor:
    """Crops ``[N, S, S, 3]`` through a network that wants pictures of ``edge`` pixels aligned to ``template`` (None: any picture).

    ``points`` ``[N, 5, 2]`` is where the crops show the five points of a face (``face_points``); unset, where FFHQ's template has them.
    ``run`` takes ``[n, edge, edge, 3]`` to ``[n, t, t, 3]``, 0..1. Where the network's square is the crop itself (FFHQ, framing 1) its
    answers come back at its own size; else they are drawn into the crops, and what the network did not see stays.
    """
    count, size = crops.shape[:2]
    if count == 0:
        return crops
    own = usual_points(size)
    points = np.broadcast_to(own, (count, 5, 2)) if points is None else points
    whole = template is None or (template == "ffhq_512" and np.allclose(points, own, atol=1e-3))
    matrices = None if whole else square_matrix(template, edge, points)
    restored = []
    for start in range(0, count, CROPS):
        part = crops[start : start + CROPS, ..., :3]
        squares = resize_bicubic(part, edge) if whole else sample_crops(part, range(len(part)), matrices[start : start + CROPS], edge)
        answers = run(squares, lambda done, _, start=start: progress(start + done, count)).to(crops.device)
        if not whole:
            drawn = zip(part, answers, matrices[start : start + CROPS], strict=True)
            answers = torch.stack([draw_square_back(*each, edge) for each in drawn])
        restored.append(answers)
    return torch.cat(restored)


def usual_points(size: int, framing: float = 1.0) -> np.ndarray:
    """``[5, 2]``: FFHQ's template in a canonical crop of ``size`` pixels."""
    return ((TEMPLATES["ffhq_512"] - 0.5) / framing + 0.5) * size - 0.5


def face_points(faces: Faces, size: int) -> np.ndarray:
    """``[N, 5, 2]``: where crops of ``size`` pixels show what a network aligns by: FFHQ's template, which the crops were made by, or the
    face's own keypoints in crops by another square."""
    def points(face: Face) -> np.ndarray:
        # FFHQ's pictures themselves were cut by the quad, and face restorers were trained on those.
        if face.square is None or np.allclose(face.square, quad_square(face)):
            return usual_points(size, faces.framing)
        return transform(face.keypoints, crop_matrix(face, size, faces.framing))

    return np.stack([points(face) for face in faces])


def square_matrix(template: str, edge: int, points: np.ndarray) -> np.ndarray:
    """``[N, 2, 3]``: crop → the network's square, for a face whose five points ``[N, 5, 2]`` lie there in the crop."""
    # FFHQ's template is a share of the edge (geometry.crop_matrix); the others are insightface's pixel coordinates.
    return similarity(points, TEMPLATES[template] * edge - (0.5 if template == "ffhq_512" else 0))


def draw_square_back(crop: torch.Tensor, answer: torch.Tensor, matrix: np.ndarray, edge: int) -> torch.Tensor:
    """``crop`` ``[S, S, 3]`` with the answer ``[t, t, 3]`` to its square drawn in, fading in at the square's edge."""
    finer = len(answer) / edge
    to_answer = compose(np.array([[finer, 0, (finer - 1) / 2], [0, finer, (finer - 1) / 2]]), matrix)
    drawn = crop.to(torch.float32, copy=True)
    mask = drawn.new_empty(drawn.shape[:2])
    draw_back(drawn, mask, answer, invert(to_answer), torch.ones_like(mask))
    return torch.lerp(crop.to(torch.float32), drawn, mask[..., None])
