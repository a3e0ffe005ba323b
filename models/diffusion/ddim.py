"""DDIM sampling (Song et al. 2021) without noise of its own, as latent diffusion's programs do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..progress import Progress, silent

TRAINED = 1000
# Noisy latents and the timestep to the noise in them.
Denoise = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Step:
    """One step of a schedule: where it starts, and how much of the picture is in the latents there (alpha) and after it."""

    timestep: int
    alpha: float
    after: float

    def picture(self, x: Tensor, noise: Tensor) -> Tensor:
        """What the latents ``x`` would be without this noise."""
        return (x - (1 - self.alpha) ** 0.5 * noise) / self.alpha**0.5

    def noised(self, picture: Tensor, noise: Tensor) -> Tensor:
        """A picture with so much noise as there is where this step starts."""
        return self.alpha**0.5 * picture + (1 - self.alpha) ** 0.5 * noise

    def next(self, picture: Tensor, noise: Tensor) -> Tensor:
        """The latents after the step."""
        return self.after**0.5 * picture + (1 - self.after) ** 0.5 * noise


def alphas_of(first: float, last: float, count: int = TRAINED) -> np.ndarray:
    """``[count]`` float64: the share of the picture at every timestep, of betas whose square roots rise evenly."""
    return np.cumprod(1 - np.linspace(first**0.5, last**0.5, count, dtype=np.float64) ** 2)


# Stable Diffusion's, and so REFace's.
SD_ALPHAS = alphas_of(0.00085, 0.012)


def schedule(steps: int, alphas: np.ndarray = SD_ALPHAS) -> tuple[Step, ...]:
    """The timesteps 1, 1 + n, 1 + 2n … with n = 1000 // ``steps``, the noisiest first.

    The last step ends at timestep 0, where a trace of noise is left; ComfyUI's ``ddim_uniform`` takes the same steps and ends at none.
    """
    times = np.arange(0, len(alphas), max(1, len(alphas) // steps)) + 1
    times = times[times < len(alphas)]
    after = alphas[np.concatenate([[0], times[:-1]])]
    return tuple(Step(int(time), float(alphas[time]), float(end)) for time, end in zip(times[::-1], after[::-1]))


def ddim(denoise: Denoise, x: Tensor, steps: tuple[Step, ...], progress: Progress = silent) -> Tensor:
    """From noise ``x`` to latents, along ``steps``."""
    for done, step in enumerate(steps):
        progress(done, len(steps))
        noise = denoise(x, step.timestep)
        x = step.next(step.picture(x, noise), noise)
    progress(len(steps), len(steps))
    return x


def guided(without: Tensor, given: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2021): from the answer without the condition through the one with it, and beyond."""
    return without + scale * (given - without)
