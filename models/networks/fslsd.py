"""FSLSD (Xu et al., CVPR 2022): a face swapped in StyleGAN2's latents, its features blended into the target's at every size."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from .psp import StyleEncoder
from .stylegan2 import BiasLeak, Blur, EqualLinear, StyleGAN2, widths

COARSE = 7  # latents the landmarks change
FROM_SOURCE = 11  # latents that are the source's; the others are the target's


class ScaledConv(nn.Module):
    """A convolution without bias whose weights are scaled when used."""

    def __init__(self, inner: int, outer: int, edge: int, stride: int = 1, pad: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outer, inner, edge, edge))
        self.scale, self.stride, self.pad = (inner * edge * edge) ** -.5, stride, pad

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, self.weight * self.scale, stride=self.stride, padding=self.pad)


class TargetEncoder(nn.Module):
    """GPEN's encoder: ``[N, 3, size, size]`` (RGB, [-1, 1]) to features at 8, 16, … ``size`` pixels."""

    def __init__(self, size: int = 1024) -> None:
        super().__init__()
        channels = widths(size)[:0:-1]
        steps = [nn.Sequential(nn.Sequential(ScaledConv(3, channels[0], 1), BiasLeak(channels[0])))]
        for inner, outer in pairwise(channels):
            steps.append(nn.Sequential(nn.Sequential(Blur((2, 2)), ScaledConv(inner, outer, 3, 2), BiasLeak(outer))))
        self.encoder = nn.ModuleList(steps)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = []
        for step in self.encoder:
            x = step(x)
            features.insert(0, x)
        return features


class Growth(nn.Module):
    """Twice the size: a transposed convolution, then a blur."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.upsample_conv = nn.ConvTranspose2d(inner, outer, 3, 2)
        self.blur = Blur((1, 1), 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blur(self.upsample_conv(x))


class Decoder(nn.Module):
    """Source and target features blended by a mask ``[N, 1, H, W]`` at every size, into a picture ``[N, 3, size, size]``."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        steps: list[nn.Module] = [Growth(inner if i == 0 else 2 * inner, outer) for i, (inner, outer) in enumerate(pairwise(channels))]
        half = channels[-1] // 2
        last = nn.Conv2d(2 * channels[-1], half, 3, 1, 1), BiasLeak(half), nn.Conv2d(half, 3, 3, 1, 1)
        self.decoder = nn.ModuleList([*steps, nn.Sequential(*last)])

    def forward(self, source: list[torch.Tensor], target: list[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """The mask goes down to the smallest size first and up again from there, so that a very soft one is left: as published."""
        x = None
        for step, new, old in zip(self.decoder, source, target):
            mask = functional.interpolate(mask, size=new.shape[-2:], mode="bilinear", align_corners=False)
            blend = torch.lerp(old, new, mask)
            x = step(blend if x is None else torch.cat((blend, x), 1))
        return x


class LatentMap(nn.Module):
    """F_mapping: every latent moved by a linear layer of its own, twice as far as it says."""

    def __init__(self, latents: int = 18) -> None:
        super().__init__()
        self.dense = nn.ModuleList(EqualLinear(512, 512) for _ in range(latents))

    def forward(self, latents: torch.Tensor, reach: float = 2) -> torch.Tensor:
        return latents + reach * torch.stack([layer(latents[:, i]) for i, layer in enumerate(self.dense)], 1)


class FSLSDNet(nn.Module):
    """The five networks of a file, by its names of them."""

    def __init__(self, size: int = 1024, points: int = 106) -> None:
        super().__init__()
        self.encoder_lmk = StyleEncoder(2 * points, (3, 4))
        self.encoder_target = TargetEncoder(size)
        self.decoder = Decoder(widths(size)[1:])
        self.generator = StyleGAN2(size)
        self.bald_model = LatentMap(self.generator.latents)

    def latents(self, maps: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Landmark maps ``[N, 2 * points, 256, 256]`` (source's first) and both faces' latents ``[N, 18, 512]`` to the swapped face's."""
        moved = torch.cat((source[:, :COARSE] + self.encoder_lmk(maps), source[:, COARSE:FROM_SOURCE]), 1)
        return torch.cat((moved, target[:, FROM_SOURCE:]), 1)

    def features(self, latents: torch.Tensor) -> list[torch.Tensor]:
        """The generator's features at 8, 16, … pixels for the mapped latents."""
        return self.generator(self.bald_model(latents))[1][1:]

    def forward(self, maps: torch.Tensor, source: torch.Tensor, target: torch.Tensor, picture: torch.Tensor, mask: torch.Tensor
                ) -> torch.Tensor:
        features = self.features(self.latents(maps, source, target))
        return self.decoder(features, self.encoder_target(picture), mask)
