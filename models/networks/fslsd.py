"""FSLSD (Xu et al., CVPR 2022) swaps the face in StyleGAN2's latents and blends its features into the target's at every size."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from .psp import StyleEncoder
from .stylegan2 import BiasedLeakyReLU, Blur, EqualLinear, StyleGAN2, channels_by_level

COARSE_LATENTS = 7  # the first latents, which the landmarks change
SOURCE_LATENTS = 11  # the first latents, which are the source's; the others are the target's


class ScaledConv(nn.Module):
    """A convolution without bias whose weights are scaled when it runs."""

    def __init__(self, in_channels: int, out_channels: int, edge: int, stride: int = 1, pad: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, edge, edge))
        self.scale, self.stride, self.pad = (in_channels * edge * edge) ** -.5, stride, pad

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, self.weight * self.scale, stride=self.stride, padding=self.pad)


class TargetEncoder(nn.Module):
    """GPEN's encoder: pictures ``[N, 3, size, size]`` RGB in [-1, 1] to features at 8, 16, … ``size`` pixels."""

    def __init__(self, size: int = 1024) -> None:
        super().__init__()
        channels = channels_by_level(size)[:0:-1]
        steps = [nn.Sequential(nn.Sequential(ScaledConv(3, channels[0], 1), BiasedLeakyReLU(channels[0])))]
        for in_channels, out_channels in pairwise(channels):
            layers = Blur((2, 2)), ScaledConv(in_channels, out_channels, 3, 2), BiasedLeakyReLU(out_channels)
            steps.append(nn.Sequential(nn.Sequential(*layers)))
        self.encoder = nn.ModuleList(steps)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = []
        for step in self.encoder:
            x = step(x)
            features.insert(0, x)
        return features


class UpsampleBlur(nn.Module):
    """Doubles the size by a transposed convolution and a blur."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.upsample_conv = nn.ConvTranspose2d(in_channels, out_channels, 3, 2)
        self.blur = Blur((1, 1), 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blur(self.upsample_conv(x))


class Decoder(nn.Module):
    """Blends source and target features by a mask ``[N, 1, H, W]`` at every size and turns them into a picture ``[N, 3, size, size]``."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for i, (in_channels, out_channels) in enumerate(pairwise(channels)):
            steps.append(UpsampleBlur(in_channels if i == 0 else 2 * in_channels, out_channels))
        half = channels[-1] // 2
        last = nn.Conv2d(2 * channels[-1], half, 3, 1, 1), BiasedLeakyReLU(half), nn.Conv2d(half, 3, 3, 1, 1)
        self.decoder = nn.ModuleList([*steps, nn.Sequential(*last)])

    def forward(self, source: list[torch.Tensor], target: list[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """Decode. As published, the mask is resized from each size to the next, the smallest first, which leaves it very soft."""
        x = None
        for step, new, old in zip(self.decoder, source, target):
            mask = functional.interpolate(mask, size=new.shape[-2:], mode="bilinear", align_corners=False)
            blend = torch.lerp(old, new, mask)
            x = step(blend if x is None else torch.cat((blend, x), 1))
        return cast(torch.Tensor, x)  # every decoder has steps


class LatentMap(nn.Module):
    """F_mapping: moves every latent by the output of its own linear layer, times ``reach``."""

    def __init__(self, latents: int = 18) -> None:
        super().__init__()
        self.dense = nn.ModuleList(EqualLinear(512, 512) for _ in range(latents))

    def forward(self, latents: torch.Tensor, reach: float = 2) -> torch.Tensor:
        return latents + reach * torch.stack([layer(latents[:, i]) for i, layer in enumerate(self.dense)], 1)


class FSLSDNet(nn.Module):
    """The five networks of a file, under its names of them."""

    def __init__(self, size: int = 1024, points: int = 106) -> None:
        super().__init__()
        self.encoder_lmk = StyleEncoder(2 * points, (3, 4))
        self.encoder_target = TargetEncoder(size)
        self.decoder = Decoder(channels_by_level(size)[1:])
        self.generator = StyleGAN2(size)
        self.bald_model = LatentMap(self.generator.latents)

    def latents(self, maps: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mix both faces' latents ``[N, 18, 512]`` into the swapped face's.

        maps: landmark maps ``[N, 2 * points, 256, 256]``, the source's first.
        """
        moved = torch.cat((source[:, :COARSE_LATENTS] + self.encoder_lmk(maps), source[:, COARSE_LATENTS:SOURCE_LATENTS]), 1)
        return torch.cat((moved, target[:, SOURCE_LATENTS:]), 1)

    def features(self, latents: torch.Tensor) -> list[torch.Tensor]:
        """Compute the generator's features at 8, 16, … pixels for latents ``[N, 18, 512]``."""
        return self.generator(self.bald_model(latents))[1][1:]

    def forward(self, maps: torch.Tensor, source: torch.Tensor, target: torch.Tensor, picture: torch.Tensor, mask: torch.Tensor
                ) -> torch.Tensor:
        features = self.features(self.latents(maps, source, target))
        return self.decoder(features, self.encoder_target(picture), mask)
