"""The adaptive embedding integration network of FaceShifter (Li et al., CVPR 2020, section 3.1) as GHOST and ReliableSwap publish it.

An encoder reads attribute maps at eight sizes from the target, a generator starts from the identity vector and lets every layer choose,
pixel by pixel, between the target's attributes and the identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional

from . import conv3, without_onednn_for_small_maps

WIDTHS = (32, 64, 128, 256, 512, 1024, 1024)
# Channels into and out of the generator's blocks; the attribute maps' own widths follow from the encoder.
BLOCKS = ((1024, 1024), (1024, 1024), (1024, 1024), (1024, 512), (512, 256), (256, 128), (128, 64), (64, 3))
LEAK = .1


def double(x: torch.Tensor) -> torch.Tensor:
    """Bilinear to twice the size, corner pixels on corner pixels."""
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class Down(nn.Sequential):
    """Halve the size."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__(nn.Conv2d(inner, outer, 4, 2, 1, bias=False), nn.BatchNorm2d(outer), nn.LeakyReLU(LEAK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with without_onednn_for_small_maps(x):
            return super().forward(x)


class Up(nn.Module):
    """Double the size and put the encoder's map of that size beside it, or add it."""

    def __init__(self, inner: int, outer: int, join: str) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(outer)
        self.join = join

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        with without_onednn_for_small_maps(x):
            x = self.deconv(x)
        x = functional.leaky_relu(self.bn(x), LEAK)
        return torch.cat((x, skip), 1) if self.join == "cat" else x + skip


class Encoder(nn.Module):
    """``[N, 3, 256, 256]`` to seven maps, from 2×2 to 128×128; ``join``: ``cat`` (U-Net) or ``add`` (LinkNet).

    The published eighth is the last one doubled, which the generator does itself. With ``large`` two convolutions take the place of
    ``conv1`` (which stays in the file) and there is one map more, up to 256×256.
    """

    def __init__(self, join: str = "cat", large: bool = False) -> None:
        super().__init__()
        self.large = large
        if large:
            self.conv00, self.conv01 = Down(3, 16), Down(16, 32)
        for number, (inner, outer) in enumerate(zip((3, *WIDTHS), WIDTHS), 1):
            setattr(self, f"conv{number}", Down(inner, outer))
        self.widths = [WIDTHS[-1]]
        for number, outer in enumerate(WIDTHS[-2::-1], 1):
            setattr(self, f"deconv{number}", Up(self.widths[-1], outer, join))
            self.widths.append(2 * outer if join == "cat" else outer)
        if large:
            self.deconv7 = Up(self.widths[-1], 16, join)
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


