"""Denoising diffusion in pixel space with few steps and learned variances (Ho et al. 2020; Nichol and Dhariwal 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from ..errors import FaceLoomError

TRAINING_STEPS = 1000
_FIRST_BETA, _LAST_BETA = 1e-4, 0.02


@dataclass(frozen=True, eq=False)
class DdpmSchedule:
    """The steps of one sampling, step 0 being the cleanest.

    times: ``[S]`` timesteps of the training schedule. alpha_bars: ``[S]`` float64, the share of the clean picture's variance at each.
    """

    times: np.ndarray
    alpha_bars: np.ndarray

    @cached_property
    def betas(self) -> np.ndarray:
        """The variance ``[S]`` float64 of the noise that each step adds on the way to noise."""
        return 1 - self.alpha_bars / self._previous_alpha_bars

    @cached_property
    def variances(self) -> np.ndarray:
        """The variance ``[S]`` float64 of each step back where the clean picture is known."""
        return self.betas * (1 - self._previous_alpha_bars) / (1 - self.alpha_bars)

    @cached_property
    def log_variances(self) -> np.ndarray:
        """The logarithms ``[S]`` float64 of the variances; step 0 has step 1's, because its own is minus infinity."""
        return np.log(np.append(self.variances[1], self.variances[1:]))

    @property
    def _previous_alpha_bars(self) -> np.ndarray:
        return np.append(1.0, self.alpha_bars[:-1])

    def noised(self, clean: Tensor, step: int, noise: Tensor) -> Tensor:
        """Add as much noise to a clean picture as there is at this step."""
        return self.alpha_bars[step] ** 0.5 * clean + (1 - self.alpha_bars[step]) ** 0.5 * noise

    def clean(self, x: Tensor, noise: Tensor, step: int) -> Tensor:
        """Take the predicted noise out of a noisy picture ``x``."""
        return self.alpha_bars[step] ** -0.5 * x - (1 / self.alpha_bars[step] - 1) ** 0.5 * noise

    def step_back(self, x: Tensor, clean: Tensor, variance_share: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the next cleaner picture (Ho et al. 2020, equation 7).

        variance_share: -1..1, where the log variance lies between the smallest and the largest possible one (Nichol and Dhariwal 2021,
        equation 15).
        """
        previous, alpha = self._previous_alpha_bars[step], 1 - self.betas[step]
        noise_variance = 1 - self.alpha_bars[step]
        mean = self.betas[step] * previous**0.5 / noise_variance * clean + (1 - previous) * alpha**0.5 / noise_variance * x
        share = (variance_share + 1) / 2
        return mean, share * np.log(self.betas[step]) + (1 - share) * self.log_variances[step]


def ddpm_schedule(steps: int) -> DdpmSchedule:
    """Return ``steps`` (2 to 1000) timesteps of the linear schedule, evenly spread from its first to its last."""
    if not 2 <= steps <= TRAINING_STEPS:
        raise FaceLoomError(f"steps must be from 2 to {TRAINING_STEPS}, not {steps}.")
    distance = (TRAINING_STEPS - 1) / (steps - 1)
    times = np.array([round(distance * step) for step in range(steps)])
    return DdpmSchedule(times, np.cumprod(1 - np.linspace(_FIRST_BETA, _LAST_BETA, TRAINING_STEPS))[times])
