"""Face-Adapter's own networks (Han et al., arXiv 2405.12970), with the published files' keys.

Its ArcFace is ``iresnet.IResNet``, of which it takes the last feature map; UNet, VAE and ControlNet are Stable Diffusion 1.5's.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from . import conv3
from .resnet import Basic, Bottleneck, ResNet

HEADS = 12
# What the coefficients of ``CoefficientNet`` are, in order: identity, expression, albedo, rotation, light, shift (x and y, then z), gaze.
COEFFICIENTS = {"identity": 80, "expression": 64, "albedo": 80, "angles": 3, "light": 27, "shift_xy": 2, "shift_z": 1, "gaze": 4}


class TokenDecoder(nn.Module):
    """Features ``[N, T, features]`` to prompt tokens ``[N, count, width]``: learned queries in a transformer decoder that attends to
    them."""

    projection: str  # the file's names of the two parts
    decoder: str

    def __init__(self, features: int, width: int = 768, count: int = 77, layers: int = 3, hidden: int = 2048) -> None:
        super().__init__()
        self.features = features
        self.query = nn.Parameter(torch.zeros(1, count, width))
        layer = nn.TransformerDecoderLayer(width, HEADS, hidden, batch_first=True)
        setattr(self, self.projection, nn.Linear(features, width))
        setattr(self, self.decoder, nn.TransformerDecoder(layer, layers))

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """``[N, T, width]``: what the decoder attends to."""
        return getattr(self, self.projection)(features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return getattr(self, self.decoder)(self.query.expand(len(features), -1, -1), self.project(features))


class ID2Token(TokenDecoder):
    """From ArcFace's last feature map."""

    projection, decoder = "id_proj", "id2t"


class Image2Token(TokenDecoder):
    """From CLIP vision's last hidden state."""

    projection, decoder = "visual_proj", "i2t"


def token_decoder(kind: type[TokenDecoder], shapes: dict[str, list[int]]) -> TokenDecoder:
    """The decoder whose weights have these shapes by name."""
    _, count, width = shapes["query"]
    layers = {key.split(".")[2] for key in shapes if key.startswith(f"{kind.decoder}.layers.")}
    hidden = shapes[f"{kind.decoder}.layers.0.linear1.weight"][0]
    return kind(shapes[f"{kind.projection}.weight"][1], width, count, len(layers), hidden)


class AreaNet(nn.Module):
    """Source picture and landmark picture, ``[N, 6, H, W]`` in [-1, 1] (H and W divisible by 32), to how likely each pixel is to change
    when the source moves that way, ``[N, 1, H, W]``: a U-Net on a ResNet-18."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet(Basic, (2, 2, 2, 2), channels=6)
        inner = 512
        for number, (skipped, outer) in enumerate(((256, 256), (128, 128), (64, 64), (64, 32), (0, 16)), 1):
            setattr(self, f"decoder{number}", _double(skipped + inner, outer))
            inner = outer
        self.final_conv = nn.Conv2d(inner, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *skips, x = self.backbone(x)
        for decode, skip in zip((self.decoder1, self.decoder2, self.decoder3, self.decoder4), reversed(skips), strict=True):
            x = decode(torch.cat([skip, _larger(x)], 1))
        return torch.sigmoid(self.final_conv(self.decoder5(_larger(x))))


class CoefficientNet(nn.Module):
    """D3DFR: faces ``[N, 3, 256, 256]`` in [-1, 1] to the coefficients of a 3-D face ``[N, 261]``, see ``COEFFICIENTS``."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet(Bottleneck, (3, 4, 6, 3))
        self.fianl_layers = nn.ModuleList(nn.Conv2d(2048, count, 1) for count in COEFFICIENTS.values())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = self.backbone(x)[-1].mean((2, 3), keepdim=True)
        return torch.cat([head(mean) for head in self.fianl_layers], 1).flatten(1)


def _double(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(conv3(inner, outer), nn.BatchNorm2d(outer), nn.ReLU(), conv3(outer, outer), nn.BatchNorm2d(outer), nn.ReLU())


def _larger(x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
