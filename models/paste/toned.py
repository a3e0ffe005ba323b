"""Pictures of one tone: grey ones, sepia, blueprints, duotones. Their colour follows from their lightness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

# Channels that differ by no more than this are equal: a step of JPEG's colours, from which grey pictures come out as tinted, is 2.1 / 255.
_GRAY = 2.5 / 255
# How far nearly all pixels of a picture of one tone lie from its curve: a step or two of JPEG's colours, and the noise of a scan.
_NEAR, _SHARE = 5 / 255, 0.98
_BINS = 32
_FEWEST = 64  # pixels from which a tone can be told
# Rec. 709 luma.
_LUMA = (0.2126, 0.7152, 0.0722)


@dataclass(frozen=True, eq=False)
class Toning:
    """The colours of a picture of one tone: ``colors`` ``[K, 3]`` at the rising ``lights`` ``[K]``; without any, the picture is grey."""

    lights: np.ndarray
    colors: np.ndarray

    def applied(self, picture: torch.Tensor) -> torch.Tensor:
        """Return a picture ``[H, W, 3]`` 0..1 in these colours, with its own lightness."""
        light = luma(picture)
        if not len(self.lights):
            return light.clamp(0, 1).expand(picture.shape)
        values = light[..., 0].cpu().numpy()
        offsets = [np.interp(values, self.lights, self.colors[:, channel] - self.lights) for channel in range(3)]
        return (light + torch.from_numpy(np.stack(offsets, -1)).to(picture)).clamp(0, 1)


def luma(picture: torch.Tensor) -> torch.Tensor:
    """Return the lightness ``[H, W, 1]`` of a picture ``[H, W, 3]``."""
    return picture @ picture.new_tensor(_LUMA)[:, None]


def is_gray(picture: torch.Tensor) -> bool:
    """Tell whether a picture ``[H, W, 3]`` 0..1 has no colour: its channels are equal, to a step of JPEG's colours."""
    red, green, blue = picture.unbind(-1)
    return all(bool(((red - other).abs() <= _GRAY).all()) for other in (green, blue))


def toning_of(picture: torch.Tensor) -> Toning | None:
    """Return the tone of a picture ``[H, W, 3]`` 0..1; None where it has colours that do not follow from its lightness.

    The curve goes through the mean colours of pixels that are equally light, and nearly all pixels lie close to it.
    """
    if is_gray(picture):
        return Toning(np.zeros(0), np.zeros((0, 3)))
    pixels = picture.reshape(-1, 3).cpu().double().numpy()
    if len(pixels) < _FEWEST:
        return None
    light = pixels @ np.array(_LUMA)
    bins = np.clip((light * _BINS).astype(int), 0, _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    used = counts >= max(1, 0.001 * len(pixels))
    sums = np.stack([np.bincount(bins, values, _BINS) for values in (light, *pixels.T)], -1)[used] / counts[used, None]
    toning = Toning(sums[:, 0], sums[:, 1:])
    expected = light[:, None] + np.stack([np.interp(light, toning.lights, toning.colors[:, i] - toning.lights) for i in range(3)], -1)
    apart = np.abs(pixels - expected).max(-1)
    return toning if float(np.quantile(apart, _SHARE)) <= _NEAR else None
