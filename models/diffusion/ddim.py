"""DDIM sampling (Song et al. 2021) without added noise, with the timesteps of latent diffusion's programs.

Alphas are cumulative products, as in the DDIM paper: the share of the clean latents' variance that is left at a timestep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..progress import Progress, silent

TRAINING_STEPS = 1000
# Takes noisy latents and their timestep, returns the noise predicted in them.
Denoise = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class DdimStep:
    """One step of a schedule: the timestep it starts at, the alpha there, and the alpha after it."""

    timestep: int
    alpha: float
    next_alpha: float

    def clean(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return the clean latents that ``x`` consists of if ``noise`` is the noise in it."""
        return (x - (1 - self.alpha) ** 0.5 * noise) / self.alpha**0.5

    def noised(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Add as much noise to clean latents as there is where this step starts."""
        return self.alpha**0.5 * clean + (1 - self.alpha) ** 0.5 * noise

    def next(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Return the latents after this step, from the predicted clean latents and the predicted noise."""
        return self.next_alpha**0.5 * clean + (1 - self.next_alpha) ** 0.5 * noise


def scaled_linear_alphas(first_beta: float, last_beta: float, count: int = TRAINING_STEPS) -> np.ndarray:
    """Return the alphas ``[count]`` float64 of all timesteps for betas whose square roots rise evenly (diffusers' "scaled_linear")."""
    return np.cumprod(1 - np.linspace(first_beta**0.5, last_beta**0.5, count, dtype=np.float64) ** 2)


# Those of Stable Diffusion, and so of REFace.
SD_ALPHAS = scaled_linear_alphas(0.00085, 0.012)


def ddim_schedule(steps: int, alphas: np.ndarray = SD_ALPHAS) -> tuple[DdimStep, ...]:
    """Return the steps at the timesteps 1, 1 + n, 1 + 2n … with n = 1000 // ``steps``, the noisiest first.

    The last step ends at timestep 0, where a trace of noise is left; ComfyUI's ``ddim_uniform`` takes the same steps and ends at none.
    """
    times = np.arange(0, len(alphas), max(1, len(alphas) // steps)) + 1
    times = times[times < len(alphas)]
    following = alphas[np.concatenate([[0], times[:-1]])]
    return tuple(DdimStep(int(time), float(alphas[time]), float(after)) for time, after in zip(times[::-1], following[::-1]))


def sample_ddim(denoise: Denoise, x: Tensor, steps: tuple[DdimStep, ...], progress: Progress = silent) -> Tensor:
    """Denoise the latents ``x`` along ``steps``."""
    for done, step in enumerate(steps):
        progress(done, len(steps))
        noise = denoise(x, step.timestep)
        x = step.next(step.clean(x, noise), noise)
    progress(len(steps), len(steps))
    return x


def classifier_free_guidance(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Extrapolate from the network's output without the condition through the one with it (Ho and Salimans 2021); scale 1 is the
    conditional output."""
    return unconditional + scale * (conditional - unconditional)
