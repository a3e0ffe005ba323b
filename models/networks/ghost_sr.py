"""GHOST's optional super-resolution network: HiFaceGAN (Yang et al., ACM MM 2020) with a local-importance encoder."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from . import conv3

LEAK = .2


class ImportancePool(nn.Module):
    """Halves the size by means in which each pixel has a learned weight (Gao et al., ICCV 2019)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logit = nn.Sequential(conv3(channels, channels), nn.InstanceNorm2d(channels, affine=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = torch.exp(12 * torch.sigmoid(self.logit(x)))
        return functional.avg_pool2d(x * weight, 3, 2, 1) / functional.avg_pool2d(weight, 3, 2, 1)


class ImportanceEncoder(nn.Module):
    """Pictures ``[N, 3, 256, 256]`` to features ``[N, 16 * width, 8, 8]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv3(3, width), nn.InstanceNorm2d(width), nn.ReLU()]
        in_channels = width
        for _ in range(5):
            out_channels = min(2 * in_channels, 16 * width)
            layers += [ImportancePool(in_channels), conv3(in_channels, out_channels, bias=True), nn.InstanceNorm2d(out_channels), nn.ReLU()]
            in_channels = out_channels
        self.model = nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class SpectralConv(nn.Module):
    """A convolution whose weight is divided by its largest singular value (spectral normalisation, Miyato et al., ICLR 2018).

    The file holds the weight before division and estimates of both singular vectors.
    """

    weight_u: torch.Tensor
    weight_v: torch.Tensor

    def __init__(self, in_channels: int, out_channels: int, edge: int, bias: bool) -> None:
        super().__init__()
        self.weight_orig = nn.Parameter(torch.empty(out_channels, in_channels, edge, edge))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.register_buffer("weight_u", torch.empty(out_channels))
        self.register_buffer("weight_v", torch.empty(in_channels * edge * edge))
        self.edge = edge

    def forward(self, x: torch.Tensor, steps: int) -> torch.Tensor:
        """Convolve after ``steps`` power iterations from the stored vectors, which stay as they are."""
        matrix, u, v = self.weight_orig.flatten(1), self.weight_u, self.weight_v
        for _ in range(steps):
            v = functional.normalize(matrix.t() @ u, dim=0, eps=1e-12)
            u = functional.normalize(matrix @ v, dim=0, eps=1e-12)
        return functional.conv2d(x, self.weight_orig / (u @ (matrix @ v)), self.bias, padding=self.edge // 2)


class SpatialNorm(nn.Module):
    """SPADE (Park et al., CVPR 2019): batch normalisation whose scale and shift are computed from the input picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        hidden = min(128, channels)
        self.mlp_shared = nn.Sequential(conv3(3, hidden, bias=True), nn.ReLU())
        self.mlp_gamma, self.mlp_beta = conv3(hidden, channels), conv3(hidden, channels)

    def forward(self, x: torch.Tensor, picture: torch.Tensor, batch_statistics: bool) -> torch.Tensor:
        hidden = self.mlp_shared(functional.interpolate(picture, size=x.shape[-2:], mode="nearest"))
        norm = self.param_free_norm
        stored = (None, None) if batch_statistics else (norm.running_mean, norm.running_var)
        x = functional.batch_norm(x, *stored, training=batch_statistics, eps=norm.eps)
        return torch.addcmul(self.mlp_beta(hidden), x, self.mlp_gamma(hidden))


class SpatialBlock(nn.Module):
    """A residual block of two convolutions, each after a ``SpatialNorm``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)
        self.conv_0, self.conv_1 = SpectralConv(in_channels, middle, 3, True), SpectralConv(middle, out_channels, 3, True)
        self.norm_0, self.norm_1 = SpatialNorm(in_channels), SpatialNorm(middle)
        self.conv_s = self.norm_s = None
        if in_channels != out_channels:
            self.conv_s, self.norm_s = SpectralConv(in_channels, out_channels, 1, False), SpatialNorm(in_channels)

    def forward(self, x: torch.Tensor, picture: torch.Tensor, batch_statistics: bool, steps: int) -> torch.Tensor:
        short = x if self.conv_s is None or self.norm_s is None else self.conv_s(self.norm_s(x, picture, batch_statistics), steps)
        for norm, convolve in ((self.norm_0, self.conv_0), (self.norm_1, self.conv_1)):
            x = convolve(functional.leaky_relu(norm(x, picture, batch_statistics), LEAK), steps)
        return x + short


class SuperResolutionNet(nn.Module):
    """Pictures ``[N, 3, 256, 256]`` in 0..1 to pictures of the same size in [-1, 1], where 0 and below stand for black and 1 for white."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.fc = conv3(3, 16 * width, bias=True)  # in the file, never used
        self.lip_encoder = ImportanceEncoder(width)
        self.head_0, self.G_middle_0, self.G_middle_1 = (SpatialBlock(16 * width, 16 * width) for _ in range(3))
        widths = [16 * width >> i for i in range(5)]
        self.ups = nn.ModuleList(SpatialBlock(in_channels, out_channels) for in_channels, out_channels in pairwise(widths))
        self.to_rgbs = nn.ModuleList(conv3(out_channels, 3, bias=True) for out_channels in widths[1:])

    def forward(self, pictures: torch.Tensor, as_published: bool = False, steps: int = 1) -> torch.Tensor:
        """Enhance pictures.

        as_published: the published program leaves the network in training mode, so that batch normalisation takes the statistics of
        these pictures, whose number matters then, and every spectral normalisation does ``steps`` power iterations. Off, the stored
        statistics and vectors are used. Neither changes a weight.
        """
        steps = steps if as_published else 0
        x = self.head_0(self.lip_encoder(pictures), pictures, as_published, steps)
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        x = self.G_middle_1(self.G_middle_0(x, pictures, as_published, steps), pictures, as_published, steps)
        for block in self.ups:
            x = block(functional.interpolate(x, scale_factor=2, mode="nearest"), pictures, as_published, steps)
        return torch.tanh(self.to_rgbs[-1](functional.leaky_relu(x, LEAK)))
