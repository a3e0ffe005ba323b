"""ResNet (He et al. 2015, "Deep Residual Learning for Image Recognition") with torchvision's key names, without its classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from . import conv3, shortcut


class Basic(nn.Module):
    """Two 3×3 convolutions and a shortcut, for ResNet-18 and -34."""

    widens = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut(in_channels, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        short = x if self.downsample is None else self.downsample(x)
        return functional.relu(short + self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and a shortcut, for ResNet-50 and up.

    The stride is on the 3×3 convolution, as in torchvision ("v1.5"), or with ``early_stride`` on the first one, as in the paper.
    """

    widens = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1, early_stride: bool = False) -> None:
        super().__init__()
        out_channels = channels * self.widens
        self.conv1 = nn.Conv2d(in_channels, channels, 1, stride if early_stride else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3(channels, channels, 1 if early_stride else stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = shortcut(in_channels, out_channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        short = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        return functional.relu(short + self.bn3(self.conv3(x)))


class ResNet(nn.Module):
    """Pictures ``[N, channels, H, W]`` to the feature maps at 1/2 (before pooling), 1/4, 1/8, 1/16 and 1/32 of their size."""

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self, block: type[Basic] | type[Bottleneck], counts: Sequence[int], channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        in_channels = 64
        for number, count in enumerate(counts):
            width = 64 << number
            stage = [block(width * block.widens if i else in_channels, width, 2 if number and not i else 1) for i in range(count)]
            setattr(self, f"layer{number + 1}", nn.Sequential(*stage))
            in_channels = width * block.widens

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        half = functional.relu(self.bn1(self.conv1(x)))
        features = [half]
        x = functional.max_pool2d(half, 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features
