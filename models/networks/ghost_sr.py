"""GHOST's optional super-resolution network: spatially adaptive decoder, local-importance encoder (HiFaceGAN, Yang et al., 2020)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from . import conv3

LEAK = .2


class ImportancePool(nn.Module):
    """Halve the size, weighting each pixel by a learned importance (Gao et al., ICCV 2019)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logit = nn.Sequential(conv3(channels, channels), nn.InstanceNorm2d(channels, affine=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = torch.exp(12 * torch.sigmoid(self.logit(x)))
        return functional.avg_pool2d(x * weight, 3, 2, 1) / functional.avg_pool2d(weight, 3, 2, 1)


class ImportanceEncoder(nn.Module):
    """``[N, 3, 256, 256]`` to ``[N, 16 * width, 8, 8]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv3(3, width), nn.InstanceNorm2d(width), nn.ReLU()]
        inner = width
        for _ in range(5):
            outer = min(2 * inner, 16 * width)
            layers += [ImportancePool(inner), conv3(inner, outer, bias=True), nn.InstanceNorm2d(outer), nn.ReLU()]
            inner = outer
        self.model = nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class SpectralConv(nn.Module):
    """A convolution divided by the largest singular value of its weight, in the file's form: the weight and both singular vectors."""

    def __init__(self, inner: int, outer: int, edge: int, bias: bool) -> None:
        super().__init__()
        self.weight_orig = nn.Parameter(torch.empty(outer, inner, edge, edge))
        self.bias = nn.Parameter(torch.empty(outer)) if bias else None
        self.register_buffer("weight_u", torch.empty(outer))
        self.register_buffer("weight_v", torch.empty(inner * edge * edge))
        self.edge = edge

    def forward(self, x: torch.Tensor, steps: int) -> torch.Tensor:
        """``steps``: power iterations before; the stored vectors stay as they are."""
        matrix, u, v = self.weight_orig.flatten(1), self.weight_u, self.weight_v
        for _ in range(steps):
            v = functional.normalize(matrix.t() @ u, dim=0, eps=1e-12)
            u = functional.normalize(matrix @ v, dim=0, eps=1e-12)
        return functional.conv2d(x, self.weight_orig / (u @ (matrix @ v)), self.bias, padding=self.edge // 2)


class Guided(nn.Module):
    """SPADE (Park et al., CVPR 2019): batch norm scaled and shifted by what the small input picture says."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        hidden = min(128, channels)
        self.mlp_shared = nn.Sequential(conv3(3, hidden, bias=True), nn.ReLU())
        self.mlp_gamma, self.mlp_beta = conv3(hidden, channels), conv3(hidden, channels)

    def forward(self, x: torch.Tensor, guide: torch.Tensor, of_batch: bool) -> torch.Tensor:
        hidden = self.mlp_shared(functional.interpolate(guide, size=x.shape[-2:], mode="nearest"))
        norm = self.param_free_norm
        stored = (None, None) if of_batch else (norm.running_mean, norm.running_var)
        x = functional.batch_norm(x, *stored, training=of_batch, eps=norm.eps)
        return torch.addcmul(self.mlp_beta(hidden), x, self.mlp_gamma(hidden))


class GuidedBlock(nn.Module):
    """A residual block of two guided convolutions."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        middle = min(inner, outer)
        self.conv_0, self.conv_1 = SpectralConv(inner, middle, 3, True), SpectralConv(middle, outer, 3, True)
        self.norm_0, self.norm_1 = Guided(inner), Guided(middle)
        self.conv_s, self.norm_s = (SpectralConv(inner, outer, 1, False), Guided(inner)) if inner != outer else (None, None)

    def forward(self, x: torch.Tensor, guide: torch.Tensor, of_batch: bool, steps: int) -> torch.Tensor:
        short = x if self.conv_s is None else self.conv_s(self.norm_s(x, guide, of_batch), steps)
        for norm, convolve in ((self.norm_0, self.conv_0), (self.norm_1, self.conv_1)):
            x = convolve(functional.leaky_relu(norm(x, guide, of_batch), LEAK), steps)
        return x + short


class SuperResolutionNet(nn.Module):
    """Pictures ``[N, 3, 256, 256]`` in [0, 1] to pictures of the same size in [-1, 1], of which the part above 0 is shown (times 255)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.fc = conv3(3, 16 * width, bias=True)  # in the file, never used
        self.lip_encoder = ImportanceEncoder(width)
        self.head_0, self.G_middle_0, self.G_middle_1 = (GuidedBlock(16 * width, 16 * width) for _ in range(3))
        widths = [16 * width >> i for i in range(5)]
        self.ups = nn.ModuleList(GuidedBlock(inner, outer) for inner, outer in pairwise(widths))
        self.to_rgbs = nn.ModuleList(conv3(outer, 3, bias=True) for outer in widths[1:])

    def forward(self, pictures: torch.Tensor, as_published: bool = False, steps: int = 1) -> torch.Tensor:
        """The published program leaves the network in training mode: batch norm takes the statistics of these very pictures, so their
        number matters, and each spectral norm does a power iteration (``steps`` of them). Without ``as_published`` the stored
        statistics are used. Either way no weight changes.
        """
        steps = steps if as_published else 0
        x = self.head_0(self.lip_encoder(pictures), pictures, as_published, steps)
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        x = self.G_middle_1(self.G_middle_0(x, pictures, as_published, steps), pictures, as_published, steps)
        for block in self.ups:
            x = block(functional.interpolate(x, scale_factor=2, mode="nearest"), pictures, as_published, steps)
        return torch.tanh(self.to_rgbs[-1](functional.leaky_relu(x, LEAK)))
