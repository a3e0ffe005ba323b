"""Gaze from a picture of an eye: a stacked hourglass (Newell et al., ECCV 2016; Park et al., ETRA 2018), as GazeEstimator.pt holds it.

Module names are those of the checkpoint's keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

HEIGHT, WIDTH = 96, 160  # pixels of an eye's picture
_SHARPNESS = 100.0  # heat maps are multiplied by it before the softmax


class Conv(nn.Module):
    """A convolution, followed by normalisation and ReLU where ``active``."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, active: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - 1) // 2)
        self.bn = nn.BatchNorm2d(out_channels) if active else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return x if self.bn is None else F.relu(self.bn(x))


class Residual(nn.Module):
    """A pre-normalised bottleneck block. The file always holds the skip layer; it is used where the number of channels changes."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.bn1, self.conv1 = nn.BatchNorm2d(in_channels), Conv(in_channels, half)
        self.bn2, self.conv2 = nn.BatchNorm2d(half), Conv(half, half, 3)
        self.bn3, self.conv3 = nn.BatchNorm2d(half), Conv(half, out_channels)
        self.skip_layer = Conv(in_channels, out_channels)
        self.widens = in_channels != out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        main = self.conv1(F.relu(self.bn1(x)))
        main = self.conv2(F.relu(self.bn2(main)))
        main = self.conv3(F.relu(self.bn3(main)))
        return main + (self.skip_layer(x) if self.widens else x)


class Hourglass(nn.Module):
    """Maps go down by half ``depth`` times and up again, with a residual block beside every level."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.up1, self.low1, self.low3 = (Residual(width, width) for _ in range(3))
        self.low2 = Hourglass(depth - 1, width) if depth > 1 else Residual(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = self.low3(self.low2(self.low1(F.max_pool2d(x, 2))))
        return self.up1(x) + F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)


class Merge(nn.Module):
    """A 1×1 convolution under the file's name of it."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Conv(in_channels, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class EyeNet(nn.Module):
    """Pictures of eyes ``[N, 96, 160]``, grey 0..1, to heat maps, points and gaze.

    Heat maps are ``[N, stacks, points, 48, 80]``, points ``[N, points, 2]`` (row, column in heat-map pixels), gaze ``[N, 2]`` (pitch,
    yaw in radians).
    """

    def __init__(self, stacks: int = 3, width: int = 32, points: int = 34) -> None:
        super().__init__()
        self.pre = nn.Sequential(Conv(1, 64, 7, 1, True), Residual(64, 128), nn.MaxPool2d(2), Residual(128, 128), Residual(128, width))
        self.pre2 = nn.Sequential(Conv(width, 64, 7, 2, True), Residual(64, 128), nn.MaxPool2d(2), Residual(128, 128), Residual(128, width))
        self.hgs = nn.ModuleList(nn.Sequential(Hourglass(4, width)) for _ in range(stacks))
        self.features = nn.ModuleList(nn.Sequential(Residual(width, width), Conv(width, width, active=True)) for _ in range(stacks))
        self.outs = nn.ModuleList(Conv(width, points) for _ in range(stacks))
        self.merge_features = nn.ModuleList(Merge(width, width) for _ in range(stacks - 1))
        self.merge_preds = nn.ModuleList(Merge(points, width) for _ in range(stacks - 1))
        self.gaze_fc1 = nn.Linear(width * (HEIGHT // 8) * (WIDTH // 8) + 2 * points, 256)
        self.gaze_fc2 = nn.Linear(256, 2)

    def forward(self, eyes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = self.pre(eyes[:, None])
        features = self.pre2(x).flatten(1)
        maps = []
        for i, hourglass in enumerate(self.hgs):
            feature = self.features[i](hourglass(x))
            maps.append(self.outs[i](feature))
            if i < len(self.merge_preds):
                x = x + self.merge_preds[i](maps[-1]) + self.merge_features[i](feature)
        points = soft_argmax(maps[-1])
        gaze = self.gaze_fc2(F.relu(self.gaze_fc1(torch.cat([features, points.flatten(1)], 1))))
        return torch.stack(maps, 1), points, gaze


def soft_argmax(maps: torch.Tensor) -> torch.Tensor:
    """Find the peaks of heat maps ``[N, K, h, w]``: the mean positions ``[N, K, 2]`` (row, column) under a sharp softmax."""
    share = (maps.flatten(2) * _SHARPNESS).softmax(-1).reshape(maps.shape)
    rows, columns = (torch.arange(size, dtype=maps.dtype, device=maps.device) for size in maps.shape[2:])
    return torch.stack([(share.sum(3) * rows).sum(2), (share.sum(2) * columns).sum(2)], -1)