class Bottleneck(nn.Module):
    """A residual block of ResNet-50; ``early`` puts the stride on the first 1×1 convolution, as the paper had it, else it is on the 3×3."""

    def __init__(self, inner: int, planes: int, stride: int = 1, early: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, planes, 1, stride if early else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3(planes, planes, 1 if early else stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = None
        if stride != 1 or inner != 4 * planes:
            self.downsample = nn.Sequential(nn.Conv2d(inner, 4 * planes, 1, stride, bias=False), nn.BatchNorm2d(4 * planes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(functional.relu(self.bn2(self.conv2(y)))))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNetEncoder(nn.Module):
    """``[N, 3, 256, 256]`` to the maps of a residual network, from 2×2 to 256×256."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.bn0 = nn.Conv2d(3, 64, 7, 1, 3, bias=False), nn.BatchNorm2d(64)
        self.conv1, self.bn1 = nn.Conv2d(64, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inner, self.widths = 64, [64, 64]
        for number, planes in enumerate((32, 64, 128, 256, 512, 256), 1):
            blocks = Bottleneck(inner, planes, 2, early=True), Bottleneck(4 * planes, planes)
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            inner = 4 * planes
            self.widths.insert(0, inner)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = [functional.relu(self.bn0(self.conv0(x)))]
        maps.append(functional.relu(self.bn1(self.conv1(maps[0]))))
        for number in range(1, 7):
            maps.append(getattr(self, f"layer{number}")(maps[-1]))
        return maps[::-1]


def normalised(h: torch.Tensor) -> torch.Tensor:
    """Instance normalisation; on a processor several times as quick as torch's, which copies channels-last maps."""
    h = h - h.mean((2, 3), keepdim=True)
    return h.mul_(h.float().square().mean((2, 3), keepdim=True).add_(1e-5).rsqrt_())


class Blend(nn.Module):
    """The AAD layer: a normalised map's scale and shift are between the attributes' and the identity's, by a mask of its own."""

    def __init__(self, channels: int, attributes: int, identity: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(attributes, channels, 1), nn.Conv2d(attributes, channels, 1)
        self.fc1, self.fc2 = nn.Linear(identity, channels), nn.Linear(identity, channels)
        self.conv_h = nn.Conv2d(channels, 1, 1)

    def forward(self, h: torch.Tensor, attributes: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
        scale, shift = self.conv1(attributes), self.conv2(attributes)
        if scale.shape[-1] < h.shape[-1]:  # what a 1×1 convolution makes of the doubled map, for a quarter of the work
            scale, shift = double(scale), double(shift)
        mask = torch.sigmoid(self.conv_h(h))
        scale.lerp_(self.fc1(identity)[..., None, None], mask)
        return shift.lerp_(self.fc2(identity)[..., None, None], mask).addcmul_(scale, h)


class BlendBlock(nn.Module):
    """``count`` times blend, ReLU, convolve, and a shortcut; GHOST's names."""

    def __init__(self, inner: int, outer: int, attributes: int, identity: int, count: int) -> None:
        super().__init__()
        self.add_blocks = nn.ModuleList()
        for width in [inner] * (count - 1) + [outer]:
            self.add_blocks.extend([Blend(inner, attributes, identity), nn.ReLU(), conv3(inner, width)])
        self.last_add_block = None
        if inner != outer:
            self.last_add_block = nn.ModuleList([Blend(inner, attributes, identity), nn.ReLU(), conv3(inner, outer)])

    def forward(self, h: torch.Tensor, attributes: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
        pairs = zip(self.add_blocks[::3], self.add_blocks[2::3])
        return _joined(pairs, self.last_add_block and self.last_add_block[::2], h, attributes, identity)


class PairBlock(nn.Module):
    """The same with two steps and ReliableSwap's names."""

    def __init__(self, inner: int, outer: int, attributes: int, identity: int) -> None:
        super().__init__()
        self.AAD1, self.conv1 = Blend(inner, attributes, identity), conv3(inner, inner)
        self.AAD2, self.conv2 = Blend(inner, attributes, identity), conv3(inner, outer)
        self.short = inner == outer
        if not self.short:
            self.AAD3, self.conv3 = Blend(inner, attributes, identity), conv3(inner, outer)

    def forward(self, h: torch.Tensor, attributes: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
        pairs = (self.AAD1, self.conv1), (self.AAD2, self.conv2)
        return _joined(pairs, None if self.short else (self.AAD3, self.conv3), h, attributes, identity)


def _joined(pairs: Iterable[Sequence[nn.Module]], shortcut: Sequence[nn.Module] | None, h: torch.Tensor, attributes: torch.Tensor,
            identity: torch.Tensor) -> torch.Tensor:
    """Pairs of blend and convolution in turn, and the shortcut, which may be such a pair of its own; the first of both take one map."""

    def step(pair: Sequence[nn.Module], normal: torch.Tensor) -> torch.Tensor:
        blend, convolve = pair
        return convolve(blend(normal, attributes, identity).relu_())

    normal = normalised(h)
    first, *others = pairs
    y = step(first, normal)
    for pair in others:
        y = step(pair, normalised(y))
    return y.add_(h if shortcut is None else step(shortcut, normal))


class Generator(nn.Module):
    """Attribute maps and identity ``[N, D]`` to pictures ``[N, 3, H, W]`` in [-1, 1].

    blocks: how many steps a block has in GHOST's form, None for ReliableSwap's. widths: of the maps; nine make a picture of 512×512. The
    last map may be left out where it is the one before, doubled.
    """

    def __init__(self, widths: Sequence[int], identity: int = 512, blocks: int | None = None) -> None:
        super().__init__()
        self.up1 = nn.ConvTranspose2d(identity, 1024, 2)
        self.large = len(widths) == 9
        for number, ((inner, outer), width) in enumerate(zip(BLOCKS, widths), 1):
            # The last of the 256 form stays in the file of the 512 form, with that form's width of attributes.
            width = 64 if self.large and number == 8 else width
            block = PairBlock(inner, outer, width, identity) if blocks is None else BlendBlock(inner, outer, width, identity, blocks)
            setattr(self, f"AADBlk{number}", block)
        if self.large:
            self.AADBlk8_0, self.AADBlk8_1 = PairBlock(64, 32, widths[7], identity), PairBlock(32, 3, widths[8], identity)

    def forward(self, maps: Sequence[torch.Tensor], identity: torch.Tensor) -> torch.Tensor:
        h = self.up1(identity[..., None, None])
        cells = maps[0].shape[-1] // 2
        if cells > 1:
            h = functional.interpolate(h, scale_factor=cells, mode="bilinear", align_corners=True)
        blocks = [getattr(self, f"AADBlk{number}") for number in range(1, 9)]
        if self.large:
            blocks[-1:] = self.AADBlk8_0, self.AADBlk8_1
        for block, attributes in zip(blocks[:-1], maps):
            h = double(block(h, attributes, identity))
        return torch.tanh(blocks[-1](h, maps[-1], identity))


ENCODERS = {"unet": lambda: Encoder("cat"), "linknet": lambda: Encoder("add"), "resnet": ResNetEncoder}


class AEINet(nn.Module):
    """Targets ``[N, 3, 256, 256]`` in [-1, 1] (RGB) and identities ``[N, D]`` to swapped pictures and the attribute maps."""

    def __init__(self, backbone: str = "unet", blocks: int | None = 2, identity: int = 512, large: bool = False) -> None:
        super().__init__()
        self.encoder = Encoder("cat", large) if large else ENCODERS[backbone]()
        self.generator = Generator(self.encoder.widths, identity, blocks)

    def forward(self, target: torch.Tensor, identity: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        maps = self.encoder(target)
        return self.generator(maps, identity), maps
