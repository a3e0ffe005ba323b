"""MegaFS (Zhu et al., CVPR 2021): an encoder from faces to StyleGAN2's latents, and three networks that swap there."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import nn
from torch.nn import functional

from .resnet import Bottleneck

TARGET_LATENTS = 4  # the first latents always are the target's
# Channels, blocks and stride of the backbone's stages.
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2), (512, 2, 2))


class Backbone(nn.Module):
    """A ResNet-50 with a fifth stage: pictures to the maps of stages 2 to 5."""

    layer1: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        in_channels = 64
        for number, (planes, blocks, stride) in enumerate(STAGES, 1):
            stage = [Bottleneck(in_channels if i == 0 else 4 * planes, planes, stride if i == 0 else 1) for i in range(blocks)]
            setattr(self, f"layer{number}", nn.Sequential(*stage))
            in_channels = 4 * planes

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.layer1(functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1))
        maps = []
        for number in range(2, 6):
            x = getattr(self, f"layer{number}")(x)
            maps.append(x)
        return maps


class Pyramid(nn.Module):
    """Pictures ``[N, 3, 256, 256]`` to features of 512 channels at 32, 16 and 8 pixels, and the structure at 4."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        for number, in_channels in enumerate((512, 1024, 2048, 2048), 1):
            step = [nn.Conv2d(in_channels, 512, 3, 1, 1), nn.BatchNorm2d(512)] + ([nn.ReLU()] if number < 4 else [])
            setattr(self, f"output{number}", nn.Sequential(*step))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        fine, middle, coarse, structure = (getattr(self, f"output{i}")(x) for i, x in enumerate(self.backbone(x), 1))
        middle = middle + _resize_like(coarse, middle)
        return fine + _resize_like(middle, fine), middle, coarse, structure


def _resize_like(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)


class Head(nn.Module):
    """Features to one latent: ``count`` convolutions, each of which halves the size, down to one pixel."""

    def __init__(self, count: int) -> None:
        super().__init__()
        step = [layer for _ in range(count) for layer in (nn.Conv2d(512, 512, 3, 2, 1), nn.BatchNorm2d(512), nn.LeakyReLU(.01))]
        self.convs = nn.Sequential(*step)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convs(x).flatten(1)


class HierarchicalEncoder(nn.Module):
    """HieRFE: pictures ``[N, 3, 256, 256]`` RGB in [-1, 1] to latents ``[N, 18, 512]`` and structure ``[N, 512, 4, 4]``."""

    mapping1: nn.ModuleList
    mapping2: nn.ModuleList
    mapping3: nn.ModuleList

    def __init__(self, heads: tuple[int, int, int] = (4, 6, 8)) -> None:
        super().__init__()
        self.fpn = Pyramid()
        for number, count in enumerate(heads, 1):
            setattr(self, f"mapping{number}", nn.ModuleList(Head(number + 2) for _ in range(count)))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fine, middle, coarse, structure = self.fpn(x)
        pairs = (self.mapping1, coarse), (self.mapping2, middle), (self.mapping3, fine)
        return torch.tanh(torch.stack([head(x) for heads, x in pairs for head in heads], 1)), structure


def _perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, 512))


class TransferCell(nn.Module):
    """Source and target latents ``[N, 512]`` that exchange information in steps.

    slope: of the leaky ReLU after each step, which in the published files does nothing.
    """

    slope = 1.0
    idd_selectors: nn.ModuleList
    idd_shifters: nn.ModuleList
    att_selectors: nn.ModuleList
    att_shifters: nn.ModuleList

    def __init__(self, steps: int) -> None:
        super().__init__()
        for name in ("idd_selectors", "idd_shifters", "att_selectors", "att_shifters"):
            setattr(self, name, nn.ModuleList(_perceptron() for _ in range(steps)))

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        layers = zip(self.idd_selectors, self.idd_shifters, self.att_selectors, self.att_shifters)
        for source_select, source_shift, target_select, target_shift in layers:
            both = torch.cat((source, target), 1)
            source = source * torch.sigmoid(source_select(both)) + torch.tanh(source_shift(both))
            target = target * torch.sigmoid(target_select(both)) + torch.tanh(target_shift(both))
            source, target = _leaky_relu(source, self.slope), _leaky_relu(target, self.slope)
        return source, target


