"""Text-embedding optimisation per step, after "Face Swap via Diffusion Model" (arXiv 2403.01108)."""

from __future__ import annotations

import torch
from torch import Tensor

RATE = 1e-2


def adam_step(values: Tensor, gradient: Tensor, rate: float = RATE, epsilon: float = 1e-8) -> Tensor:
    """What the first step of a fresh Adam makes of ``values``: bias correction turns it into ``rate`` · g / (|g| + epsilon).

    Counted in float32: in half precision epsilon is 0, and so are the gradients of most tokens.
    """
    gradient = gradient.to(torch.float32)
    return (values - rate * gradient / (gradient.abs() + epsilon)).to(values.dtype)

