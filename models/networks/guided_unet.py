"""DiffFace's network (Kim et al. 2022, Model.pt): guided diffusion's UNet for pixels (Dhariwal and Nichol 2021) with an identity input.

Module names are those of the checkpoint's keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import FaceLoomError

IDENTITY = 512  # numbers of an identity's embedding
_BLOCKS = 2  # residual blocks per level
_HEAD = 64  # channels per attention head
_GROUPS = 32


class Norm(nn.GroupNorm):
    """Group normalisation in float32, whatever the network's type is."""

    def __init__(self, channels: int) -> None:
        super().__init__(_GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps).to(x.dtype)


class Residual(nn.Module):
    """A residual block whose second normalisation is scaled and shifted by the embedding of time and identity.

    change: ``"down"`` halves the size, ``"up"`` doubles it.
    """

    def __init__(self, in_channels: int, out_channels: int, embedding: int, change: str = "") -> None:
        super().__init__()
        self.change = change
        self.in_layers = nn.Sequential(Norm(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * out_channels))
        self.out_layers = nn.Sequential(Norm(out_channels), nn.SiLU(), nn.Identity(), nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip_connection = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        main = self._resized(self.in_layers[1](self.in_layers[0](x)))
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, 1)
        main = self.out_layers[0](self.in_layers[2](main)) * (1 + scale) + shift
        for layer in list(self.out_layers)[1:]:
            main = layer(main)
        return self.skip_connection(self._resized(x)) + main

    def _resized(self, x: Tensor) -> Tensor:
        if self.change == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.change == "up" else x


class Attention(nn.Module):
    """Self-attention over all pixels. Each head's channels hold its queries, keys and values one after the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // _HEAD)
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        flat = x.flatten(2)
        query, key, value = self.qkv(self.norm(flat)).unflatten(1, (self.heads, 3, -1)).mT.unbind(2)
        attended = F.scaled_dot_product_attention(query, key, value)
        return (flat + self.proj_out(attended.mT.flatten(1, 2))).reshape(x.shape)


class Stem(nn.Conv2d):
    """The first convolution, with the arguments of a block."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return super().forward(x)


class GuidedUNet(nn.Module):
    """Predicts the noise in pictures.

    Noisy pictures ``[N, 3, H, W]`` (-1..1 without noise), times ``[N]`` 0..999 and identities ``[N, 512]`` of length 1 to ``[N, 6, H, W]``
    float32: the noise, then where its variance lies between the smallest (-1) and the largest (1) possible.

    widths: channels per level; each level is half as large as the one before. attention_levels: the levels with attention.
    """

    # Lists of lists of blocks; torch takes what an ``nn.ModuleList`` holds for plain modules.
    input_blocks: Any
    output_blocks: Any

    def __init__(self, widths: tuple[int, ...] = (256, 256, 512, 512, 1024, 1024), attention_levels: tuple[int, ...] = (3, 4, 5),
                 identity: int = IDENTITY) -> None:
        super().__init__()
        self.width, embedding = widths[0], 4 * widths[0]
        self.time_embed = nn.Sequential(nn.Linear(self.width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.id_embed = nn.Sequential(nn.Linear(identity, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        blocks: list[list[nn.Module]] = [[Stem(3, self.width, 3, padding=1)]]
        channels, skip_channels = self.width, [self.width]
        last = len(widths) - 1
        for level, width in enumerate(widths):
            for _ in range(_BLOCKS):
                blocks.append([Residual(channels, width, embedding), *([Attention(width)] if level in attention_levels else [])])
                channels = width
                skip_channels.append(channels)
            if level < last:
                blocks.append([Residual(channels, channels, embedding, "down")])
                skip_channels.append(channels)
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        middle = Residual(channels, channels, embedding), Attention(channels), Residual(channels, channels, embedding)
        self.middle_block = nn.ModuleList(middle)
        blocks = []
        for level, width in reversed(list(enumerate(widths))):
            for number in range(_BLOCKS + 1):
                attention = [Attention(width)] if level in attention_levels else []
                blocks.append([Residual(channels + skip_channels.pop(), width, embedding), *attention])
                channels = width
                if level and number == _BLOCKS:
                    blocks[-1].append(Residual(channels, channels, embedding, "up"))
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        self.out = nn.Sequential(Norm(channels), nn.SiLU(), nn.Conv2d(channels, 6, 3, padding=1))

    @property
    def multiple(self) -> int:
        """The number that heights and widths must be divisible by."""
        return 1 << sum(block[-1].change == "down" for block in self.input_blocks if isinstance(block[-1], Residual))

    def forward(self, x: Tensor, times: Tensor, identities: Tensor) -> Tensor:
        dtype = cast(nn.Conv2d, self.out[2]).weight.dtype
        embedding = self.time_embed(time_waves(times, self.width).to(dtype)) + self.id_embed(identities.to(dtype))
        x, skips = x.to(dtype), []
        for block in self.input_blocks:
            x = _run_block(block, x, embedding)
            skips.append(x)
        x = _run_block(self.middle_block, x, embedding)
        for block in self.output_blocks:
            x = _run_block(block, torch.cat([x, skips.pop()], 1), embedding)
        return self.out(x).float()


def _run_block(block: nn.ModuleList, x: Tensor, embedding: Tensor) -> Tensor:
    """Run the parts of a block in turn; where a gradient is wanted, they are computed again for it instead of being kept."""
    for part in block:
        if torch.is_grad_enabled() and x.requires_grad:  # without checkpoints, the gradient at 256 pixels takes 10 GB
            x = checkpoint(part, x, embedding, use_reentrant=False, preserve_rng_state=False)
        else:
            x = part(x, embedding)
    return x


def time_waves(times: Tensor, width: int) -> Tensor:
    """Encode times ``[N]`` as ``[N, width]``: cosines, then sines, of falling frequencies (Vaswani et al. 2017)."""
    half = width // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=times.device) / half)
    angles = times.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


def guided_unet_for(weights: Mapping[str, Tensor], name: str) -> GuidedUNet:
    """Make the network whose weights a checkpoint holds, without the weights. name: what errors call the file."""
    per_level = _BLOCKS + 1
    count = sum(f"input_blocks.{i}.0.in_layers.2.weight" in weights for i in range(1, 100)) + 1
    if "id_embed.0.weight" not in weights or count % per_level:
        what = "a guided-diffusion network that takes no identity" if "input_blocks.1.0.in_layers.2.weight" in weights else "another model"
        raise FaceLoomError(f"{name} is not DiffFace's network but {what}; use Model.pt from its page.")
    firsts = range(1, count, per_level)
    widths = tuple(weights[f"input_blocks.{i}.0.in_layers.2.weight"].shape[0] for i in firsts)
    attention_levels = tuple(level for level, i in enumerate(firsts) if f"input_blocks.{i}.1.qkv.weight" in weights)
    return GuidedUNet(widths, attention_levels, weights["id_embed.0.weight"].shape[1])
