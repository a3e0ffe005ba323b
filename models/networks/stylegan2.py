"""StyleGAN2's generator (Karras et al., CVPR 2020) with the keys of the widely used PyTorch conversion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

LEAK, GAIN = .2, 2**.5
TAPS = (1, 3, 3, 1)


def leak(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Add a bias per channel, bend, and keep the variance."""
    bias = bias.reshape(1, -1, *[1] * (x.ndim - 2))
    return functional.leaky_relu(x + bias, LEAK) * GAIN


class BiasLeak(nn.Module):
    """``leak`` with a bias of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return leak(x, self.bias)


class Blur(nn.Module):
    """A 4×4 binomial filter after padding by ``pad`` (before, after); ``gain`` 4 where every second row and column was put in."""

    def __init__(self, pad: tuple[int, int], gain: float = 1) -> None:
        super().__init__()
        taps = torch.tensor(TAPS, dtype=torch.float32, device="cpu")
        taps = torch.outer(taps, taps)
        self.register_buffer("kernel", taps / taps.sum() * gain)
        self.pad = pad

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.pad(x, (*self.pad, *self.pad))
        return functional.conv2d(x, self.kernel.flip(0, 1).expand(x.shape[1], 1, 4, 4), groups=x.shape[1])


class Double(Blur):
    """Twice the size, smoothly."""

    def __init__(self) -> None:
        super().__init__((2, 1), 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, channels, height, width = x.shape
        spread = x.new_zeros(count, channels, height, 2, width, 2)
        spread[:, :, :, 0, :, 0] = x
        return super().forward(spread.reshape(count, channels, 2 * height, 2 * width))


class EqualLinear(nn.Module):
    """A linear layer with weights scaled when used; ``rate`` is the learning rate's share of them, ``bent`` ends it with ``leak``."""

    def __init__(self, inner: int, outer: int, rate: float = 1, bias: float = 0, bent: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outer, inner))
        self.bias = nn.Parameter(torch.full((outer,), float(bias)))
        self.scale, self.rate, self.bent = rate / math.sqrt(inner), rate, bent

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.bent:
            return leak(functional.linear(x, self.weight * self.scale), self.bias * self.rate)
        return functional.linear(x, self.weight * self.scale, self.bias * self.rate)


class ModulatedConv(nn.Module):
    """A convolution whose weights are scaled by a style, per picture, and normalised again (``demodulate``)."""

    def __init__(self, inner: int, outer: int, edge: int, styles: int, demodulate: bool = True, up: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, outer, inner, edge, edge))
        self.modulation = EqualLinear(styles, inner, bias=1)
        self.blur = Blur((1, 1), 4) if up else None
        self.scale, self.demodulate, self.up = 1 / math.sqrt(inner * edge * edge), demodulate, up

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        count, inner, height, width = x.shape
        weight = self.weight * (self.scale * self.modulation(style)[:, None, :, None, None])
        if self.demodulate:
            weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
        x = x.reshape(1, count * inner, height, width)
        if self.up:
            weight = weight.transpose(1, 2).flatten(0, 1)
            x = functional.conv_transpose2d(x, weight, stride=2, groups=count)
            return self.blur(x.reshape(count, -1, *x.shape[-2:]))
        x = functional.conv2d(x, weight.flatten(0, 1), padding=weight.shape[-1] // 2, groups=count)
        return x.reshape(count, -1, height, width)


class NoiseStrength(nn.Module):
    """How much noise a layer adds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class StyledConv(nn.Module):
    """Modulated convolution, fixed noise, bias and leak."""

    def __init__(self, inner: int, outer: int, styles: int, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(inner, outer, 3, styles, up=up)
        self.noise = NoiseStrength()
        self.activate = BiasLeak(outer)

    def forward(self, x: torch.Tensor, style: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        x = self.conv(x, style)
        return self.activate(x if noise is None else x + self.noise.weight * noise)


class ToRGB(nn.Module):
    """A picture from features, on top of the smaller picture."""

    def __init__(self, inner: int, styles: int, up: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.upsample = Double() if up else None
        self.conv = ModulatedConv(inner, 3, 1, styles, demodulate=False)

    def forward(self, x: torch.Tensor, style: torch.Tensor, smaller: torch.Tensor | None = None) -> torch.Tensor:
        picture = self.conv(x, style) + self.bias
        return picture if smaller is None else picture + self.upsample(smaller)


class Noises(nn.Module):
    """The noise pictures of a file."""

    def __init__(self, edges: Sequence[int]) -> None:
        super().__init__()
        for number, edge in enumerate(edges):
            self.register_buffer(f"noise_{number}", torch.zeros(1, 1, edge, edge))


class Constant(nn.Module):
    """The learnt 4×4 start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.zeros(1, channels, 4, 4))


def widths(size: int, multiplier: int = 2) -> list[int]:
    """Channels at 4, 8, … ``size`` pixels."""
    return [min(512, 16384 * multiplier >> level) for level in range(2, size.bit_length())]


class StyleGAN2(nn.Module):
    """Latents ``[N, L, 512]`` (one per layer) to pictures ``[N, 3, size, size]``, about -1..1."""

    def __init__(self, size: int = 1024, styles: int = 512, mapping: int = 8, multiplier: int = 2) -> None:
        super().__init__()
        channels = widths(size, multiplier)
        # Keys of the mapping network begin at 1: its first step normalises and has no weights.
        self.style = nn.Sequential(nn.Identity(), *(EqualLinear(styles, styles, rate=.01, bent=True) for _ in range(mapping)))
        self.input = Constant(channels[0])
        self.conv1, self.to_rgb1 = StyledConv(channels[0], channels[0], styles), ToRGB(channels[0], styles, up=False)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for inner, outer in zip(channels, channels[1:]):  # noqa: RUF007
            self.convs.extend([StyledConv(inner, outer, styles, up=True), StyledConv(outer, outer, styles)])
            self.to_rgbs.append(ToRGB(outer, styles))
        self.noises = Noises([4 << (i + 1) // 2 for i in range(2 * len(channels) - 1)])

    @property
    def latents(self) -> int:
        """How many latents a picture takes."""
        return len(self.convs) + 2

    def mapped(self, vector: torch.Tensor) -> torch.Tensor:
        """``[N, 512]`` from the normal distribution to a latent."""
        return self.style(vector * torch.rsqrt(vector.square().mean(1, keepdim=True) + 1e-8))

    def forward(self, latents: torch.Tensor, start: torch.Tensor | None = None, noise: bool = True
                ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Pictures, and the features at 4, 8, … pixels. start: ``[N, 512, 4, 4]`` in place of the learnt constant."""
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
