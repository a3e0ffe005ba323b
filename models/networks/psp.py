"""pixel2style2pixel's encoder (Richardson et al., CVPR 2021): the blocks of IR-SE50 with a head for every StyleGAN2 latent."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from . import conv3
from .stylegan2 import EqualLinear

STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))  # channels and blocks
MAP_BLOCKS = (6, 20, 23)  # the blocks whose outputs are the maps of 64, 32 and 16 pixels that heads read


class Attention(nn.Module):
    """Squeeze and excitation: scales every channel by a factor computed from all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.fc2(functional.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class Block(nn.Module):
    """A residual block. Where the number of channels stays, the shortcut takes every ``stride``-th pixel."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut_layer = None
        if in_channels != out_channels:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
        layers = conv3(in_channels, out_channels), nn.PReLU(out_channels), conv3(out_channels, out_channels, stride)
        self.res_layer = nn.Sequential(nn.BatchNorm2d(in_channels), *layers, nn.BatchNorm2d(out_channels), Attention(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        short = x[..., :: self.stride, :: self.stride] if self.shortcut_layer is None else self.shortcut_layer(x)
        return self.res_layer(x) + short


def ir_se50_blocks() -> nn.Sequential:
    """Make the 24 blocks of IR-SE50, ArcFace's residual network of 50 layers with squeeze and excitation."""
    in_channels, blocks = 64, []
    for out_channels, count in STAGES:
        blocks += [Block(in_channels if i == 0 else out_channels, out_channels, 2 if i == 0 else 1) for i in range(count)]
        in_channels = out_channels
    return nn.Sequential(*blocks)


class Head(nn.Module):
    """A map of ``edge``×``edge`` pixels to one latent."""

    def __init__(self, edge: int) -> None:
        super().__init__()
        layers = [layer for _ in range(int(math.log2(edge))) for layer in (nn.Conv2d(512, 512, 3, 2, 1), nn.LeakyReLU(.01))]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(512, 512)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.convs(x).flatten(1))


class StyleEncoder(nn.Module):
    """Pictures ``[N, channels, 256, 256]`` to latents ``[N, sum(heads), 512]``, from coarse to fine.

    heads: how many latents come from maps of 16, 32 and 64 pixels. pSp has 3 channels (RGB in [-1, 1]) and returns what is to be added to
    the average latent; FSLSD's landmark encoder has 212 channels and 3 and 4 heads.
    """

    def __init__(self, channels: int = 3, heads: tuple[int, ...] = (3, 4, 11)) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(conv3(channels, 64), nn.BatchNorm2d(64), nn.PReLU(64))
        self.body = ir_se50_blocks()
        self.styles = nn.ModuleList(Head(16 << level) for level, count in enumerate(heads) for _ in range(count))
        for number, width in enumerate((256, 128)[: len(heads) - 1], 1):
            setattr(self, f"latlayer{number}", nn.Conv2d(width, 512, 1))
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, maps = self.input_layer(x), []
        for number, block in enumerate(self.body):
            x = block(x)
            if number in MAP_BLOCKS:
                maps.insert(0, x)
        features = [maps[0]]
        for number in range(1, len(self.heads)):
            lateral = getattr(self, f"latlayer{number}")(maps[number])
            features.append(lateral + functional.interpolate(features[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=True))
        per_head = [feature for feature, count in zip(features, self.heads) for _ in range(count)]
        return torch.stack([head(feature) for head, feature in zip(self.styles, per_head)], 1)
