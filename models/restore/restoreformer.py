"""Reads RestoreFormer's checkpoints as its authors publish them: spandrel (0.4.2) knows neither their prefix nor the second version.

RestoreFormer++ (Wang et al. 2023, arXiv 2308.07228) is RestoreFormer with attention at one more scale: what it rebuilds at 32 pixels
looks at what its encoder saw at that size. Its attention has four heads, where the first version's has eight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

# Prefix of the network's tensors; a checkpoint holds others that only training needs, and one of that kind has the prefix, too.
PREFIX = "vqvae."
TRAINING_ONLY = "quantize.utility_counter"
# The level of the decoder that has attention in RestoreFormer++ only, and the prefix of that attention's tensors.
NEW_LEVEL = 4
NEW_ATTENTION = f"decoder.up.{NEW_LEVEL}.attn."
HEADS = 4


def network_tensors(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the network's own tensors of a checkpoint that holds those of its training as well; another checkpoint as it is."""
    own = {name.removeprefix(PREFIX): value for name, value in weights.items() if name.startswith(PREFIX)}
    own.pop(TRAINING_ONLY, None)
    return own or dict(weights)


def load_plus_plus(loader: Any, weights: Mapping[str, torch.Tensor]) -> Any:
    """Make a spandrel descriptor of RestoreFormer++. loader: spandrel's ``ModelLoader``, which describes all but the new attention."""
    descriptor = loader.load_from_state_dict({name: value for name, value in weights.items() if not name.startswith(NEW_ATTENTION)})
    net, level = descriptor.model, descriptor.model.decoder.up[NEW_LEVEL]
    attention = type(net.decoder.mid.attn_1)
    level.attn = torch.nn.ModuleList(attention(block.out_channels) for block in level.block)
    for part in net.modules():
        if isinstance(part, attention):
            part.head_size, part.att_size = HEADS, part.in_channels // HEADS
    net.load_state_dict(weights)
    net.encoder.register_forward_hook(_add_features_of_new_level)
    return descriptor


def _add_features_of_new_level(encoder: torch.nn.Module, inputs: tuple, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the decoder the encoder's features of the new level under the name by which its attention looks for them (a forward hook)."""
    return features | {f"block_{NEW_LEVEL}_atten": features[f"block_{NEW_LEVEL}"]}
