"""Euler's method on the probability flow (Karras et al. 2022, algorithm 1), with Stable Diffusion's noise and evenly spaced timesteps.

The same steps as diffusers' EulerDiscreteScheduler and as ComfyUI's sampler ``euler`` with the scheduler ``normal``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from ..progress import Progress, silent
from .ddim import SD_ALPHAS

# Takes latents of unit variance and their timestep, which need not be a whole number; returns the noise predicted in them.
Denoise = Callable[[Tensor, float], Tensor]


def euler_schedule(steps: int, alphas: np.ndarray = SD_ALPHAS) -> tuple[np.ndarray, np.ndarray]:
    """Return ``[steps]`` timesteps from the last to 0, and ``[steps + 1]`` noise levels (sigmas) that end with 0."""
    times = np.linspace(len(alphas) - 1, 0, steps)
    levels = np.sqrt((1 - alphas) / alphas)
    return times, np.append(np.interp(times, np.arange(len(alphas)), levels), 0.0)


def sample_euler(denoise: Denoise, noise: Tensor, steps: int, alphas: np.ndarray = SD_ALPHAS, progress: Progress = silent) -> Tensor:
    """Turn ``noise`` of unit variance into latents."""
    times, sigmas = euler_schedule(steps, alphas)
    x = noise * float(sigmas[0])
    for done, (time, sigma, next_sigma) in enumerate(zip(times, sigmas[:-1], sigmas[1:], strict=True)):
        progress(done, steps)
        x = x + float(next_sigma - sigma) * denoise(x / float(np.hypot(sigma, 1)), float(time))
    progress(steps, steps)
    return x
