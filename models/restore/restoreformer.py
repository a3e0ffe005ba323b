"""RestoreFormer's checkpoints as its authors publish them, of which spandrel (0.4.2) knows neither the wrapping nor the second version.

RestoreFormer++ (Wang et al. 2023, arXiv 2308.07228) is RestoreFormer with attention at one more scale: what it rebuilds at 32 pixels
looks at what its encoder saw at that size. Its attention has four heads, where the first version's has eight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

# The network among what only training needs.
PREFIX = "vqvae."
TRAINING = "quantize.utility_counter"
# The level of the decoder that is new, and its tensors.
LEVEL = 4
MORE = f"decoder.up.{LEVEL}.attn."
HEADS = 4


def unwrapped(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The network's own tensors of a checkpoint that holds its training as well; others as they are."""
    own = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    own.pop(TRAINING, None)
    return own or dict(weights)


def load_plus_plus(loader: Any, weights: Mapping[str, torch.Tensor]) -> Any:
    """A spandrel descriptor of RestoreFormer++; ``loader`` is spandrel's ``ModelLoader``, which describes all but the new scale."""
    descriptor = loader.load_from_state_dict({name: value for name, value in weights.items() if not name.startswith(MORE)})
    net, level = descriptor.model, descriptor.model.decoder.up[LEVEL]
    attention = type(net.decoder.mid.attn_1)
    level.attn = torch.nn.ModuleList(attention(block.out_channels) for block in level.block)
    for part in net.modules():
        if isinstance(part, attention):
            part.head_size, part.att_size = HEADS, part.in_channels // HEADS
    net.load_state_dict(weights)
    net.encoder.register_forward_hook(_see_one_more_scale)
    return descriptor


def _see_one_more_scale(encoder: torch.nn.Module, given: tuple, seen: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return seen | {f"block_{LEVEL}_atten": seen[f"block_{LEVEL}"]}
