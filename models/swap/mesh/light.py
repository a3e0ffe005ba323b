"""The light of the scene, put on the texture of a face."""

from __future__ import annotations

import torch

from ...parse.skin import fast_gaussian_blur, local_mean

# Exponent of the scene's shading, part of the face against part, that the texture takes over: 0 none, 1 all.
_SHADING = 0.6
# Share of the contrast that is kept where the texture is darkened.
_CONTRAST = 0.7
# The scene's light makes the texture at most this much brighter or darker.
_GAIN = 3.0


def relight(painted: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, skin: torch.Tensor, eye_distance: float) -> torch.Tensor:
    """Gives the texture ``[3, S, S]`` the light of the scene, found by comparing the means of both skins.

    The face as a whole takes all of it, parts of the face most of it (light and shade also draw the source's features), and the border,
    where a step would show, takes it more finely.
    """
    weight = (skin * mask.clamp(0.02, 1))[None]
    near_border = (2 * (1 - fast_gaussian_blur(mask[None], 0.1 * eye_distance)[0])).clamp(0, 0.8)
    lit = painted
    for sigma, share in ((0.55 * eye_distance, _SHADING), (0.12 * eye_distance, near_border)):
        have = local_mean(lit, weight, sigma)
        gain = local_mean(target, weight, sigma) / have.clamp_min(0.01)
        overall = (target * weight).sum((1, 2), keepdim=True) / (lit * weight).sum((1, 2), keepdim=True).clamp_min(1e-6)
        lit = _expose(lit, (overall * (gain / overall) ** share).clamp(1 / _GAIN, _GAIN), have)
    return lit


def _expose(image: torch.Tensor, gain: torch.Tensor, middle: torch.Tensor) -> torch.Tensor:
    """Makes ``image`` ``gain`` times as bright at its local mean ``middle``, along a curve that never passes white and, where it darkens,
    keeps some of the contrast that a mere factor loses."""
    wanted, middle = (middle * gain).clamp(0.01, 0.98), middle.clamp(0.01, 0.98)
    odds = (wanted * (1 - middle) / (middle * (1 - wanted))).clamp(1 / (3 * _GAIN), 3 * _GAIN)
    curved = image * odds / (1 - image + image * odds)
    return torch.where(gain > 1, curved, torch.lerp(image * gain, curved, _CONTRAST * (2 - 2 * middle).clamp(0, 1)))
