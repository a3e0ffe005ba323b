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
class DreamBoothSettings:
    """The numbers of one training.

    rate, text_rate: learning rates of the denoiser's and of the text encoder's LoRA. prior_weight: weight of the loss on the pictures of
    other people. decay: AdamW's weight decay. max_gradient: the norm to which the gradient is clipped.
    """

    steps: int = 200
    rank: int = 4
    rate: float = 1e-4
    text_rate: float = 5e-5
    prior_weight: float = 1.0
    decay: float = 1e-2
    max_gradient: float = 1.0
    seed: int = 0


class Denoiser(Protocol):
    """A diffusion model that works on its own latents."""

    def sigma(self, share: float) -> float:
        """Return the noise level at a share of the way from all noise (0) to none (1)."""
        ...

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Add noise of level ``sigma`` ``[N]`` to latents."""
        ...

    def clean(self, noisy: Tensor, sigma: Tensor, tokens: Tensor) -> Tensor:
        """Predict the latents without the noise, for the prompt ``tokens`` ``[N, T, D]``."""
        ...


def train_dreambooth(model: Denoiser, lora: LoraLayers, tokens: Callable[[], Tensor], photos: Tensor, others: Tensor | None,
                     settings: DreamBoothSettings, text: LoraLayers | None = None, progress: Progress = silent) -> list[float]:
    """Train ``lora`` (and ``text``) in place and return the loss of every step. Must not run in inference mode.

    tokens: returns the tokens ``[2, T, D]`` of the person's prompt and of the others', with a gradient to ``text``. photos: the person's
    latents ``[K, c, h, w]``, taken in turns. others: other people's latents ``[M, c, h, w]``, of which a random one joins each step; None
    trains without them. The loss is that of the predicted noise (or velocity); where it is NaN, that is an error.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    groups = [{"params": lora.parameters(), "lr": settings.rate}]
    groups += [{"params": text.parameters(), "lr": settings.text_rate}] if text else []
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.decay)
    parameters = [value for group in groups for value in group["params"]]
    prompts, losses = None, []
    with ExitStack() as stack:
        for layers in filter(None, (lora, text)):
            stack.enter_context(layers.attached())
        for step in range(settings.steps):
            rows = [photos[step % len(photos)]]
            if others is not None:
                rows.append(others[int(torch.randint(len(others), (1,), generator=generator))])
            with torch.enable_grad():
                prompts = tokens() if text or prompts is None else prompts
                loss = _noise_loss(model, torch.stack(rows), prompts[: len(rows)], settings.prior_weight, generator)
                gradients = torch.autograd.grad(loss, parameters)
            if not bool(torch.isfinite(loss)):
                raise FaceLoomError("Training has led to NaN; use a smaller rate, or run ComfyUI with --force-fp32.")
            for value, gradient in zip(parameters, gradients, strict=True):
                value.grad = gradient
            torch.nn.utils.clip_grad_norm_(parameters, settings.max_gradient)
            optimizer.step()
            losses.append(float(loss.detach()))
            progress(step + 1, settings.steps)
    return losses


def _noise_loss(model: Denoiser, latents: Tensor, tokens: Tensor, prior_weight: float, generator: torch.Generator) -> Tensor:
    """Return the mean squared error of the predicted noise at random noise levels: that of the first row, plus ``prior_weight`` times
    that of the others.

    The error of the noise is the error of the clean latents divided by the noise level.
    """
    shares = torch.rand(len(latents), generator=generator).tolist()
    sigma = torch.tensor([model.sigma(share) for share in shares], device=latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    noisy = model.noised(latents, noise, sigma)
    error = (model.clean(noisy, sigma, tokens) - latents).float() / sigma.reshape(-1, *[1] * (latents.ndim - 1))
    per_row = error.square().flatten(1).mean(1)
    return per_row[0] + prior_weight * per_row[1:].sum()


def center_squares(photos: Sequence[Tensor]) -> list[Tensor]:
    """Cut the largest square out of the middle of each photo ``[H, W, 3]``."""
    squares = []
    for photo in photos:
        edge = min(photo.shape[:2])
        top, left = (photo.shape[0] - edge) // 2, (photo.shape[1] - edge) // 2
        squares.append(photo[top : top + edge, left : left + edge])
    return squares