def _leaky_relu(x: torch.Tensor, slope: float) -> torch.Tensor:
    return x if slope == 1 else functional.leaky_relu(x, slope)


class FaceTransfer(nn.Module):
    """FTM (face transfer module): source and target latents ``[N, 18, 512]`` to the swapped face's."""

    def __init__(self, steps: int = 3, latents: int = 18) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransferCell(steps) for _ in range(latents - TARGET_LATENTS))
        self.weight = nn.Parameter(torch.zeros(1, latents - TARGET_LATENTS, 512))

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        pairs = [cell(source[:, i], target[:, i]) for i, cell in enumerate(self.blocks, TARGET_LATENTS)]
        new_source, new_target = (torch.stack(column, 1) for column in zip(*pairs))
        return torch.cat((target[:, :TARGET_LATENTS], torch.lerp(new_target, new_source, torch.sigmoid(self.weight))), 1)


class InjectionLayer(nn.Module):
    """Normalises the target's latent, then scales and shifts it by numbers computed from the source's; the scale is added to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.idd_linears = nn.Sequential(nn.Linear(512, 512), nn.ReLU())
        self.idd_selectors, self.idd_shifters = nn.Linear(512, 512), nn.Linear(512, 512)
        self.att_bns = nn.BatchNorm1d(512, affine=False)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        source = self.idd_linears(source)
        return torch.addcmul(self.idd_shifters(source), self.att_bns(target), 1 + self.idd_selectors(source))


class InjectionCell(nn.Module):
    """Source and target latents ``[N, 512]`` to the swapped face's; every step injects the source's twice."""

    slope = 1.0
    att_path1: Iterable[Iterable[nn.Module]]  # lists of an ``InjectionLayer``, nothing and a linear layer
    att_path2: Iterable[Iterable[nn.Module]]

    def __init__(self, steps: int) -> None:
        super().__init__()
        for name in ("att_path1", "att_path2"):
            path = [nn.ModuleList([InjectionLayer(), nn.Identity(), nn.Linear(512, 512)]) for _ in range(steps)]
            setattr(self, name, nn.ModuleList(path))

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        for pair in zip(self.att_path1, self.att_path2):
            x = target
            for inject, _, linear in pair:
                x = linear(_leaky_relu(inject(source, x), self.slope))
            target = _leaky_relu(target + x, self.slope)
        return target


class Injection(nn.Module):
    """ID injection: source and target latents ``[N, 18, 512]`` to the swapped face's."""

    def __init__(self, steps: int = 1, latents: int = 18) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(InjectionCell(steps) for _ in range(latents - TARGET_LATENTS))

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        new = [block(source[:, i], target[:, i]) for i, block in enumerate(self.blocks, TARGET_LATENTS)]
        return torch.cat((target[:, :TARGET_LATENTS], torch.stack(new, 1)), 1)


class Replacement(nn.Module):
    """LCR (latent code replacement): takes the target's first latents and the source's others. It has no weights."""

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.cat((target[:, :TARGET_LATENTS], source[:, TARGET_LATENTS:]), 1)


def swapper_for(keys: Collection[str]) -> nn.Module:
    """Make the swapping network that has these keys, without its weights."""
    if not keys:
        return Replacement()
    kind, marker = (Injection, "att_path1") if any("att_path1" in key for key in keys) else (FaceTransfer, "idd_selectors")
    blocks, steps = (1 + max(int(key.split(".")[part]) for key in keys if marker in key) for part in (1, 3))
    return kind(steps, TARGET_LATENTS + blocks)
