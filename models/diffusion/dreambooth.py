"""DreamBooth (Ruiz et al. 2023) as "Face Swap via Diffusion Model" (arXiv 2403.01108) uses it: a LoRA learns one person from one photo,
while pictures of other people, painted by the model itself, keep it from forgetting what people look like.

The denoiser is handed in, so this is the same under ComfyUI's MODEL and any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import FaceLoomError
from ..progress import Progress, silent
from .lora import LoraLayers


@dataclass(frozen=True)
class Recipe:
    """rate and text_rate: learning rates of the denoiser's and the text encoder's LoRA. prior: weight of the other people's pictures.
    longest: what the gradient's length is cut to."""

    steps: int = 200
    rank: int = 4
    rate: float = 1e-4
    text_rate: float = 5e-5
    prior: float = 1.0
    decay: float = 1e-2
    longest: float = 1.0
    seed: int = 0


class Denoiser(Protocol):
    """A diffusion model, in its own latents."""

    def sigma(self, share: float) -> float:
        """The noise level at a share of the way from all noise (0) to none (1)."""

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Latents with noise ``sigma`` ``[N]`` in them."""

    def clean(self, noisy: Tensor, sigma: Tensor, tokens: Tensor) -> Tensor:
        """What it takes the latents for without the noise, told ``tokens`` ``[N, T, D]``."""


def train(model: Denoiser, lora: LoraLayers, tokens: Callable[[], Tensor], photos: Tensor, others: Tensor | None, recipe: Recipe,
          text: LoraLayers | None = None, progress: Progress = silent) -> list[float]:
    """Train ``lora`` (and ``text``) in place; the loss of every step.

    tokens: of the person's prompt, then of the others' ``[2, T, D]``, with a gradient to ``text``. photos: latents ``[K, c, h, w]`` of the
    person, taken in turns. others: ``[M, c, h, w]``, one at random beside each; None trains without them. The loss is that of the
    predicted noise (or velocity). Must not run in inference mode.
    """
    chance = torch.Generator().manual_seed(recipe.seed)
    groups = [{"params": lora.parameters(), "lr": recipe.rate}]
    groups += [{"params": text.parameters(), "lr": recipe.text_rate}] if text else []
    optimizer = torch.optim.AdamW(groups, weight_decay=recipe.decay)
    parameters = [value for group in groups for value in group["params"]]
    told, seen = None, []
    with ExitStack() as stack:
        for layers in filter(None, (lora, text)):
            stack.enter_context(layers.attached())
        for step in range(recipe.steps):
            rows = [photos[step % len(photos)]]
            if others is not None:
                rows.append(others[int(torch.randint(len(others), (1,), generator=chance))])
            with torch.enable_grad():
                told = tokens() if text or told is None else told
                loss = _loss(model, torch.stack(rows), told[: len(rows)], recipe.prior, chance)
                gradients = torch.autograd.grad(loss, parameters)
            if not bool(torch.isfinite(loss)):
                raise FaceLoomError("Training has led to NaN; use a smaller rate, or run ComfyUI with --force-fp32.")
            for value, gradient in zip(parameters, gradients, strict=True):
                value.grad = gradient
            torch.nn.utils.clip_grad_norm_(parameters, recipe.longest)
            optimizer.step()
            seen.append(float(loss.detach()))
            progress(step + 1, recipe.steps)
    return seen


def _loss(model: Denoiser, latents: Tensor, tokens: Tensor, prior: float, chance: torch.Generator) -> Tensor:
    """Mean squared error of the noise: what is wrong with the clean picture over the noise level."""
    shares = torch.rand(len(latents), generator=chance).tolist()
    sigma = torch.tensor([model.sigma(share) for share in shares], device=latents.device)
    noise = torch.randn(latents.shape, generator=chance).to(latents)
    noisy = model.noised(latents, noise, sigma)
    wrong = (model.clean(noisy, sigma, tokens) - latents).float() / sigma.reshape(-1, *[1] * (latents.ndim - 1))
    each = wrong.square().flatten(1).mean(1)
    return each[0] + prior * each[1:].sum()


def square_photos(photos: Sequence[Tensor]) -> list[Tensor]:
    """The middle square of each picture ``[H, W, 3]``."""
    made = []
    for photo in photos:
        edge = min(photo.shape[:2])
        top, left = (photo.shape[0] - edge) // 2, (photo.shape[1] - edge) // 2
        made.append(photo[top : top + edge, left : left + edge])
    return made
