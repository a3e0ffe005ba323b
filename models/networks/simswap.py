"""SimSwap's 256-pixel generator (Chen et al., ACM MM 2020): convolutions down, nine blocks styled by the identity, and up again."""

from __future__ import annotations

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
    """Targets ``[N, 3, H, W]`` and identities ``[N, vector]`` to pictures of the targets' size and range.

    matrix: ReliableSwap's files hold an alignment ``trans_matrix`` that nothing uses. The answer is not bounded.
    """

    def __init__(self, vector: int = 512, blocks: int = 9, matrix: bool = False) -> None:
        super().__init__()
        if matrix:
            self.register_buffer("trans_matrix", torch.zeros(1, 2, 3))
        self.first_layer = Padded(3, 64, 7, nn.BatchNorm2d(64), nn.ReLU())
        for number, width in enumerate((64, 128, 256), 1):
            down = nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU()
            up = nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(2 * width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()
            setattr(self, f"down{number}", nn.Sequential(*down))
            setattr(self, f"up{number}", nn.Sequential(*up))
        self.BottleNeck = nn.ModuleList(StyledBlock(512, vector) for _ in range(blocks))
        self.last_layer = Padded(64, 3, 7)

    def forward(self, target: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        x = self.down3(self.down2(self.down1(self.first_layer(target))))
        for block in self.BottleNeck:
            x = block(x, vector)
        return self.last_layer(self.up1(self.up2(self.up3(x))))
