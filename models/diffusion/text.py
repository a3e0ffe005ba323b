"""Optimizes a prompt's tokens step by step, after "Face Swap via Diffusion Model" (arXiv 2403.01108)."""

from __future__ import annotations

import torch
from torch import Tensor

LEARNING_RATE = 1e-2


def adam_step(values: Tensor, gradient: Tensor, rate: float = LEARNING_RATE, epsilon: float = 1e-8) -> Tensor:
    """Return ``values`` after the first step of a new Adam optimizer; bias correction turns it into ``rate`` · g / (|g| + epsilon).

    Computed in float32: in half precision epsilon is 0, and so are the gradients of most tokens.
    """
    gradient = gradient.to(torch.float32)
    return (values - rate * gradient / (gradient.abs() + epsilon)).to(values.dtype)
