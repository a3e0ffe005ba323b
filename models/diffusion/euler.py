"""Euler's method on the probability flow (Karras et al. 2022, algorithm 1), with Stable Diffusion's noise and evenly spaced timesteps.

The same steps as diffusers' EulerDiscreteScheduler and as ComfyUI's sampler ``euler`` with the scheduler ``normal``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from ..progress import Progress, silent
from .ddim import SD_ALPHAS

# Latents of unit variance and the (broken) timestep to the noise in them.
Denoise = Callable[[Tensor, float], Tensor]


def sigmas_of(steps: int, alphas: np.ndarray = SD_ALPHAS) -> tuple[np.ndarray, np.ndarray]:
    """``[steps]`` timesteps from the last to 0 and ``[steps + 1]`` noise levels, the last one 0."""
    times = np.linspace(len(alphas) - 1, 0, steps)
    levels = np.sqrt((1 - alphas) / alphas)
    return times, np.append(np.interp(times, np.arange(len(alphas)), levels), 0.0)


def euler(denoise: Denoise, noise: Tensor, steps: int, alphas: np.ndarray = SD_ALPHAS, progress: Progress = silent) -> Tensor:
    """From ``noise`` of unit variance to latents."""
    times, sigmas = sigmas_of(steps, alphas)
    x = noise * float(sigmas[0])
    for done, (time, sigma, after) in enumerate(zip(times, sigmas[:-1], sigmas[1:], strict=True)):
        progress(done, steps)
        x = x + float(after - sigma) * denoise(x / float(np.hypot(sigma, 1)), float(time))
    progress(steps, steps)
    return x
