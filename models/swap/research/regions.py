"""Makes masks in an engine's own square with a face parser."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from ...parse import REGIONS, Parser
from ...pixels.soft_erosion import soft_erosion

FACE = ("skin", "left_brow", "right_brow", "left_eye", "right_eye", "glasses", "nose", "mouth", "upper_lip", "lower_lip")


def parsed_mask(parser: Parser, targets: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """Returns ``[n, S, S]``, 1 where pixels of targets ``[n, 3, S, S]`` 0..1 are of these regions, else 0."""
    regions = parser.parse(targets.permute(0, 2, 3, 1).float())
    wanted = torch.tensor([REGIONS.index(name) for name in names], dtype=regions.dtype, device=regions.device)
    return torch.isin(regions, wanted).to(torch.float32).to(targets.device)


def kept_mask(parser: Parser, targets: torch.Tensor, names: Sequence[str], at: int = 512) -> torch.Tensor:
    """Returns ``parsed_mask`` eroded softly at ``at`` pixels, as MegaFS (1024) and ReliableSwap (512) do."""
    mask = functional.interpolate(parsed_mask(parser, targets, names)[:, None], size=(at, at), mode="bilinear", align_corners=False)
    soft = soft_erosion(mask[:, 0])
    return functional.interpolate(soft[:, None], size=targets.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
