"""The adaptive embedding integration network of FaceShifter (Li et al., CVPR 2020, section 3.1) as GHOST and ReliableSwap publish it.

An encoder reads attribute maps at eight sizes from the target. A generator starts from the identity vector; each of its layers chooses,
pixel by pixel, between the target's attributes and the identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional

from . import conv3, without_onednn_for_small_maps
from .resnet import Bottleneck

WIDTHS = (32, 64, 128, 256, 512, 1024, 1024)
# Channels into and out of the generator's blocks; the attribute maps' own widths follow from the encoder.
BLOCKS = ((1024, 1024), (1024, 1024), (1024, 1024), (1024, 512), (512, 256), (256, 128), (128, 64), (64, 3))
LEAK = .1


def upsample_2x(x: torch.Tensor) -> torch.Tensor:
    """Enlarge ``[N, C, H, W]`` bilinearly to twice the size, corner pixels on corner pixels."""
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class Downsample(nn.Sequential):
    """Halves the size by a convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=False), nn.BatchNorm2d(out_channels), nn.LeakyReLU(LEAK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with without_onednn_for_small_maps(x):
            return super().forward(x)


class Upsample(nn.Module):
    """Doubles the size and joins the encoder's map of that size to it. join: ``"cat"`` (beside it) or ``"add"``."""

    def __init__(self, in_channels: int, out_channels: int, join: str) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.join = join

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        with without_onednn_for_small_maps(x):
            x = self.deconv(x)
        x = functional.leaky_relu(self.bn(x), LEAK)
        return torch.cat((x, skip), 1) if self.join == "cat" else x + skip


class Encoder(nn.Module):
    """Pictures ``[N, 3, 256, 256]`` to seven maps, from 2×2 to 128×128 pixels.

    join: ``"cat"`` (U-Net) or ``"add"`` (LinkNet). The published encoder returns an eighth map, the last one doubled; here the
    generator doubles it. large: pictures of 512 pixels and an eighth map of 256×256; two convolutions take the place of ``conv1``,
    whose weights are in the file but unused.
    """

    conv1: nn.Module

    def __init__(self, join: str = "cat", large: bool = False) -> None:
        super().__init__()
        self.large = large
        if large:
            self.conv00, self.conv01 = Downsample(3, 16), Downsample(16, 32)
        for number, (in_channels, out_channels) in enumerate(zip((3, *WIDTHS), WIDTHS), 1):
            setattr(self, f"conv{number}", Downsample(in_channels, out_channels))
        self.widths = [WIDTHS[-1]]
        for number, out_channels in enumerate(WIDTHS[-2::-1], 1):
            setattr(self, f"deconv{number}", Upsample(self.widths[-1], out_channels, join))
            self.widths.append(2 * out_channels if join == "cat" else out_channels)
        if large:
            self.deconv7 = Upsample(self.widths[-1], 16, join)
            self.widths.append(32)
        self.widths.append(self.widths[-1])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        skips = [self.conv00(x)] if self.large else []
        skips.append(self.conv01(skips[0]) if self.large else self.conv1(x))
        for number in range(2, 8):
            skips.append(getattr(self, f"conv{number}")(skips[-1]))
        maps = [skips.pop()]
        for number, skip in enumerate(reversed(skips), 1):
            maps.append(getattr(self, f"deconv{number}")(maps[-1], skip))
        return maps


class ResNetEncoder(nn.Module):
    """Pictures ``[N, 3, 256, 256]`` to eight maps of a residual network, from 2×2 to 256×256 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.bn0 = nn.Conv2d(3, 64, 7, 1, 3, bias=False), nn.BatchNorm2d(64)
        self.conv1, self.bn1 = nn.Conv2d(64, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        in_channels, self.widths = 64, [64, 64]
        for number, planes in enumerate((32, 64, 128, 256, 512, 256), 1):
            blocks = Bottleneck(in_channels, planes, 2, early_stride=True), Bottleneck(4 * planes, planes)
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            in_channels = 4 * planes
            self.widths.insert(0, in_channels)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = [functional.relu(self.bn0(self.conv0(x)))]
        maps.append(functional.relu(self.bn1(self.conv1(maps[0]))))
        for number in range(1, 7):
            maps.append(getattr(self, f"layer{number}")(maps[-1]))
        return maps[::-1]


def normalize_instances(h: torch.Tensor) -> torch.Tensor:
    """Normalise every channel of ``[N, C, H, W]`` over its pixels. On a processor several times as fast as torch's, which copies
    channels-last maps."""
    h = h - h.mean((2, 3), keepdim=True)
    return h.mul_(h.float().square().mean((2, 3), keepdim=True).add_(1e-5).rsqrt_())


class AADLayer(nn.Module):
    """Adaptive attentional denormalisation: scales and shifts a normalised map by a mixture, which a mask computed from the map decides
    pixel by pixel, of what the attributes and what the identity ask for."""

    def __init__(self, channels: int, attributes: int, identity: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(attributes, channels, 1), nn.Conv2d(attributes, channels, 1)
        self.fc1, self.fc2 = nn.Linear(identity, channels), nn.Linear(identity, channels)
        self.conv_h = nn.Conv2d(channels, 1, 1)

    def forward(self, h: torch.Tensor, attributes: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
        scale, shift = self.conv1(attributes), self.conv2(attributes)
        if scale.shape[-1] < h.shape[-1]:  # equals the convolutions of the doubled map, for a quarter of the work
            scale, shift = upsample_2x(scale), upsample_2x(shift)
        mask = torch.sigmoid(self.conv_h(h))
        scale.lerp_(self.fc1(identity)[..., None, None], mask)
        return shift.lerp_(self.fc2(identity)[..., None, None], mask).addcmul_(scale, h)


class GhostAADBlock(nn.Module):
    """A residual block of ``count`` AAD layers, each followed by ReLU and a convolution, with GHOST's key names."""

    def __init__(self, in_channels: int, out_channels: int, attributes: int, identity: int, count: int) -> None:
        super().__init__()
        self.add_blocks = nn.ModuleList()
        for width in [in_channels] * (count - 1) + [out_channels]:
            self.add_blocks.extend([AADLayer(in_channels, attributes, identity), nn.ReLU(), conv3(in_channels, width)])
        self.last_add_block = None
        if in_channels != out_channels:
            self.last_add_block = nn.ModuleList([AADLayer(in_channels, attributes, identity), nn.ReLU(), conv3(in_channels, out_channels)])

    def forward(self, h: torch.Tensor, attributes: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
        pairs = zip(self.add_blocks[::3], self.add_blocks[2::3])
        return _run_block(pairs, self.last_add_block and self.last_add_block[::2], h, attributes, identity)


class ReliableSwapAADBlock(nn.Module):
    """A residual block of two AAD layers, each followed by ReLU and a convolution, with ReliableSwap's key names."""

    def __init__(self, in_channels: int, out_channels: int, attributes: int, identity: int) -> None:
        super().__init__()
        self.AAD1, self.conv1 = AADLayer(in_channels, attributes, identity), conv3(in_channels, in_channels)
        self.AAD2, self.conv2 = AADLayer(in_channels, attributes, identity), conv3(in_channels, out_channels)
        self.short = in_channels == out_channels
        if not self.short:
            self.AAD3, self.conv3 = AADLayer(in_channels, attributes, identity), conv3(in_channels, out_channels)

    def forward(self, h: torch.Tensor, attributes: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
        pairs = (self.AAD1, self.conv1), (self.AAD2, self.conv2)
        return _run_block(pairs, None if self.short else (self.AAD3, self.conv3), h, attributes, identity)


def _run_block(pairs: Iterable[Iterable[nn.Module]], shortcut: Iterable[nn.Module] | None, h: torch.Tensor, attributes: torch.Tensor,
            identity: torch.Tensor) -> torch.Tensor:
    """Run a residual block: pairs of AAD layer and convolution in turn, plus the shortcut, which is None or such a pair.

    The first pair and the shortcut share the normalised input.
    """

    def step(pair: Iterable[nn.Module], normal: torch.Tensor) -> torch.Tensor:
        aad_layer, convolve = pair
        return convolve(aad_layer(normal, attributes, identity).relu_())

    normal = normalize_instances(h)
    first, *others = pairs
    y = step(first, normal)
    for pair in others:
        y = step(pair, normalize_instances(y))
    return y.add_(h if shortcut is None else step(shortcut, normal))


class Generator(nn.Module):
    """Attribute maps and identities ``[N, D]`` to pictures ``[N, 3, H, W]`` in [-1, 1].

    widths: channels of the maps; eight make pictures of 256×256, nine of 512×512. The last map may be left out where it is the map
    before it, doubled. blocks: AAD layers per block of GHOST's kind; None for ReliableSwap's blocks.
    """

    def __init__(self, widths: Sequence[int], identity: int = 512, blocks: int | None = None) -> None:
        super().__init__()
        self.up1 = nn.ConvTranspose2d(identity, 1024, 2)
        self.large = len(widths) == 9
        for number, ((in_channels, out_channels), width) in enumerate(zip(BLOCKS, widths), 1):
            # Files for 512 pixels also hold the last block of the 256-pixel network, unused, for attributes of this width.
            width = 64 if self.large and number == 8 else width
            channels = in_channels, out_channels, width, identity
            block = ReliableSwapAADBlock(*channels) if blocks is None else GhostAADBlock(*channels, blocks)
            setattr(self, f"AADBlk{number}", block)
        if self.large:
            self.AADBlk8_0 = ReliableSwapAADBlock(64, 32, widths[7], identity)
            self.AADBlk8_1 = ReliableSwapAADBlock(32, 3, widths[8], identity)

    def forward(self, maps: Sequence[torch.Tensor], identity: torch.Tensor) -> torch.Tensor:
        h = self.up1(identity[..., None, None])
        enlarged = maps[0].shape[-1] // 2
        if enlarged > 1:
            h = functional.interpolate(h, scale_factor=enlarged, mode="bilinear", align_corners=True)
        blocks = [getattr(self, f"AADBlk{number}") for number in range(1, 9)]
        if self.large:
            blocks[-1:] = self.AADBlk8_0, self.AADBlk8_1
        for block, attributes in zip(blocks[:-1], maps):
            h = upsample_2x(block(h, attributes, identity))
        return torch.tanh(blocks[-1](h, maps[-1], identity))


ENCODERS = {"unet": lambda: Encoder("cat"), "linknet": lambda: Encoder("add"), "resnet": ResNetEncoder}


class AEINet(nn.Module):
    """Targets ``[N, 3, 256, 256]`` RGB in [-1, 1] and identities ``[N, D]`` to swapped pictures ``[N, 3, 256, 256]`` and attribute maps."""

    def __init__(self, backbone: str = "unet", blocks: int | None = 2, identity: int = 512, large: bool = False) -> None:
        super().__init__()
        self.encoder = Encoder("cat", large) if large else ENCODERS[backbone]()
        self.generator = Generator(self.encoder.widths, identity, blocks)

    def forward(self, target: torch.Tensor, identity: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        maps = self.encoder(target)
        return self.generator(maps, identity), maps
