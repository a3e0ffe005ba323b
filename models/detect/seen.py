"""What a detector is shown of a picture: tone-mapped where it has values above 1, and without what transparency hides."""

from __future__ import annotations

import numpy as np
import torch

from ..pixels.tensors import as_images, expand_rgb

# What is shown where a picture is transparent.
_BEHIND = 0.5
# The mean brightness (of its logarithm) below which a picture with very bright parts is not exposed.
_MIDDLE = 0.2


def as_seen(image: torch.Tensor, alpha: torch.Tensor | None = None) -> torch.Tensor:
    """Return what a detector is shown of an IMAGE: ``[B, H, W, 3]`` float32 0..1.

    image: ``[H, W, C]`` or ``[B, H, W, C]``, C = 1, 3 or 4, any float type or uint8. The fourth channel, or alpha ``[H, W]`` or
    ``[B, H, W]`` 0..1, hides what lies under it; where it is 0 in all of a frame it was never filled and hides nothing. Frames with
    values above 1 are exposed and compressed as a whole; any other picture is returned as ``as_images`` returns it, bit for bit. NaN and
    infinity are an error.
    """
    image = image[None] if image.ndim == 3 else image
    plain = as_images(image)
    if image.is_floating_point():
        brightest = expand_rgb(image).amax((1, 2, 3)).tolist()
        if max(brightest) > 1:
            plain = torch.stack([frame if most <= 1 else _tone_mapped(expand_rgb(original).to(torch.float32))
                                 for frame, original, most in zip(plain, image, brightest, strict=True)])
    if image.shape[-1] == 4:
        alpha = image[..., 3].to(torch.float32) / (255 if image.dtype == torch.uint8 else 1)
    if alpha is None or bool((alpha >= 1).all()):
        return plain
    alpha = (alpha[None] if alpha.ndim == 2 else alpha).to(plain.device, torch.float32).clamp(0, 1)[..., None]
    hiding = (alpha < 1) & (alpha.amax((1, 2, 3), keepdim=True) > 0)
    return torch.where(hiding, plain * alpha + _BEHIND * (1 - alpha), plain)


def _tone_mapped(frame: torch.Tensor) -> torch.Tensor:
    """Bring ``[H, W, 3]`` with values above 1 to 0..1: a bright frame is exposed darker, then the brightest value becomes 1 (Reinhard et
    al. 2002, equation 4). An ordinary picture that was made brighter comes out as it was."""
    frame = frame.clamp(min=0)
    brightness = frame[::4, ::4].mean(-1).cpu().numpy()
    middle = float(np.exp(np.log(np.maximum(brightness, 1e-4)).mean()))
    frame = frame * min(1.0, max(1 / max(float(np.quantile(brightness, 0.995)), 1e-4), _MIDDLE / middle))
    white = max(float(frame.max()), 1.0)
    return (frame * (1 + frame / white**2) / (1 + frame)).clamp(0, 1)
