"""The answer of a parsing network, scores per class, as labels of our regions."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..pixels.resize import resize_bicubic, resize_bilinear
from ..progress import Progress, silent
from . import REGIONS

# The 19 classes of CelebAMask-HQ in the order of zllrunning's BiSeNet and everything trained after it.
CLASSES: tuple[str, ...] = (
    "background", "skin", "left_brow", "right_brow", "left_eye", "right_eye", "glasses", "left_ear", "right_ear", "earring", "nose",
    "mouth", "upper_lip", "lower_lip", "neck", "necklace", "cloth", "hair", "hat",
)  # fmt: skip

PAIRS = tuple((REGIONS.index(f"left_{part}"), REGIONS.index(f"right_{part}")) for part in ("brow", "eye", "ear"))
NOSE = REGIONS.index("nose")
# Below this share of its pair's larger side, a side is a slip of the network and says nothing about where the other one lies.
SLIP = 1 / 16
# Crops whose scores are held at once: 19 planes each.
CROPS = 8


def parse_crops(scores_of: Callable[[torch.Tensor, Progress], torch.Tensor], crops: torch.Tensor, edge: int,
                progress: Progress = silent) -> torch.Tensor:
    """Labels ``[N, S, S]`` uint8 of ``crops`` ``[N, S, S, 3]``. ``scores_of`` takes pictures ``[n, edge, edge, 3]`` to ``[n, 19, h, w]``"""
    count, height, width = crops.shape[:3]
    labels = torch.zeros((count, height, width), dtype=torch.uint8, device=crops.device)
    for start in range(0, count, CROPS):
        part = crops[start : start + CROPS, ..., :3]
        scores = scores_of(resize_bicubic(part, edge), lambda done, _, start=start: progress(start + done, count))
        for i, planes in enumerate(scores):
            labels[start + i] = label_regions(planes, height, width).to(crops.device)
    return labels


def label_regions(scores: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Scores ``[19, h, w]`` to labels ``[height, width]``, indices into ``REGIONS``.

    The scores are enlarged, not the labels, so that borders are smooth curves.
    """
    return sort_sides(_best(resize_bilinear(scores, height, width)))


def _best(scores: torch.Tensor) -> torch.Tensor:
    """The region with the highest score at every pixel: ``argmax`` and a table in one, plane by plane, which is several times as fast on
    a CPU. Regions come in rising order, so the last one that beat all before it has the largest number."""
    first, *later = sorted((REGIONS.index(name), number) for number, name in enumerate(CLASSES))
    best = scores[first[1]].clone()
    labels = torch.zeros(best.shape, dtype=torch.uint8, device=scores.device)
    for region, number in later:
        better = (scores[number] > best).to(torch.uint8)
        labels = torch.maximum(labels, better.mul_(region))
        best = torch.maximum(best, scores[number])
    return labels


def sort_sides(labels: torch.Tensor) -> torch.Tensor:
    """``[H, W]`` labels of an upright face with left and right as the viewer sees them.

    Networks mix up the sides of brows, eyes and ears (annotators did), so the side is told by where the part lies: of two, the one
    further left is the left one; a single one is compared with the nose.
    """
    nose = _middle(labels == NOSE)
    middle = (labels.shape[1] - 1) / 2 if nose is None else nose
    for left, right in PAIRS:
        masks = labels == left, labels == right
        counts = [int(mask.sum()) for mask in masks]
        if not any(counts):
            continue
        if min(counts) > SLIP * max(counts):
            crossed = _middle(masks[0]) > _middle(masks[1])
        else:
            large = counts.index(max(counts))
            crossed = (_middle(masks[large]) > middle) == (large == 0)
        if crossed:
            labels = labels.masked_fill(masks[0], right).masked_fill(masks[1], left)
    return labels


def _middle(mask: torch.Tensor) -> float | None:
    """Mean column of a mask ``[H, W]``; None where it is empty."""
    columns = mask.sum(0, dtype=torch.float32)
    total = float(columns.sum())
    return float((columns * torch.arange(len(columns), device=mask.device)).sum()) / total if total else None
