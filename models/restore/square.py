"""The square a restoration network was trained on, cut out of the canonical crop, and its answer drawn back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..geometry import TEMPLATES, compose, invert, sample_crops, similarity
from ..picture import resize
from ..progress import Progress, silent
from ..swap.draw import draw

# Crops held at once at the network's size.
CROPS = 8

Run = Callable[[torch.Tensor, Progress], torch.Tensor]


def restore_squares(run: Run, crops: torch.Tensor, edge: int, template: str | None, framing: float, progress: Progress = silent
                    ) -> torch.Tensor:
    """Crops ``[N, S, S, 3]`` of this ``framing`` through a network that wants pictures of ``edge`` pixels aligned to ``template``.

    ``run`` takes ``[n, edge, edge, 3]`` to ``[n, t, t, 3]``, 0..1. Where the network's square is the crop itself (FFHQ, framing 1) its
    answers come back at its own size; else they are drawn into the crops, and what the network did not see stays.
    """
    if len(crops) == 0:
        return crops
    whole = template in (None, "ffhq_512") and framing == 1
    matrix = square_matrix(template or "ffhq_512", edge, crops.shape[1], framing)
    restored = []
    for start in range(0, len(crops), CROPS):
        part = crops[start : start + CROPS, ..., :3]
        squares = resize(part, edge) if whole else sample_crops(part, range(len(part)), np.repeat(matrix[None], len(part), 0), edge)
        answers = run(squares, lambda done, _, start=start: progress(start + done, len(crops))).to(crops.device)
        restored.append(answers if whole else torch.stack([draw_back(*pair, matrix, edge) for pair in zip(part, answers, strict=True)]))
    return torch.cat(restored)


def square_matrix(template: str, edge: int, size: int, framing: float) -> np.ndarray:
    """``[2, 3]``: canonical crop of ``size`` pixels and this ``framing`` → the network's square."""
    face = ((TEMPLATES["ffhq_512"] - 0.5) / framing + 0.5) * size - 0.5
    # FFHQ's template is a share of the edge (geometry.crop_matrix); the others are insightface's pixel coordinates.
    return similarity(face, TEMPLATES[template] * edge - (0.5 if template == "ffhq_512" else 0))


def draw_back(crop: torch.Tensor, answer: torch.Tensor, matrix: np.ndarray, edge: int) -> torch.Tensor:
    """``crop`` ``[S, S, 3]`` with the answer ``[t, t, 3]`` to its square drawn in, fading in at the square's edge."""
    finer = len(answer) / edge
    to_answer = compose(np.array([[finer, 0, (finer - 1) / 2], [0, finer, (finer - 1) / 2]]), matrix)
    crop = crop.to(torch.float32)
    drawn, mask = draw(crop, answer, invert(to_answer), crop.new_ones(crop.shape[:2]))
    return torch.lerp(crop, drawn, mask[..., None])
