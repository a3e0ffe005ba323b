"""The ArcFace of SimSwap, DiffFace and Face Swap via Diffusion: a ResNet-101 with squeeze and excitation (Deng et al., CVPR 2019; Hu et
al., CVPR 2018).

Module names are those of the published checkpoint's keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from . import build, shortcut
from .iresnet import IResNet, iresnet_depth

_DEPTHS = (3, 4, 23, 3)
_WIDTHS = (64, 128, 256, 512)


class Excite(nn.Module):
    """Squeeze and excitation: scales every channel by a factor computed from all channels' means."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = channels // reduction
        self.fc = nn.Sequential(nn.Linear(channels, hidden), nn.PReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class Block(nn.Module):
    """A pre-normalised residual block; both activations share one PReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = shortcut(in_channels, out_channels, stride)
        self.se = Excite(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        main = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        main = self.se(self.bn2(self.conv2(main)))
        return self.prelu(main + (x if self.downsample is None else self.downsample(x)))


class ArcFaceSE(nn.Module):
    """Pictures ``[N, 3, 112, 112]`` RGB to embeddings ``[N, 512]``, not scaled to length 1.

    The systems that use it differ in how they normalise the picture.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self, depths: tuple[int, ...] = _DEPTHS) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, bias=False)  # without padding: 110
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU()
        in_channels = 64
        for level, (depth, width) in enumerate(zip(depths, _WIDTHS, strict=True)):
            stride = 1 if level == 0 else 2
            blocks = [Block(in_channels if i == 0 else width, width, stride if i == 0 else 1) for i in range(depth)]
            setattr(self, f"layer{level + 1}", nn.Sequential(*blocks))
            in_channels = width
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 7 * 7, 512)
        self.bn3 = nn.BatchNorm1d(512)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.max_pool2d(self.prelu(self.bn1(self.conv1(x))), 2)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.bn3(self.fc(self.bn2(x).flatten(1)))


def arcface_se_depths(keys: Iterable[str]) -> tuple[int, ...]:
    """Count the blocks of each of the four levels of the ``ArcFaceSE`` that has these keys."""
    parts = [key.split(".") for key in keys]
    return tuple(len({part[1] for part in parts if part[0] == f"layer{level}"}) for level in (1, 2, 3, 4))


def build_arcface(weights: Mapping[str, torch.Tensor], name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build the ArcFace that has these weights: an ``ArcFaceSE`` or an ``IResNet``. name: what errors call the file."""
    has_excitation = any(".se." in key for key in weights)
    make = (lambda: ArcFaceSE(arcface_se_depths(weights))) if has_excitation else (lambda: IResNet(iresnet_depth(weights)))
    return build(make, weights, name, dtype=dtype)
