"""Guidance: pulling the picture a diffusion model predicts at one step towards an identity, and holding expression and gaze.

After DiffFace (Kim et al. 2022, section 3.3) with one difference: every gradient is scaled to a step of known size, because the size of a
gradient through an arbitrary decoder says nothing, and a step that suits SD would tear Flux apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import check_finite
from ..identity.differentiable import Embedder, align_crops
from ..pixels.affine import compose
from ..pixels.blur import gaussian_blur

# At strength 1 the sum of one step's moves is this share of the predicted latent's own spread.
STEP = 0.12
# Inner moves per step: more follow a curved loss better.
MOVES = 4
# DiffFace's views: rotations up to 15 degrees and shifts up to a tenth of the picture.
_TURN, _SHIFT = 15.0, 0.1
# The gradient of the likeness is smoothed by this share of the crop's edge: finer than that it is noise that only a network sees.
_SMOOTH = 1 / 128
# BiSeNet classes whose shape is held: skin, brows, eyes, nose, mouth, lips (DiffFace, section 3.3).
FACE_CLASSES = (1, 2, 3, 4, 5, 10, 11, 12, 13)

_CURE = "run ComfyUI with --fp32-vae or set guidance_decode to preview."

# Pictures [N, 3, H, W] 0..1 (not clipped) to one loss per picture [N].
Loss = Callable[[Tensor], Tensor]


def identity_loss(embeddings: Tensor, wanted: Tensor) -> Tensor:
    """``[V, N, D]`` embeddings of V views and ``[N, D]`` or ``[D]`` wanted ones to ``[N]``: the mean of 1 - cosine."""
    return (1 - F.cosine_similarity(embeddings, wanted, dim=-1)).mean(0)


def parser_loss(logits: Tensor, wanted: Tensor, squared: bool = False, classes: Sequence[int] = FACE_CLASSES) -> Tensor:
    """``[N, C, h, w]`` logits against the target's to ``[N]``: per class the mean absolute (or squared) difference, summed."""
    difference = logits[:, list(classes)] - wanted[:, list(classes)]
    return (difference.square() if squared else difference.abs()).mean((2, 3)).sum(1)


def gaze_loss(gazes: Tensor, wanted: Tensor, squared: bool = False) -> Tensor:
    """Pitch and yaw of both eyes ``[N, 2, 2]`` against the target's to ``[N]``: the mean per eye, summed."""
    difference = gazes - wanted
    return (difference.square() if squared else difference.abs()).mean(2).sum(1)


def eye_pictures(pictures: Tensor, boxes: Sequence | np.ndarray) -> Tensor:
    """The mean over colour of two boxes (x0, y0, x1, y1, ends excluded) per picture ``[N, 3, H, W]``, as ``[N, 2, 96, 160]``.

    boxes: ``[N, 2, 4]``, or ``[2, 4]`` for all pictures.
    """
    grey = pictures.mean(1, keepdim=True)
    pairs = np.broadcast_to(np.asarray(boxes, int), (len(pictures), 2, 4)).tolist()
    eyes = [[F.interpolate(picture[None, :, y0:y1, x0:x1], (96, 160), mode="bilinear", align_corners=False)[0, 0]
             for x0, y0, x1, y1 in pair] for picture, pair in zip(grey, pairs, strict=True)]
    return torch.stack([torch.stack(pair) for pair in eyes])


class IdentityLoss:
    """1 - cosine between the identity and what a recognizer sees in crops, averaged over several views of each.

    matrices: ``[N, 2, 3]`` crop → aligned. wanted: unit ``[D]``. views: 1 is the aligned face alone; more add turned and shifted looks
    at it, which keeps the guidance from drawing noise that only fools the network. The views follow from ``seed``.
    """

    fault = "The recognizer answered NaN; connect another one or set identity_strength to 0."

    def __init__(self, embedder: Embedder, wanted: Tensor, matrices: np.ndarray, views: int = 1, seed: int = 0) -> None:
        self.embedder, self.wanted = embedder, wanted
        size = embedder.contract.size
        random = np.random.default_rng(seed)
        looks = [np.eye(2, 3)] + [_look(random, size) for _ in range(views - 1)]
        self.matrices = [compose(look, np.asarray(matrices, np.float64)) for look in looks]

    def __call__(self, pictures: Tensor) -> Tensor:
        size = self.embedder.contract.size
        pictures = pictures.clamp(0, 1) + 0.05 * (pictures - pictures.clamp(0, 1))  # keeps a little pull where the picture is too bright
        if pictures.requires_grad:
            pictures.register_hook(_smooth)
        return identity_loss(torch.stack([self.embedder(align_crops(pictures, m, size)) for m in self.matrices]), self.wanted)


