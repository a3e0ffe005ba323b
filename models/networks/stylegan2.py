"""StyleGAN2's generator (Karras et al., CVPR 2020) with the keys of the widely used PyTorch conversion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

LEAK, GAIN = .2, 2**.5  # slope below 0, and the factor that keeps the variance
TAPS = (1, 3, 3, 1)  # of the blur along one axis


def biased_leaky_relu(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Add a bias per channel and apply leaky ReLU, scaled so that the variance stays."""
    bias = bias.reshape(1, -1, *[1] * (x.ndim - 2))
    return functional.leaky_relu(x + bias, LEAK) * GAIN


class BiasedLeakyReLU(nn.Module):
    """``biased_leaky_relu`` with a learned bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return biased_leaky_relu(x, self.bias)


class Blur(nn.Module):
    """A 4×4 binomial filter after padding by ``pad`` (before, after).

    gain: the sum of its weights; 4 where zeros were put in for every second row and column.
    """

    kernel: torch.Tensor

    def __init__(self, pad: tuple[int, int], gain: float = 1) -> None:
        super().__init__()
        taps = torch.tensor(TAPS, dtype=torch.float32, device="cpu")
        taps = torch.outer(taps, taps)
        self.register_buffer("kernel", taps / taps.sum() * gain)
        self.pad = pad

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.pad(x, (*self.pad, *self.pad))
        return functional.conv2d(x, self.kernel.flip(0, 1).expand(x.shape[1], 1, 4, 4), groups=x.shape[1])


class Upsample(Blur):
    """Doubles the size: puts zeros between the pixels and blurs."""

    def __init__(self) -> None:
        super().__init__((2, 1), 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, channels, height, width = x.shape
        spread = x.new_zeros(count, channels, height, 2, width, 2)
        spread[:, :, :, 0, :, 0] = x
        return super().forward(spread.reshape(count, channels, 2 * height, 2 * width))


class EqualLinear(nn.Module):
    """A linear layer whose weights are scaled when it runs.

    rate: the factor of the learning rate it was trained with. activated: whether ``biased_leaky_relu`` follows.
    """

    def __init__(self, in_channels: int, out_channels: int, rate: float = 1, bias: float = 0, activated: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels))
        self.bias = nn.Parameter(torch.full((out_channels,), float(bias)))
        self.scale, self.rate, self.activated = rate / math.sqrt(in_channels), rate, activated

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.activated:
            return biased_leaky_relu(functional.linear(x, self.weight * self.scale), self.bias * self.rate)
        return functional.linear(x, self.weight * self.scale, self.bias * self.rate)


class ModulatedConv(nn.Module):
    """A convolution whose weights are scaled for every picture by its style.

    demodulate: whether the scaled weights are normalised again. up: whether it doubles the size.
    """

    def __init__(self, in_channels: int, out_channels: int, edge: int, styles: int, demodulate: bool = True, up: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, out_channels, in_channels, edge, edge))
        self.modulation = EqualLinear(styles, in_channels, bias=1)
        self.blur = Blur((1, 1), 4) if up else None
        self.scale, self.demodulate = 1 / math.sqrt(in_channels * edge * edge), demodulate

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        count, in_channels, height, width = x.shape
        weight = self.weight * (self.scale * self.modulation(style)[:, None, :, None, None])
        if self.demodulate:
            weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
        x = x.reshape(1, count * in_channels, height, width)
        if self.blur is not None:
            weight = weight.transpose(1, 2).flatten(0, 1)
            x = functional.conv_transpose2d(x, weight, stride=2, groups=count)
            return self.blur(x.reshape(count, -1, *x.shape[-2:]))
        x = functional.conv2d(x, weight.flatten(0, 1), padding=weight.shape[-1] // 2, groups=count)
        return x.reshape(count, -1, height, width)


class NoiseStrength(nn.Module):
    """The learned strength of the noise that a layer adds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class StyledConv(nn.Module):
    """A modulated convolution, fixed noise and ``biased_leaky_relu``."""

    def __init__(self, in_channels: int, out_channels: int, styles: int, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(in_channels, out_channels, 3, styles, up=up)
        self.noise = NoiseStrength()
        self.activate = BiasedLeakyReLU(out_channels)

    def forward(self, x: torch.Tensor, style: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        x = self.conv(x, style)
        return self.activate(x if noise is None else x + self.noise.weight * noise)


class ToRGB(nn.Module):
    """Features to a picture, added to the smaller picture enlarged."""

    def __init__(self, in_channels: int, styles: int, up: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.upsample = Upsample() if up else None
        self.conv = ModulatedConv(in_channels, 3, 1, styles, demodulate=False)

    def forward(self, x: torch.Tensor, style: torch.Tensor, smaller: torch.Tensor | None = None) -> torch.Tensor:
        picture = self.conv(x, style) + self.bias
        return picture if smaller is None or self.upsample is None else picture + self.upsample(smaller)


class Noises(nn.Module):
    """The noise pictures that a file holds."""

    def __init__(self, edges: Sequence[int]) -> None:
        super().__init__()
        for number, edge in enumerate(edges):
            self.register_buffer(f"noise_{number}", torch.zeros(1, 1, edge, edge))


class Constant(nn.Module):
    """The learned 4×4 input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.zeros(1, channels, 4, 4))


def channels_by_level(size: int, multiplier: int = 2) -> list[int]:
    """List the channels at 4, 8, … ``size`` pixels."""
    return [min(512, 16384 * multiplier >> level) for level in range(2, size.bit_length())]


class StyleGAN2(nn.Module):
    """Latents ``[N, L, 512]``, one per layer, to pictures ``[N, 3, size, size]``, about -1..1."""

    def __init__(self, size: int = 1024, styles: int = 512, mapping: int = 8, multiplier: int = 2) -> None:
        super().__init__()
        channels = channels_by_level(size, multiplier)
        # Keys of the mapping network begin at 1: its first step normalises and has no weights.
        self.style = nn.Sequential(nn.Identity(), *(EqualLinear(styles, styles, rate=.01, activated=True) for _ in range(mapping)))
        self.input = Constant(channels[0])
        self.conv1, self.to_rgb1 = StyledConv(channels[0], channels[0], styles), ToRGB(channels[0], styles, up=False)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for in_channels, out_channels in zip(channels, channels[1:]):  # noqa: RUF007
            self.convs.extend([StyledConv(in_channels, out_channels, styles, up=True), StyledConv(out_channels, out_channels, styles)])
            self.to_rgbs.append(ToRGB(out_channels, styles))
        self.noises = Noises([4 << (i + 1) // 2 for i in range(2 * len(channels) - 1)])

    @property
    def latents(self) -> int:
        """The number L of latents that a picture takes."""
        return len(self.convs) + 2

    def mapped(self, vector: torch.Tensor) -> torch.Tensor:
        """Map samples ``[N, 512]`` of the normal distribution to latents ``[N, 512]``."""
        return self.style(vector * torch.rsqrt(vector.square().mean(1, keepdim=True) + 1e-8))

    def forward(self, latents: torch.Tensor, start: torch.Tensor | None = None, noise: bool = True
                ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Compute pictures, and the features at 4, 8, … pixels. start: ``[N, 512, 4, 4]`` in place of the learned input."""
        noises = [getattr(self.noises, f"noise_{i}") if noise else None for i in range(len(self.convs) + 1)]
        x = self.input.input.expand(len(latents), -1, -1, -1) if start is None else start
        x = self.conv1(x, latents[:, 0], noises[0])
        picture, features = self.to_rgb1(x, latents[:, 1]), [x]
        for i in range(0, len(self.convs), 2):
            x = self.convs[i](x, latents[:, i + 1], noises[i + 1])
            x = self.convs[i + 1](x, latents[:, i + 2], noises[i + 2])
            picture = self.to_rgbs[i // 2](x, latents[:, i + 3], picture)
            features.append(x)
        return picture, features
