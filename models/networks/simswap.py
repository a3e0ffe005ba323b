"""SimSwap's generator (Chen et al., ACM MM 2020): convolutions down, nine blocks styled by the identity, and up again."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional


class Padded(nn.Sequential):
    """A convolution that mirrors the border."""

    def __init__(self, inner: int, outer: int, edge: int, *after: nn.Module) -> None:
        super().__init__(nn.ReflectionPad2d(edge // 2), nn.Conv2d(inner, outer, edge), *after)


class Style(nn.Module):
    """Scale (on top of 1) and shift every channel as a vector says."""

    def __init__(self, vector: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(vector, 2 * channels)

    def forward(self, x: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        scale, shift = self.linear(vector)[..., None, None].chunk(2, 1)
        return torch.addcmul(shift, x, 1 + scale)


class StyledBlock(nn.Module):
    """Two mirrored convolutions, normalised and styled, and what came in."""

    def __init__(self, channels: int, vector: int) -> None:
        super().__init__()
        self.conv1, self.style1 = Padded(channels, channels, 3), Style(vector, channels)
        self.conv2, self.style2 = Padded(channels, channels, 3), Style(vector, channels)

    def forward(self, x: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.style1(_normal(self.conv1(x)), vector))
        return x + self.style2(_normal(self.conv2(y)), vector)


def _normal(x: torch.Tensor) -> torch.Tensor:
    return functional.instance_norm(x, eps=1e-8)


class SimSwapNet(nn.Module):
    """Targets ``[N, 3, H, W]`` and identities ``[N, vector]`` to pictures of the targets' size, not bounded.

    matrix: ReliableSwap's files hold an alignment ``trans_matrix`` that nothing uses. large: the official 512-pixel form, which goes down
    and up once more.
    """

    def __init__(self, vector: int = 512, blocks: int = 9, matrix: bool = False, large: bool = False) -> None:
        super().__init__()
        if matrix:
            self.register_buffer("trans_matrix", torch.zeros(1, 2, 3))
        widths = {0: 32, 1: 64, 2: 128, 3: 256} if large else {1: 64, 2: 128, 3: 256}
        first = min(widths.values())
        self.steps = tuple(widths)
        self.first_layer = Padded(3, first, 7, nn.BatchNorm2d(first), nn.ReLU())
        for number, width in widths.items():
            down = nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU()
            up = nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(2 * width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()
            setattr(self, f"down{number}", nn.Sequential(*down))
            setattr(self, f"up{number}", nn.Sequential(*up))
        self.BottleNeck = nn.ModuleList(StyledBlock(512, vector) for _ in range(blocks))
        self.last_layer = Padded(first, 3, 7)

    def forward(self, target: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        x = self.first_layer(target)
        for number in self.steps:
            x = getattr(self, f"down{number}")(x)
        for block in self.BottleNeck:
            x = block(x, vector)
        for number in reversed(self.steps):
            x = getattr(self, f"up{number}")(x)
        return self.last_layer(x)


def form_of(weights: Mapping[str, torch.Tensor]) -> dict[str, int | bool]:
    """What to make the ``SimSwapNet`` with that has these weights."""
    return {"vector": weights["BottleNeck.0.style1.linear.weight"].shape[1], "matrix": "trans_matrix" in weights,
            "blocks": len({key.split(".")[1] for key in weights if key.startswith("BottleNeck.")}),
            "large": any(key.startswith("down0.") for key in weights)}
