"""The networks that faceswap makes masks with, under its checkpoints' key names.

Nirkin et al.'s FCN ("On Face Segmentation, Face Swapping, and Face Perception", 2018), which is Long et al.'s FCN-8s on VGG16, and
DeepFaceLab's U-Net on VGG11.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class ConvStack(nn.Module):
    """3×3 convolutions, each followed by ReLU. first_padding: of the first one, in pixels; the others have 1."""

    def __init__(self, in_channels: int, out_channels: int, count: int, first_padding: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(count):
            width, padding = (out_channels, 1) if number else (in_channels, first_padding)
            layers += [nn.Conv2d(width, out_channels, 3, padding=padding), nn.ReLU()]
        self.convs = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convs(x)


class Score(nn.Module):
    """Class scores of an intermediate map, whose values are multiplied by ``scale``, cut to a square that begins at pixel ``start``."""

    def __init__(self, channels: int, classes: int, scale: float, start: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, classes, 1)
        self.scale, self.start = scale, start

    def forward(self, x: torch.Tensor, edge: int) -> torch.Tensor:
        part = slice(self.start, self.start + edge)
        return self.conv(x * self.scale)[..., part, part]


class FaceFCN(nn.Module):
    """Pictures ``[N, 3, S, S]`` (BGR 0..255 less each picture's channel means) to class probabilities ``[N, classes, S, S]``.

    suffix: what the file appends to the names of the layers that depend on the classes; ``_r`` in the file of two classes.
    """

    def __init__(self, classes: int, suffix: str = "") -> None:
        super().__init__()
        sizes = ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))
        for number, size in enumerate(sizes, 1):
            self.add_module(f"conv{number}", ConvStack(*size, first_padding=100 if number == 1 else 1))
        self.fc6, self.fc7 = nn.Conv2d(512, 4096, 7), nn.Conv2d(4096, 4096, 1)
        self.score_pool4, self.score_pool3 = Score(512, classes, .01, 5), Score(256, classes, .0001, 9)
        self.classes, self.suffix = classes, suffix
        self.add_module(f"score_fr{suffix}", nn.Conv2d(4096, classes, 1))
        for name, edge in (("upscore2", 4), ("upscore_pool4", 4), ("upscore8", 16)):
            self.add_module(name + suffix, nn.ConvTranspose2d(classes, classes, edge, edge // 2, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size, pooled = x.shape[-1], []
        for number in range(1, 6):
            x = getattr(self, f"conv{number}")(x)
            x = functional.max_pool2d(x, 2, padding=x.shape[-1] % 2)  # an odd size gets one more row and column in front
            pooled.append(x)
        x = functional.relu(self.fc7(functional.relu(self.fc6(x))))
        x = self._apply_layer("upscore2", self._apply_layer("score_fr", x))
        x = self._apply_layer("upscore_pool4", x + self.score_pool4(pooled[3], x.shape[-1]))
        x = self._apply_layer("upscore8", x + self.score_pool3(pooled[2], x.shape[-1]))
        return x[..., 31 : 31 + size, 31 : 31 + size].softmax(1)

    def _apply_layer(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, name + self.suffix)(x)


class Upsample(nn.Module):
    """A convolution and a transposed one to twice the size, whose last row and column are cut off as in TensorFlow.

    activated: whether ReLU lies between the two.
    """

    def __init__(self, in_channels: int, middle: int, out_channels: int, activated: bool = True) -> None:
        super().__init__()
        self.activated = activated
        self.conv = nn.Conv2d(in_channels, middle, 3, padding=1)
        self.conv_trans = nn.ConvTranspose2d(middle, out_channels, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = self.conv_trans(functional.relu(x) if self.activated else x)
        return functional.relu(x[..., :-1, :-1])


class FaceUNet(nn.Module):
    """Pictures ``[N, 3, S, S]`` (BGR 0..1, S divisible by 32) to how likely each pixel is face, ``[N, 1, S, S]`` 0..1."""

    classes = 1

    def __init__(self) -> None:
        super().__init__()
        downs = {0: (3, 64, 1), 3: (64, 128, 1), 8: (128, 256, 2), 13: (256, 512, 2), 18: (512, 512, 2)}
        self.downs = [f"features_{number}" for number in downs]
        for name, size in zip(self.downs, downs.values()):
            self.add_module(name, ConvStack(*size))
        ups = ((512, 512, 256), (768, 512, 256), (768, 512, 128), (384, 256, 64), (192, 128, 32))
        for number, size in enumerate(ups, 1):
            self.add_module(f"dec{number}", Upsample(*size, activated=number > 1))
        self.conv2d_6, self.conv2d_7 = nn.Conv2d(96, 64, 3, padding=1), nn.Conv2d(64, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for name in self.downs:
            skips.append(getattr(self, name)(x))
            x = functional.max_pool2d(skips[-1], 2)
        for number in range(1, 6):
            x = torch.cat([getattr(self, f"dec{number}")(x), skips.pop()], 1)
        return torch.sigmoid(self.conv2d_7(functional.relu(self.conv2d_6(x))))
