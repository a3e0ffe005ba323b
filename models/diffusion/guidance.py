"""Guidance: pulls the crop that a diffusion model predicts at one step towards an identity, and holds expression and gaze.

After DiffFace (Kim et al. 2022, section 3.3) with one difference: every gradient is scaled to a step of known size, because the size of a
gradient through an arbitrary decoder says nothing, and a step that suits Stable Diffusion would tear Flux apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import check_finite
from ..identity.differentiable import DifferentiableRecognizer, align_crops
from ..pixels.affine import compose
from ..pixels.blur import gaussian_blur

# Root mean square of the sum of one sampling step's moves at strength 1, as a share of the predicted latent's own standard deviation.
STEP_SIZE = 0.12
# Gradient steps within one sampling step; more of them follow a curved loss better.
INNER_STEPS = 4
# DiffFace's views: rotations up to so many degrees, and shifts up to this share of the crop's edge.
_MAX_ROTATION, _MAX_SHIFT = 15.0, 0.1
# Standard deviation of the Gaussian that smooths the identity's gradient, as a share of the crop's edge: what is finer is noise that only a
# network sees.
_GRADIENT_BLUR = 1 / 128
# How much of a gradient passes where the crop is out of range: enough to keep a pixel that is too bright from being stuck there.
_OUT_OF_RANGE_SLOPE = 0.05
# BiSeNet classes whose shape is held: skin, brows, eyes, nose, mouth, lips (DiffFace, section 3.3).
FACE_CLASSES = (1, 2, 3, 4, 5, 10, 11, 12, 13)

_DECODER_REMEDY = "run ComfyUI with --fp32-vae or set guidance_decode to preview."

# Takes crops [N, 3, H, W] 0..1 (not clipped), returns one loss per crop [N].
Loss = Callable[[Tensor], Tensor]


@runtime_checkable
class SeesPart(Protocol):
    """A loss that sees a part of the crop only. covered_share: ``[N]`` 0..1, how large that part is."""

    covered_share: Tensor


@runtime_checkable
class ExplainsNan(Protocol):
    """A loss that has the sentence to say where its gradient is NaN."""

    nan_message: str


def identity_loss(embeddings: Tensor, target: Tensor) -> Tensor:
    """Return ``[N]``: 1 - cosine between embeddings ``[V, N, D]`` of V views and those wanted, ``[N, D]`` or ``[D]``; the mean over the
    views."""
    return (1 - F.cosine_similarity(embeddings, target, dim=-1)).mean(0)


def parser_loss(scores: Tensor, target: Tensor, squared: bool = False, classes: Sequence[int] = FACE_CLASSES) -> Tensor:
    """Return ``[N]``: the mean absolute (or squared) difference between scores ``[N, C, h, w]`` and the target's, summed over classes."""
    difference = scores[:, list(classes)] - target[:, list(classes)]
    return (difference.square() if squared else difference.abs()).mean((2, 3)).sum(1)


def gaze_loss(gazes: Tensor, target: Tensor, squared: bool = False) -> Tensor:
    """Return ``[N]``: the mean absolute (or squared) difference between pitch and yaw ``[N, 2, 2]`` and the target's, summed over both
    eyes."""
    difference = gazes - target
    return (difference.square() if squared else difference.abs()).mean(2).sum(1)


def eye_crops(crops: Tensor, boxes: Sequence | np.ndarray) -> Tensor:
    """Cut two boxes out of each crop ``[N, 3, H, W]`` and return the mean over color as ``[N, 2, 96, 160]``.

    boxes: ``[N, 2, 4]`` of x0, y0, x1, y1 (whole pixels, ends excluded), or ``[2, 4]`` for all crops.
    """
    grey = crops.mean(1, keepdim=True)
    pairs = np.broadcast_to(np.asarray(boxes, int), (len(crops), 2, 4)).tolist()
    eyes = [[F.interpolate(crop[None, :, y0:y1, x0:x1], (96, 160), mode="bilinear", align_corners=False)[0, 0]
             for x0, y0, x1, y1 in pair] for crop, pair in zip(grey, pairs, strict=True)]
    return torch.stack([torch.stack(pair) for pair in eyes])


class IdentityLoss:
    """1 - cosine between the identity's embedding and a recognizer's output for crops, averaged over several views of each crop.

    embedding: unit ``[D]``, or ``[N, D]``, one for each crop. matrices: ``[N, 2, 3]`` crop → aligned. views: 1 is the aligned face alone;
    more add rotated and shifted ones, which keeps the guidance from drawing noise that only fools the network. The views follow from
    ``seed``.
    """

    nan_message = "The recognizer returned NaN; connect another one or set identity_strength to 0."

    def __init__(self, embedder: DifferentiableRecognizer, embedding: Tensor, matrices: np.ndarray, views: int = 1, seed: int = 0) -> None:
        self.embedder, self.embedding = embedder, embedding
        size = embedder.contract.fixed_size
        random = np.random.default_rng(seed)
        view_matrices = [np.eye(2, 3)] + [_random_view(random, size) for _ in range(views - 1)]
        self.matrices = [compose(view, np.asarray(matrices, np.float64)) for view in view_matrices]

    def __call__(self, crops: Tensor) -> Tensor:
        size = self.embedder.contract.fixed_size
        crops = crops.clamp(0, 1) + _OUT_OF_RANGE_SLOPE * (crops - crops.clamp(0, 1))
        if crops.requires_grad:
            crops.register_hook(_smooth)
        return identity_loss(torch.stack([self.embedder(align_crops(crops, m, size)) for m in self.matrices]), self.embedding)


