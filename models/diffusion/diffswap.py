"""DiffSwap (Zhao et al., CVPR 2023): a face painted anew by latent diffusion inside a mask, from the source's identity and organs and the
landmarks it should have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..progress import Progress, silent
from .ddim import Denoise, Step, alphas_of

CROP = 256
STEPS = 200
ALPHAS = alphas_of(0.0015, 0.0195)
TARGET_GUIDANCE = 0.01

# Fresh noise for a step's number.
Fresh = Callable[[int], Tensor]
# What is to be seen of a step: its number, the picture it predicts and the latents it began with.
Watch = Callable[[int, Tensor, Tensor], None]


def masked_ddim(denoise: Denoise, x: Tensor, target: Tensor, replaced: Tensor, steps: tuple[Step, ...], fresh: Fresh,
                guidance: float = TARGET_GUIDANCE, watch: Watch = lambda number, picture, x: None, progress: Progress = silent) -> Tensor:
    """From noise ``x`` ``[N, 3, h, w]`` to latents along ``steps``.

    Before every step all but ``replaced`` ``[N, 1, h, w]`` is the ``target`` latent under fresh noise; in every step the noise is bent by
    ``guidance`` so that the whole picture drifts towards the target.
    """
    for number, step in enumerate(steps):
        progress(number, len(steps))
        x = step.noised(target, fresh(number)) * (1 - replaced) + x * replaced
        noise = denoise(x, step.timestep)
        picture = step.picture(x, noise)
        watch(number, picture, x)
        x = step.next(picture, noise - guidance * step.alpha**0.5 * (picture - target))
    progress(len(steps), len(steps))
    return x
