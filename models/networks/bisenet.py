"""BiSeNet (Yu et al., ECCV 2018, "BiSeNet: Bilateral Segmentation Network") on a ResNet-18 or ResNet-34.

As in its well-known face parsing variant, the spatial path is the backbone's map at an eighth of the size. Module names are those of
the keys in the checkpoint 79999_iter.pth (also called parsing_bisenet.pth and FaceParser.pth).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import FaceLoomError
from .resnet import Basic, ResNet

# Blocks per stage of the backbones, and a tensor that only the deeper one has.
SHALLOW, DEEP = (2, 2, 2, 2), (3, 4, 6, 3)
DEEP_KEY = "cp.resnet.layer1.2.conv1.weight"
CLASSES = 19  # of CelebAMask-HQ, background included


class ConvBNReLU(nn.Module):
    """A convolution, normalisation and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


class AttentionRefinement(nn.Module):
    """A convolution whose channels are weighted by what their means say (section 3.2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(in_channels, out_channels)
        self.conv_atten = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return x * torch.sigmoid(self.bn_atten(self.conv_atten(x.mean((2, 3), keepdim=True))))


class ContextPath(nn.Module):
    """Pictures to the backbone's map at an eighth of the size and context maps at an eighth and a sixteenth."""

    def __init__(self, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.resnet = ResNet(Basic, blocks)
        self.arm16 = AttentionRefinement(256, 128)
        self.arm32 = AttentionRefinement(512, 128)
        self.conv_head32 = ConvBNReLU(128, 128)
        self.conv_head16 = ConvBNReLU(128, 128)
        self.conv_avg = ConvBNReLU(512, 128, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        *_, eighth, sixteenth, last = self.resnet(x)
        last = self.arm32(last) + self.conv_avg(last.mean((2, 3), keepdim=True))
        coarse = self.conv_head32(F.interpolate(last, size=sixteenth.shape[2:], mode="nearest"))
        fine = self.conv_head16(F.interpolate(self.arm16(sixteenth) + coarse, size=eighth.shape[2:], mode="nearest"))
        return eighth, fine, coarse


class FeatureFusion(nn.Module):
    """Joins the spatial and the context map, channels weighted by what their means say (section 3.3)."""

    def __init__(self) -> None:
        super().__init__()
        self.convblk = ConvBNReLU(256, 256, 1)
        self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 256, 1, bias=False)

    def forward(self, spatial: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        x = self.convblk(torch.cat([spatial, context], 1))
        return x + x * torch.sigmoid(self.conv2(F.relu(self.conv1(x.mean((2, 3), keepdim=True)))))


class Head(nn.Module):
    """A feature map to class scores."""

    def __init__(self, in_channels: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(in_channels, channels)
        self.conv_out = nn.Conv2d(channels, classes, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_out(self.conv(x))


class BiSeNet(nn.Module):
    """Pictures ``[N, 3, H, W]`` (ImageNet mean and std, H and W divisible by 32) to class scores ``[N, classes, H, W]``."""

    def __init__(self, classes: int = CLASSES, blocks: tuple[int, ...] = SHALLOW) -> None:
        super().__init__()
        self.cp = ContextPath(blocks)
        self.ffm = FeatureFusion()
        self.conv_out = Head(256, 256, classes)
        self.conv_out16 = Head(128, 64, classes)  # the last two are for training, and for losses
        self.conv_out32 = Head(128, 64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.heads(x, 1)[0]

    def heads(self, x: torch.Tensor, count: int = 3) -> list[torch.Tensor]:
        """Compute the scores ``[N, classes, H, W]`` of the first ``count`` heads: fused, context at an eighth, context at a sixteenth."""
        eighth, fine, coarse = self.cp(x)
        features = [self.ffm(eighth, fine), fine, coarse][:count]
        heads = (self.conv_out, self.conv_out16, self.conv_out32)
        return [F.interpolate(head(feature), size=x.shape[2:], mode="bilinear", align_corners=True)
                for head, feature in zip(heads, features, strict=False)]


def original_key(key: str) -> str:
    """Return a tensor's key in the original checkpoint; faceswap's copies of it name one layer of the heads differently."""
    return re.sub(r"^(conv_out(?:16|32)?)\.conv1\.", r"\1.conv.", key)


def build_bisenet(weights: Mapping[str, torch.Tensor], name: str) -> BiSeNet:
    """Build the network around a checkpoint's weights; superfluous tensors are ignored. name: what errors call the file."""
    renamed = {original_key(key): value for key, value in weights.items()}
    last = renamed.get("conv_out.conv_out.weight")
    if last is not None and len(last) != CLASSES:
        raise FaceLoomError(f"{name} labels {len(last)} classes, not the {CLASSES} of CelebAMask-HQ; use 79999_iter.pth.")
    net = BiSeNet(blocks=DEEP if DEEP_KEY in renamed else SHALLOW)
    try:
        missing = net.load_state_dict(renamed, strict=False).missing_keys
    except RuntimeError as error:  # another shape
        raise FaceLoomError(f"{name} is not a BiSeNet on ResNet-18 or ResNet-34; use 79999_iter.pth or an ONNX export.") from error
    if [key for key in missing if not key.endswith("num_batches_tracked")]:
        raise FaceLoomError(f"{name} is not a whole BiSeNet; {missing[0]} is not in it.")
    return net
