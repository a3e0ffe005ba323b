"""Finds the cuts of a clip: frames with which another shot begins."""

from __future__ import annotations

from collections import deque

import torch
import torch.nn.functional as F

EDGE = 24  # pixels of the small pictures that are compared
REACH = 3  # pixels by which one of them may be shifted against the other
LEAST_CHANGE = .1  # mean difference of two small pictures, 0..1, below which there is no cut
LEAST_RATIO = 3.0  # and how many times that of the frames just before it must be
REMEMBERED = 4  # frames


class CutFinder:
    """Tells with which frames of a clip another shot begins, frame by frame; what it knows is in its fields.

    Small pictures that follow each other are compared with their mean brightness taken out, so that a flash is none, and shifted against
    each other, so that a fast pan is none. A cut changes them much more than what moved just before (the rule of an adaptive threshold, as
    in PySceneDetect's AdaptiveDetector).
    """

    def __init__(self) -> None:
        self.last: torch.Tensor | None = None
        self.changes: deque[float] = deque(maxlen=REMEMBERED)

    def is_cut(self, image: torch.Tensor) -> bool:
        """Return whether a new shot begins with this frame ``[H, W, 3]``; the first one of a clip is none. Frames come in order."""
        small = F.adaptive_avg_pool2d(image[..., :3].permute(2, 0, 1)[None].float(), EDGE)[0]
        small = small - small.mean((1, 2), keepdim=True)
        last, self.last = self.last, small
        if last is None:
            return False
        change = _difference(small, last)
        usual = max(self.changes, default=0.0)
        cut = change >= LEAST_CHANGE and change >= LEAST_RATIO * usual
        self.changes.append(usual if cut else change)  # a cut says nothing of how much the new shot moves
        return cut


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the mean difference of two pictures ``[3, EDGE, EDGE]`` at the shift, of up to ``REACH`` pixels, at which it is least."""
    inner = one[:, REACH:-REACH, REACH:-REACH]
    shifted = other.unfold(1, EDGE - 2 * REACH, 1).unfold(2, EDGE - 2 * REACH, 1)  # [3, shifts down, shifts right, h, w]
    return float((shifted - inner[:, None, None]).abs().mean((0, 3, 4)).min())
