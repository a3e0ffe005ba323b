"""A curve that brings pictures with values above 1 to 0..1, and back again, so that a swap keeps their highlights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

KNEE = 0.75  # below it the curve leaves every value as it is


def whites_of(images: torch.Tensor) -> tuple[float, ...]:
    """Return the brightest value of every frame of ``[B, H, W, C]`` that has one above 1, else 1; none at all where no frame has one.

    C is 1, 3 or 4 (alpha is not looked at); one frame may come as ``[H, W, C]``.
    """
    if not images.is_floating_point():
        return ()
    frames = images[None] if images.ndim == 3 else images
    colors = frames[..., :3] if frames.shape[-1] == 4 else frames
    whites = [max(1.0, float(white)) for white in colors.amax((1, 2, 3)).tolist()]
    return tuple(whites) if max(whites) > 1 else ()


def white_of(whites: Sequence[float], frame: int) -> float:
    """Return the brightest value of one frame; 1 where ``whites`` is empty."""
    return whites[frame] if whites else 1.0


def compress(values: torch.Tensor, white: float) -> torch.Tensor:
    """Bring values ``[...]`` of 0 to ``white`` to 0..1: as they are up to ``KNEE``, and above it along a curve that begins with slope 1 and
    takes ``white`` to 1 (Reinhard et al. 2002, equation 4). Values below 0 become 0. With a ``white`` of 1 only that is done."""
    values = values.clamp(0, white)
    if white <= 1:
        return values
    limit = (white - KNEE) / (1 - KNEE)
    above = (values - KNEE).clamp_min(0) / (1 - KNEE)
    bent = KNEE + (1 - KNEE) * above * (1 + above / limit**2) / (1 + above)
    return torch.where(values > KNEE, bent, values).clamp(0, 1)


def expand(values: torch.Tensor, white: float) -> torch.Tensor:
    """Undo ``compress``: values ``[...]`` of 0..1 become 0 to ``white``."""
    if white <= 1:
        return values
    limit = (white - KNEE) / (1 - KNEE)
    bent = ((values - KNEE) / (1 - KNEE)).clamp(0, 1)
    above = 2 * bent / (1 - bent + ((1 - bent) ** 2 + 4 * bent / limit**2).sqrt())
    return torch.where(values > KNEE, KNEE + (1 - KNEE) * above, values).clamp(0, white)
