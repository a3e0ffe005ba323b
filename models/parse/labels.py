"""The output of a parsing network, scores per class, converted to labels of FaceLoom's regions."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..options.regions import REGIONS
from ..pixels.resize import resize_bicubic, resize_bilinear
from ..progress import Progress, silent

# The 19 classes of CelebAMask-HQ in the order of zllrunning's BiSeNet and everything trained after it.
CELEBA_CLASSES: tuple[str, ...] = (
    "background", "skin", "left_brow", "right_brow", "left_eye", "right_eye", "glasses", "left_ear", "right_ear", "earring", "nose",
    "mouth", "upper_lip", "lower_lip", "neck", "necklace", "cloth", "hair", "hat",
)  # fmt: skip

# Labels of the left and the right one of parts that come in pairs.
SIDES = tuple((REGIONS.index(f"left_{part}"), REGIONS.index(f"right_{part}")) for part in ("brow", "eye", "ear"))
NOSE = REGIONS.index("nose")
# A side with fewer pixels than this share of the other one is an error of the network and says nothing about where that one lies.
LEAST_SIDE = 1 / 16
# Crops whose scores, 19 planes each, are held at once.
CROPS_PER_BATCH = 8


def parse_crops(scores_of: Callable[[torch.Tensor, Progress], torch.Tensor], crops: torch.Tensor, edge: int,
                progress: Progress = silent) -> torch.Tensor:
    """Label crops ``[N, S, S, 3]`` 0..1 as ``[N, S, S]`` uint8, indices into ``REGIONS``.

    scores_of: the network, from crops ``[n, edge, edge, 3]`` and progress to scores ``[n, 19, h, w]``.
    """
    count, height, width = crops.shape[:3]
    labels = torch.zeros((count, height, width), dtype=torch.uint8, device=crops.device)
    for start in range(0, count, CROPS_PER_BATCH):
        batch = crops[start : start + CROPS_PER_BATCH, ..., :3]
        scores = scores_of(resize_bicubic(batch, edge), lambda done, _, start=start: progress(start + done, count))
        for i, planes in enumerate(scores):
            labels[start + i] = label_regions(planes, height, width).to(crops.device)
    return labels


def label_regions(scores: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Convert scores ``[19, h, w]`` of ``CELEBA_CLASSES`` to labels ``[height, width]`` uint8, indices into ``REGIONS``.

    The scores are enlarged, not the labels, so that borders are smooth curves.
    """
    return sort_sides(_highest_scoring(resize_bilinear(scores, height, width)))


def _highest_scoring(scores: torch.Tensor) -> torch.Tensor:
    """Return the region ``[H, W]`` uint8 with the highest score at every pixel: ``argmax`` and a table in one, plane by plane, which is
    several times as fast on a CPU. Regions come in rising order, so the last one that beat all before it has the largest number."""
    first, *later = sorted((REGIONS.index(name), number) for number, name in enumerate(CELEBA_CLASSES))
    best = scores[first[1]].clone()
    labels = torch.zeros(best.shape, dtype=torch.uint8, device=scores.device)
    for region, number in later:
        better = (scores[number] > best).to(torch.uint8)
        labels = torch.maximum(labels, better.mul_(region))
        best = torch.maximum(best, scores[number])
    return labels


def sort_sides(labels: torch.Tensor) -> torch.Tensor:
    """Correct left and right in labels ``[H, W]`` of an upright face; both are the viewer's.

    Networks mix up the sides of brows, eyes and ears (annotators did), so a part's side follows from where it lies: of two, the one
    further left is the left one; a single one is compared with the nose.
    """
    middle = _mean_column(labels == NOSE, (labels.shape[1] - 1) / 2)
    for left, right in SIDES:
        masks = labels == left, labels == right
        counts = [int(mask.sum()) for mask in masks]
        if not any(counts):
            continue
        if min(counts) > LEAST_SIDE * max(counts):
            crossed = _mean_column(masks[0], middle) > _mean_column(masks[1], middle)
        else:
            large = counts.index(max(counts))
            crossed = (_mean_column(masks[large], middle) > middle) == (large == 0)
        if crossed:
            labels = labels.masked_fill(masks[0], right).masked_fill(masks[1], left)
    return labels


def _mean_column(mask: torch.Tensor, otherwise: float) -> float:
    """Return the mean column of a mask ``[H, W]``; ``otherwise`` where it is empty."""
    columns = mask.sum(0, dtype=torch.float32)
    total = float(columns.sum())
    return float((columns * torch.arange(len(columns), device=mask.device)).sum()) / total if total else otherwise