def _smooth(gradient: Tensor) -> Tensor:
    """Blur the gradient ``[N, C, S, S]`` of pictures by a Gaussian whose width is ``_SMOOTH`` of their edge."""
    sigma = gradient.shape[-1] * _SMOOTH
    return gaussian_blur(gradient, sigma, max(1, round(3 * sigma)))


def _look(random: np.random.Generator, size: int) -> np.ndarray:
    angle = np.deg2rad(random.uniform(-_TURN, _TURN))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.full(2, (size - 1) / 2)
    return np.concatenate([turn, (centre - turn @ centre + random.uniform(-_SHIFT, _SHIFT, 2) * size)[:, None]], 1)


class ParserLoss:
    """How far the regions of the face have moved from the target's. parse: pictures ``[N, 3, H, W]`` 0..1 to logits, with a gradient."""

    fault = "The parser answered NaN; connect another one or set expression_strength to 0."

    def __init__(self, parse: Callable[[Tensor], Tensor], targets: Tensor, squared: bool = False) -> None:
        self.parse, self.squared = parse, squared
        with torch.no_grad():
            self.wanted = parse(targets)

    def __call__(self, pictures: Tensor) -> Tensor:
        return parser_loss(self.parse(pictures), self.wanted, self.squared)


@dataclass(frozen=True, eq=False)
class Guidance:
    """What acts on a predicted latent.

    decode: latents ``[N, c, ...]`` in the model's own scale to pictures ``[N, 3, H, W]`` 0..1, with a gradient. losses: (strength, loss)
    pairs; 0 does nothing, 1 is a firm pull where the loss looks, whatever the size of its numbers. A loss that looks at a part of the
    picture has that part as ``share`` ``[N]``, and its ``fault`` is the sentence to say where its gradient is NaN. strength: of all
    together. moves: inner gradient steps per sampling step.
    """

    decode: Callable[[Tensor], Tensor]
    losses: tuple[tuple[float, Loss], ...]
    strength: float = 1.0
    moves: int = MOVES

    @property
    def strongest(self) -> float:
        """Strength of the firmest pull."""
        return self.strength * max(strength for strength, _ in self.losses)

    def apply(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """Latents ``[N, c, ...]`` moved down the gradient, inside ``mask`` (broadcastable, in latent pixels)."""
        with torch.inference_mode(False), torch.enable_grad():
            moved = latents.detach().clone().to(torch.float32)
            mask = None if mask is None else mask.detach().clone()
            reach = spread(moved) / self.moves
            for _ in range(self.moves):
                leaf = moved.detach().requires_grad_(True)
                value, size = self.pull(leaf)
                gradient = torch.autograd.grad(value.sum(), leaf)[0]
                check_finite(gradient, f"The gradient through the VAE is NaN; {_CURE}")
                moved = moved - size * reach * direction(gradient, mask)
        return moved.to(latents.dtype)

    def pull(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """``[N]``, whose gradient is where all losses together pull, and how far to go that way, ``[N, 1, ...]`` in spreads of the latent.

        The losses are differentiated with respect to the picture, made equally large where they look, and only their sum goes back
        through the decoder.
        """
        pictures = self.decode(latents).to(torch.float32)
        check_finite(pictures, f"The VAE answered NaN during guidance; {_CURE}")
        together = sum(strength * _even(loss, pictures) for strength, loss in self.losses)
        size = self.strength * STEP * together.flatten(1).square().mean(1).sqrt()
        return (pictures * together).flatten(1).sum(1), size.reshape(-1, *[1] * (latents.ndim - 1))


def _even(loss: Loss, pictures: Tensor) -> Tensor:
    """The loss' gradient ``[N, 3, H, W]``, of root mean square 1 over the share of the picture it looks at."""
    leaf = pictures.detach().requires_grad_(True)
    gradient = torch.autograd.grad(loss(leaf).sum(), leaf)[0]
    check_finite(gradient, getattr(loss, "fault", "A loss of guidance is NaN."))
    share = getattr(loss, "share", gradient.new_ones(len(gradient)))
    return direction(gradient) * share.to(gradient).sqrt()[:, None, None, None]


def spread(latents: Tensor) -> Tensor:
    """Standard deviation of each sample, ``[N, 1, ...]``."""
    return latents.flatten(1).std(1).reshape(-1, *[1] * (latents.ndim - 1))


def direction(gradient: Tensor, mask: Tensor | None = None) -> Tensor:
    """The gradient inside the mask, each sample scaled to a root mean square of 1 there (0 stays 0)."""
    if mask is not None:
        gradient = gradient * mask
    share = gradient.new_ones(()) if mask is None else mask.expand_as(gradient).flatten(1).mean(1)
    mean_square = gradient.flatten(1).square().mean(1) / share.clamp(min=1e-6)
    scale = torch.where(mean_square > 0, mean_square, torch.ones_like(mean_square)).rsqrt()
    return gradient * scale.reshape(-1, *[1] * (gradient.ndim - 1))
