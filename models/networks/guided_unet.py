"""The pixel-space UNet of guided diffusion (Dhariwal and Nichol 2021) that is told an identity (DiffFace, Kim et al. 2022): Model.pt.

Module names are those of the checkpoint's keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import FaceLoomError

IDENTITY = 512
_BLOCKS = 2  # residual blocks per level
_HEAD = 64  # channels per attention head
_GROUPS = 32


class Norm(nn.GroupNorm):
    """Group normalisation in full precision whatever the network's is."""

    def __init__(self, channels: int) -> None:
        super().__init__(_GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps).to(x.dtype)


class Residual(nn.Module):
    """A residual block whose second normalisation is scaled and shifted by the time embedding. change: how it resizes, if it does."""

    def __init__(self, inner: int, outer: int, embedding: int, change: str = "") -> None:
        super().__init__()
        self.change = change
        self.in_layers = nn.Sequential(Norm(inner), nn.SiLU(), nn.Conv2d(inner, outer, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * outer))
        self.out_layers = nn.Sequential(Norm(outer), nn.SiLU(), nn.Identity(), nn.Conv2d(outer, outer, 3, padding=1))
        self.skip_connection = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        main = self._resized(self.in_layers[1](self.in_layers[0](x)))
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, 1)
        main = self.out_layers[0](self.in_layers[2](main)) * (1 + scale) + shift
        for layer in self.out_layers[1:]:
            main = layer(main)
        return self.skip_connection(self._resized(x)) + main

    def _resized(self, x: Tensor) -> Tensor:
        if self.change == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.change == "up" else x


class Attention(nn.Module):
    """Self-attention over all pixels. Queries, keys and values lie side by side within each head's channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // _HEAD)
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        flat = x.flatten(2)
        query, key, value = self.qkv(self.norm(flat)).unflatten(1, (self.heads, 3, -1)).mT.unbind(2)
        seen = F.scaled_dot_product_attention(query, key, value)
        return (flat + self.proj_out(seen.mT.flatten(1, 2))).reshape(x.shape)


class Stem(nn.Conv2d):
    """The first convolution, called as a block is."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return super().forward(x)


class GuidedUNet(nn.Module):
    """Noisy pictures ``[N, 3, H, W]`` (-1..1 without noise), times ``[N]`` 0..999 and unit identities ``[N, 512]`` to ``[N, 6, H, W]``
    float32: the noise, then where its variance lies between the smallest and the largest (-1..1).

    widths: channels per level; each level is half as large as the one before. attentive: the levels with attention.
    """

    def __init__(self, widths: tuple[int, ...] = (256, 256, 512, 512, 1024, 1024), attentive: tuple[int, ...] = (3, 4, 5),
                 identity: int = IDENTITY) -> None:
        super().__init__()
        self.width, embedding = widths[0], 4 * widths[0]
        self.time_embed = nn.Sequential(nn.Linear(self.width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.id_embed = nn.Sequential(nn.Linear(identity, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        blocks, now, kept = [[Stem(3, self.width, 3, padding=1)]], self.width, [self.width]
        last = len(widths) - 1
        for level, width in enumerate(widths):
            for _ in range(_BLOCKS):
                blocks.append([Residual(now, width, embedding), *([Attention(width)] if level in attentive else [])])
                now = width
                kept.append(now)
            if level < last:
                blocks.append([Residual(now, now, embedding, "down")])
                kept.append(now)
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        self.middle_block = nn.ModuleList([Residual(now, now, embedding), Attention(now), Residual(now, now, embedding)])
        blocks = []
        for level, width in reversed(list(enumerate(widths))):
            for number in range(_BLOCKS + 1):
                blocks.append([Residual(now + kept.pop(), width, embedding), *([Attention(width)] if level in attentive else [])])
                now = width
                if level and number == _BLOCKS:
                    blocks[-1].append(Residual(now, now, embedding, "up"))
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        self.out = nn.Sequential(Norm(now), nn.SiLU(), nn.Conv2d(now, 6, 3, padding=1))

    @property
    def multiple(self) -> int:
        """What heights and widths must be divisible by."""
        return 1 << sum(block[-1].change == "down" for block in self.input_blocks if isinstance(block[-1], Residual))

    def forward(self, x: Tensor, times: Tensor, identities: Tensor) -> Tensor:
        kind = self.out[2].weight.dtype
        embedding = self.time_embed(time_waves(times, self.width).to(kind)) + self.id_embed(identities.to(kind))
        x, kept = x.to(kind), []
        for block in self.input_blocks:
            x = _through(block, x, embedding)
            kept.append(x)
        x = _through(self.middle_block, x, embedding)
        for block in self.output_blocks:
            x = _through(block, torch.cat([x, kept.pop()], 1), embedding)
        return self.out(x).float()


def _through(block: nn.ModuleList, x: Tensor, embedding: Tensor) -> Tensor:
    for part in block:
        if torch.is_grad_enabled() and x.requires_grad:  # kept for the gradient, a picture of 256 pixels would fill 10 GB
            x = checkpoint(part, x, embedding, use_reentrant=False, preserve_rng_state=False)
        else:
            x = part(x, embedding)
    return x


def time_waves(times: Tensor, width: int) -> Tensor:
    """``[N]`` to ``[N, width]`` cosines, then sines, of falling frequencies (Vaswani et al. 2017)."""
    half = width // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=times.device) / half)
    angles = times.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


def guided_unet_of(weights: Mapping[str, Tensor], name: str) -> GuidedUNet:
    """The network, without its weights, that a checkpoint was saved from."""
    per_level = _BLOCKS + 1
    count = sum(f"input_blocks.{i}.0.in_layers.2.weight" in weights for i in range(1, 100)) + 1
    if "id_embed.0.weight" not in weights or count % per_level:
        what = "a guided-diffusion network that takes no identity" if "input_blocks.1.0.in_layers.2.weight" in weights else "another model"
        raise FaceLoomError(f"{name} is not DiffFace's network but {what}; use Model.pt from its page.")
    firsts = range(1, count, per_level)
    widths = tuple(weights[f"input_blocks.{i}.0.in_layers.2.weight"].shape[0] for i in firsts)
    attentive = tuple(level for level, i in enumerate(firsts) if f"input_blocks.{i}.1.qkv.weight" in weights)
    return GuidedUNet(widths, attentive, weights["id_embed.0.weight"].shape[1])
