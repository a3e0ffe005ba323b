"""ReliableSwap's FaceShifter generator (Yuan et al., 2023): identity network, FixerNet and the AEI network in one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from .aei import AEINet
from .iresnet import IResNet, iresnet_depth

# The matrix from an FFHQ crop of 256 pixels to an ArcFace crop of the same size.
TO_ARCFACE = ((1.07695457, -.03625215, -1.56352194), (.03625215, 1.07695457, -5.32134629))
# The rows and columns of the 112×112 source that FixerNet is given, by the number of pixels of its last map: in the published files, and
# in the variant with a wider cut that only the published code has.
MOUTHS = {16: (slice(56, 112), slice(28, 84)), 15: (slice(74, 112), slice(19, 93))}
MOUTH = MOUTHS[16]


class FixerNet(IResNet):
    """Embeds the lower face: ``[N, 3, 112, 112]`` to ``[N, features]``. cells: pixels of its last map; they tell which part it is given."""

    def __init__(self, features: int = 128, cells: int = 16, depth: int = 50) -> None:
        rows, columns = MOUTHS.get(cells, MOUTH)
        super().__init__(depth, features, rows.stop - rows.start, columns.stop - columns.start)
        self.window = rows, columns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x[..., self.window[0], self.window[1]])


def fixer_form(weights: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Read the arguments of the ``FixerNet`` that has these weights."""
    features, inputs = weights["fc.weight"].shape
    return {"features": features, "cells": inputs // 512, "depth": iresnet_depth(weights)}


class MouthNet(nn.Module):
    """FixerNet as the FaceShifter files hold it, with the mean and deviation of a loss that is not used."""

    def __init__(self, **form: int) -> None:
        super().__init__()
        self.register_buffer("vgg_mean", torch.zeros(3, 1, 1))
        self.register_buffer("vgg_std", torch.ones(3, 1, 1))
        self.backbone = FixerNet(**form)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone(x)


def resize_to_112(source: torch.Tensor) -> torch.Tensor:
    """Resize pictures bilinearly to 112×112, corner pixels on corner pixels."""
    return functional.interpolate(source, size=(112, 112), mode="bilinear", align_corners=True)


def warp_pictures(matrix: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Move ``pictures`` ``[N, C, H, W]`` by ``matrix`` ``[2, 3]``, from pixels to pixels, bilinearly, with black outside."""
    height, width = pictures.shape[-2:]
    last = matrix.new_tensor([[0, 0, 1]])
    unit = torch.cat([matrix.new_tensor([[2 / (width - 1), 0, -1], [0, 2 / (height - 1), -1]]), last])
    # This order of products comes closest to the network's published outputs, which are sensitive to the last bits of the identity.
    back = torch.linalg.inv(unit @ (torch.cat([matrix, last]) @ torch.linalg.inv(unit)))
    grid = functional.affine_grid(back[:2].expand(len(pictures), 2, 3), list(pictures.shape), align_corners=True)
    return functional.grid_sample(pictures, grid, align_corners=True)


class FaceShifterNet(nn.Module):
    """Sources and targets ``[N, 3, S, S]`` (FFHQ crops, RGB in [-1, 1]; S is 256, or 512 where ``large``) to swapped targets.

    fixer: the arguments of the ``FixerNet`` in it; None where there is none. depth: of the identity network.
    """

    trans_matrix: torch.Tensor

    def __init__(self, large: bool = False, fixer: Mapping[str, int] | None = None, depth: int = 100) -> None:
        super().__init__()
        scale = torch.tensor([[1, 1, 2 if large else 1]])
        self.register_buffer("trans_matrix", (torch.tensor(TO_ARCFACE) * scale)[None])
        self.mouth_net = None if fixer is None else MouthNet(**fixer)
        self.G = AEINet(blocks=None, identity=512 + (self.mouth_net.backbone.fc.out_features if self.mouth_net else 0), large=large)
        self.iresnet = IResNet(depth)

    def align(self, source: torch.Tensor) -> torch.Tensor:
        """Move FFHQ crops to where the identity network expects a face."""
        return warp_pictures(self.trans_matrix[0], source)

    def identity(self, source: torch.Tensor, align: bool = True) -> torch.Tensor:
        """Embed sources: ``[N, 512]`` of length 1, followed by FixerNet's ``[N, 128]`` as they are where there is one.

        align: off, as in the published command-line program, FFHQ crops are not aligned first.
        """
        small = resize_to_112(self.align(source) if align else source)
        vector = functional.normalize(self.iresnet(small))
        return vector if self.mouth_net is None else torch.cat((vector, self.mouth_net(small)), 1)

    def forward(self, source: torch.Tensor, target: torch.Tensor, align: bool = True) -> torch.Tensor:
        return self.G(target, self.identity(source, align))[0]
