"""Normal noise that follows from its seed alone, whatever else is sampled with it and on whatever machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def seeded_noise(seed: int, shape: Sequence[int]) -> Tensor:
    """Return normal noise of this shape on the CPU."""
    return noise_source([seed], shape)()[0]


def noise_source(seeds: Sequence[int], shape: Sequence[int]) -> Callable[[], Tensor]:
    """Return a function that draws normal noise ``[N, *shape]`` on the CPU, new at every call; row i follows from seed i alone."""
    generators = [torch.Generator().manual_seed(seed % (1 << 64)) for seed in seeds]
    return lambda: torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])
