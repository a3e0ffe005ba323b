"""The residual network of ArcFace (Deng et al., CVPR 2019; pre-activated blocks of insightface's arcface_torch)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from . import conv3, shortcut

LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}


class Block(nn.Module):
    """Two 3×3 convolutions, the second with the stride, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3(in_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.prelu = nn.PReLU(out_channels)
        self.conv2 = conv3(out_channels, out_channels, stride)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = shortcut(in_channels, out_channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return y + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """Pictures ``[N, 3, height, width]`` RGB in [-1, 1] to embeddings ``[N, features]``, not scaled to length 1."""

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self, depth: int = 100, features: int = 512, height: int = 112, width: int = 112) -> None:
        super().__init__()
        self.conv1 = conv3(3, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        in_channels = 64
        for number, (out_channels, blocks) in enumerate(zip((64, 128, 256, 512), LAYERS[depth]), 1):
            stage = [Block(in_channels if i == 0 else out_channels, out_channels, 2 if i == 0 else 1) for i in range(blocks)]
            setattr(self, f"layer{number}", nn.Sequential(*stage))
            in_channels = out_channels
        cells = -(-height // 16) * -(-width // 16)
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * cells, features)
        self.features = nn.BatchNorm1d(features)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the last feature map ``[N, 512, H / 16, W / 16]`` of pictures ``[N, 3, H, W]`` of any size."""
        x = self.prelu(self.bn1(self.conv1(x)))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(self.fc(self.bn2(self.maps(x)).flatten(1)))


def iresnet_depth(keys: Iterable[str]) -> int:
    """Find the depth (18, 34, 50, 100 or 200) of the ``IResNet`` that has these keys."""
    keys = list(keys)
    blocks = tuple(1 + max(int(key.split(".")[1]) for key in keys if key.startswith(f"layer{n}.")) for n in (1, 2, 3, 4))
    return next(depth for depth, layers in LAYERS.items() if layers == blocks)
