"""The ArcFace of SimSwap, DiffFace and Face Swap via Diffusion: a ResNet-101 with squeeze and excitation (Deng et al. 2019, Hu et al.
2018).

Module names are those of the published checkpoint's keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from . import build
from .iresnet import IResNet, depth_of

_DEPTHS = (3, 4, 23, 3)
_WIDTHS = (64, 128, 256, 512)


class Excite(nn.Module):
    """Scales every channel by what its means say."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        few = channels // reduction
        self.fc = nn.Sequential(nn.Linear(channels, few), nn.PReLU(), nn.Linear(few, channels), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class Block(nn.Module):
    """Pre-normalised residual block; one slope serves both places."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(inner)
        self.conv1 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.downsample = None
        if stride != 1 or inner != outer:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))
        self.se = Excite(outer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        main = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        main = self.se(self.bn2(self.conv2(main)))
        return self.prelu(main + (x if self.downsample is None else self.downsample(x)))


class ArcFaceSE(nn.Module):
    """``[N, 3, 112, 112]`` RGB to ``[N, 512]``. The systems differ in how they normalise the picture."""

    def __init__(self, depths: tuple[int, ...] = _DEPTHS) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, bias=False)  # without padding: 110
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU()
        inner = 64
        for level, (depth, width) in enumerate(zip(depths, _WIDTHS, strict=True)):
            stride = 1 if level == 0 else 2
            blocks = [Block(inner if i == 0 else width, width, stride if i == 0 else 1) for i in range(depth)]
            setattr(self, f"layer{level + 1}", nn.Sequential(*blocks))
            inner = width
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 7 * 7, 512)
        self.bn3 = nn.BatchNorm1d(512)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.max_pool2d(self.prelu(self.bn1(self.conv1(x))), 2)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.bn3(self.fc(self.bn2(x).flatten(1)))


def depths_of(keys: Iterable[str]) -> tuple[int, ...]:
    """The blocks of each level of the ``ArcFaceSE`` that has these keys."""
    parts = [key.split(".") for key in keys]
    return tuple(len({part[1] for part in parts if part[0] == f"layer{level}"}) for level in (1, 2, 3, 4))


def arcface_of(weights: Mapping[str, torch.Tensor], name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The ArcFace that has these weights: this one, or an ``IResNet``. name: what it is called in errors."""
    excited = any(".se." in key for key in weights)
    return build(lambda: ArcFaceSE(depths_of(weights)) if excited else IResNet(depth_of(weights)), weights, name, dtype=dtype)
