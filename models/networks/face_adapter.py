"""Face-Adapter's own networks (Han et al., ECCV 2024, arXiv 2405.12970), with the published files' keys.

Its ArcFace is an ``iresnet.IResNet``, whose last feature map it takes; UNet, VAE and ControlNet are Stable Diffusion 1.5's.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from . import conv3
from .resnet import Basic, Bottleneck, ResNet

HEADS = 12  # of the token decoders' attention
# The coefficients that ``CoefficientNet`` returns, in order, and how many each takes.
COEFFICIENTS = {"identity": 80, "expression": 64, "albedo": 80, "angles": 3, "light": 27, "shift_xy": 2, "shift_z": 1, "gaze": 4}


class TokenDecoder(nn.Module):
    """Features ``[N, T, features]`` to prompt tokens ``[N, count, width]``: a transformer decoder whose learned queries attend to them.

    projection, decoder: the file's names of the two parts.
    """

    projection: str
    decoder: str

    def __init__(self, features: int, width: int = 768, count: int = 77, layers: int = 3, hidden: int = 2048) -> None:
        super().__init__()
        self.features = features
        self.query = nn.Parameter(torch.zeros(1, count, width))
        layer = nn.TransformerDecoderLayer(width, HEADS, hidden, batch_first=True)
        setattr(self, self.projection, nn.Linear(features, width))
        setattr(self, self.decoder, nn.TransformerDecoder(layer, layers))

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Project features ``[N, T, features]`` to the width ``[N, T, width]`` of the decoder."""
        return getattr(self, self.projection)(features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return getattr(self, self.decoder)(self.query.expand(len(features), -1, -1), self.project(features))


class ID2Token(TokenDecoder):
    """Tokens from ArcFace's last feature map."""

    projection, decoder = "id_proj", "id2t"


class Image2Token(TokenDecoder):
    """Tokens from the last hidden state of CLIP vision."""

    projection, decoder = "visual_proj", "i2t"


def token_decoder_for(kind: type[TokenDecoder], shapes: dict[str, list[int]]) -> TokenDecoder:
    """Make the decoder whose weights have these shapes by key, without the weights."""
    _, count, width = shapes["query"]
    layers = {key.split(".")[2] for key in shapes if key.startswith(f"{kind.decoder}.layers.")}
    hidden = shapes[f"{kind.decoder}.layers.0.linear1.weight"][0]
    return kind(shapes[f"{kind.projection}.weight"][1], width, count, len(layers), hidden)


class AreaNet(nn.Module):
    """A picture and a drawing of landmarks to how likely each pixel changes when the face moves to these landmarks.

    ``[N, 6, H, W]`` in [-1, 1], H and W divisible by 32, to ``[N, 1, H, W]`` 0..1; a U-Net on a ResNet-18.
    """

    decoder1: nn.Module
    decoder2: nn.Module
    decoder3: nn.Module
    decoder4: nn.Module
    decoder5: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet(Basic, (2, 2, 2, 2), channels=6)
        in_channels = 512
        for number, (skipped, out_channels) in enumerate(((256, 256), (128, 128), (64, 64), (64, 32), (0, 16)), 1):
            setattr(self, f"decoder{number}", _two_convolutions(skipped + in_channels, out_channels))
            in_channels = out_channels
        self.final_conv = nn.Conv2d(in_channels, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *skips, x = self.backbone(x)
        for decode, skip in zip((self.decoder1, self.decoder2, self.decoder3, self.decoder4), reversed(skips), strict=True):
            x = decode(torch.cat([skip, _upsample_2x(x)], 1))
        return torch.sigmoid(self.final_conv(self.decoder5(_upsample_2x(x))))


class CoefficientNet(nn.Module):
    """D3DFR: faces ``[N, 3, 256, 256]`` in [-1, 1] to the coefficients ``[N, 261]`` of a 3-D face; see ``COEFFICIENTS``."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet(Bottleneck, (3, 4, 6, 3))
        self.fianl_layers = nn.ModuleList(nn.Conv2d(2048, count, 1) for count in COEFFICIENTS.values())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = self.backbone(x)[-1].mean((2, 3), keepdim=True)
        return torch.cat([head(mean) for head in self.fianl_layers], 1).flatten(1)


def _two_convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    first, second = conv3(in_channels, out_channels), conv3(out_channels, out_channels)
    return nn.Sequential(first, nn.BatchNorm2d(out_channels), nn.ReLU(), second, nn.BatchNorm2d(out_channels), nn.ReLU())


def _upsample_2x(x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
