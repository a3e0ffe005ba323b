"""Text-embedding optimisation per step, after "Face Swap via Diffusion Model" (arXiv 2403.01108)."""

from __future__ import annotations

from torch import Tensor

RATE = 1e-2


def adam_step(values: Tensor, gradient: Tensor, rate: float = RATE, epsilon: float = 1e-8) -> Tensor:
    """What the first step of a fresh Adam makes of ``values``: bias correction turns it into ``rate`` · g / (|g| + epsilon)."""
    return values - rate * gradient / (gradient.abs() + epsilon)