def _smooth(gradient: Tensor) -> Tensor:
    """Blur the gradient ``[N, C, S, S]`` of crops by a Gaussian whose standard deviation is ``_GRADIENT_BLUR`` of their edge."""
    sigma = gradient.shape[-1] * _GRADIENT_BLUR
    return gaussian_blur(gradient, sigma, max(1, round(3 * sigma)))


def _random_view(random: np.random.Generator, size: int) -> np.ndarray:
    """Return ``[2, 3]``: a random rotation about the middle of a crop of ``size`` pixels, and a random shift."""
    angle = np.deg2rad(random.uniform(-_MAX_ROTATION, _MAX_ROTATION))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.full(2, (size - 1) / 2)
    return np.concatenate([rotation, (centre - rotation @ centre + random.uniform(-_MAX_SHIFT, _MAX_SHIFT, 2) * size)[:, None]], 1)


class ParserLoss:
    """How far the scores of the face's regions are from the target's.

    parse: crops ``[N, 3, H, W]`` 0..1 to scores ``[N, C, h, w]``, with a gradient. targets: crops, one for each that is measured.
    """

    nan_message = "The parser returned NaN; connect another one or set expression_strength to 0."

    def __init__(self, parse: Callable[[Tensor], Tensor], targets: Tensor, squared: bool = False) -> None:
        self.parse, self.squared = parse, squared
        with torch.no_grad():
            self.target_scores = parse(targets)

    def __call__(self, crops: Tensor) -> Tensor:
        return parser_loss(self.parse(crops), self.target_scores, self.squared)


@dataclass(frozen=True, eq=False)
class Guidance:
    """The losses that act on a predicted latent, and how strongly.

    decode: latents ``[N, c, ...]`` in the model's own scale to crops ``[N, 3, H, W]`` 0..1, with a gradient. losses: (strength, loss)
    pairs; strength 0 does nothing, 1 is a firm pull where the loss looks, whatever the size of its numbers. A loss may also be a
    ``SeesPart`` and an ``ExplainsNan``. strength: of all losses together. inner_steps: gradient steps per sampling step.
    """

    decode: Callable[[Tensor], Tensor]
    losses: tuple[tuple[float, Loss], ...]
    strength: float = 1.0
    inner_steps: int = INNER_STEPS

    @property
    def strongest(self) -> float:
        """The largest strength of a loss, times the strength of all."""
        return self.strength * max(strength for strength, _ in self.losses)

    def apply(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """Move latents ``[N, c, ...]`` down the gradient, inside ``mask`` (broadcastable, in latent pixels).

        Where decoder or losses give NaN, that is an error that names them.
        """
        with torch.inference_mode(False), torch.enable_grad():
            moved = latents.detach().clone().to(torch.float32)
            mask = None if mask is None else mask.detach().clone()
            unit = standard_deviation(moved) / self.inner_steps
            for _ in range(self.inner_steps):
                leaf = moved.detach().requires_grad_(True)
                value, size = self.combined_loss(leaf)
                gradient = torch.autograd.grad(value.sum(), leaf)[0]
                check_finite(gradient, f"The gradient through the VAE is NaN; {_DECODER_REMEDY}")
                moved = moved - size * unit * unit_direction(gradient, mask)
        return moved.to(latents.dtype)

    def combined_loss(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return a value ``[N]`` whose gradient points where all losses together pull, and the length ``[N, 1, ...]`` of the step against
        it, in standard deviations of the latent.

        The losses are differentiated with respect to the crop, their gradients made equally large where each loss looks, and only their
        sum goes back through the decoder.
        """
        crops = self.decode(latents).to(torch.float32)
        check_finite(crops, f"The VAE returned NaN during guidance; {_DECODER_REMEDY}")
        total = reduce(add, (strength * _scaled_gradient(loss, crops) for strength, loss in self.losses))
        size = self.strength * STEP_SIZE * total.flatten(1).square().mean(1).sqrt()
        return (crops * total).flatten(1).sum(1), size.reshape(-1, *[1] * (latents.ndim - 1))


def _scaled_gradient(loss: Loss, crops: Tensor) -> Tensor:
    """Return the loss' gradient ``[N, 3, H, W]``, scaled to a root mean square of 1 over the part of the crop that the loss sees."""
    leaf = crops.detach().requires_grad_(True)
    gradient = torch.autograd.grad(loss(leaf).sum(), leaf)[0]
    check_finite(gradient, loss.nan_message if isinstance(loss, ExplainsNan) else "A loss of guidance is NaN.")
    share = loss.covered_share if isinstance(loss, SeesPart) else gradient.new_ones(len(gradient))
    return unit_direction(gradient) * share.to(gradient).sqrt()[:, None, None, None]


def standard_deviation(latents: Tensor) -> Tensor:
    """Return each sample's standard deviation, ``[N, 1, ...]``."""
    return latents.flatten(1).std(1).reshape(-1, *[1] * (latents.ndim - 1))


def unit_direction(gradient: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scale each sample of a gradient ``[N, ...]`` to a root mean square of 1 inside the mask and set it to 0 outside; 0 stays 0."""
    if mask is not None:
        gradient = gradient * mask
    share = gradient.new_ones(()) if mask is None else mask.expand_as(gradient).flatten(1).mean(1)
    mean_square = gradient.flatten(1).square().mean(1) / share.clamp(min=1e-6)
    scale = torch.where(mean_square > 0, mean_square, torch.ones_like(mean_square)).rsqrt()
    return gradient * scale.reshape(-1, *[1] * (gradient.ndim - 1))
