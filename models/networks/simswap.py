"""SimSwap's generator (Chen et al., ACM MM 2020): an encoder, nine residual blocks styled by the identity, and a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import torch
from torch import nn
from torch.nn import functional


class Padded(nn.Sequential):
    """A convolution with the border mirrored outwards, followed by the layers ``after``."""

    def __init__(self, in_channels: int, out_channels: int, edge: int, *after: nn.Module) -> None:
        super().__init__(nn.ReflectionPad2d(edge // 2), nn.Conv2d(in_channels, out_channels, edge), *after)


class Style(nn.Module):
    """Scales and shifts every channel by numbers computed from a vector; the scale is added to 1."""

    def __init__(self, vector: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(vector, 2 * channels)

    def forward(self, x: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        scale, shift = self.linear(vector)[..., None, None].chunk(2, 1)
        return torch.addcmul(shift, x, 1 + scale)


class StyledBlock(nn.Module):
    """A residual block of two padded convolutions, each normalised and styled."""

    def __init__(self, channels: int, vector: int) -> None:
        super().__init__()
        self.conv1, self.style1 = Padded(channels, channels, 3), Style(vector, channels)
        self.conv2, self.style2 = Padded(channels, channels, 3), Style(vector, channels)

    def forward(self, x: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.style1(_normalize(self.conv1(x)), vector))
        return x + self.style2(_normalize(self.conv2(y)), vector)


def _normalize(x: torch.Tensor) -> torch.Tensor:
    return functional.instance_norm(x, eps=1e-8)


class SimSwapNet(nn.Module):
    """Targets ``[N, 3, H, W]`` and identities ``[N, vector]`` to pictures of the targets' size, whose values are not limited.

    vector: numbers of an identity. matrix: the file holds an alignment ``trans_matrix``, which nothing uses (ReliableSwap's). large: the
    official 512-pixel network, which has one level more.
    """

    def __init__(self, vector: int = 512, blocks: int = 9, matrix: bool = False, large: bool = False) -> None:
        super().__init__()
        if matrix:
            self.register_buffer("trans_matrix", torch.zeros(1, 2, 3))
        widths = {0: 32, 1: 64, 2: 128, 3: 256} if large else {1: 64, 2: 128, 3: 256}
        first = min(widths.values())
        self.levels = tuple(widths)
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
        for number in self.levels:
            x = getattr(self, f"down{number}")(x)
        for block in self.BottleNeck:
            x = block(x, vector)
        for number in reversed(self.levels):
            x = getattr(self, f"up{number}")(x)
        return self.last_layer(x)


class SimSwapForm(TypedDict):
    """The arguments of a ``SimSwapNet``."""

    vector: int
    matrix: bool
    blocks: int
    large: bool


def simswap_form(weights: Mapping[str, torch.Tensor]) -> SimSwapForm:
    """Read the arguments of the ``SimSwapNet`` that has these weights."""
    return {"vector": weights["BottleNeck.0.style1.linear.weight"].shape[1], "matrix": "trans_matrix" in weights,
            "blocks": len({key.split(".")[1] for key in weights if key.startswith("BottleNeck.")}),
            "large": any(key.startswith("down0.") for key in weights)}
