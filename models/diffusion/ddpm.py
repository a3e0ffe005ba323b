"""Denoising diffusion in pixel space with few steps and a learned range of variances (Ho et al. 2020; Nichol and Dhariwal 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from ..errors import FaceLoomError

TIMES = 1000  # of the schedule the networks were trained with
_BETAS = (1e-4, 0.02)


@dataclass(frozen=True, eq=False)
class Schedule:
    """The steps of one sampling, 0 the cleanest. times: ``[S]`` of the training schedule; levels: ``[S]`` float64, the share of signal
    (alpha bar) at each."""

    times: np.ndarray
    levels: np.ndarray

    @cached_property
    def betas(self) -> np.ndarray:
        """``[S]`` float64, the noise each step adds."""
        return 1 - self.levels / self._before

    @cached_property
    def variances(self) -> np.ndarray:
        """``[S]`` float64, of the step back where the clean picture is known."""
        return self.betas * (1 - self._before) / (1 - self.levels)

    @cached_property
    def log_variances(self) -> np.ndarray:
        """``[S]`` float64, with the second step's in place of the first, which is minus infinity."""
        return np.log(np.append(self.variances[1], self.variances[1:]))

    @property
    def _before(self) -> np.ndarray:
        return np.append(1.0, self.levels[:-1])

    def noised(self, clean: Tensor, step: int, noise: Tensor) -> Tensor:
        """A clean picture as it is at this step."""
        return self.levels[step] ** 0.5 * clean + (1 - self.levels[step]) ** 0.5 * noise

    def clean(self, x: Tensor, noise: Tensor, step: int) -> Tensor:
        """The picture that is left when the predicted noise is taken out."""
        return self.levels[step] ** -0.5 * x - (1 / self.levels[step] - 1) ** 0.5 * noise

    def back(self, x: Tensor, clean: Tensor, share: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the next cleaner picture. share: -1..1, where between the smallest and the largest log variance."""
        before, alpha = self._before[step], 1 - self.betas[step]
        rest = 1 - self.levels[step]
        mean = self.betas[step] * before**0.5 / rest * clean + (1 - before) * alpha**0.5 / rest * x
        share = (share + 1) / 2
        return mean, share * np.log(self.betas[step]) + (1 - share) * self.log_variances[step]


def schedule(steps: int) -> Schedule:
    """``steps`` (2 to 1000) of the linear schedule, evenly spread from its first to its last."""
    if not 2 <= steps <= TIMES:
        raise FaceLoomError(f"steps must be from 2 to {TIMES}, not {steps}.")
    apart = (TIMES - 1) / (steps - 1)
    times = np.array([round(apart * step) for step in range(steps)])
    return Schedule(times, np.cumprod(1 - np.linspace(*_BETAS, TIMES))[times])
