"""Gives a crop the colours of the photograph it goes back into."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import FaceLoomError
from ..options.paste import COLORS
from ..pixels.blur import gaussian_blur

METHODS = COLORS[1:]

# Statistics are taken of crops averaged down to this edge: enough samples, and neither grain nor sharpness counts.
_STATISTICS_EDGE = 64
# A standard deviation below this (half an 8-bit step) is no colour distribution, and no contrast is changed by more than this factor.
_MIN_SPREAD = 0.5 / 255
_MAX_GAIN = 2.0
# Chroma is held tighter: skin has little of its own spread, and a large gain makes lips and shadows glow.
_MAX_LAB_GAIN = np.array([2.0, 1.4, 1.4])
# Concentration steps, and the squared Mahalanobis distance up to which a colour belongs to the distribution: the 99 % point of chi-square
# (3) over the share of the variance that the nearer half of a normal distribution has.
_CONCENTRATION_STEPS = 6
_MAX_DISTANCE = 11.34 * 2.45
# Widths of the low bands, as fractions of the crop's edge; the last one is about a quarter of the distance between the eyes.
_BANDS = (1 / 4, 1 / 8, 1 / 16)
# Rec. 709 primaries, D65 white (IEC 61966-2-1).
_RGB_TO_XYZ = np.array([[0.4123908, 0.3575843, 0.1804808], [0.2126390, 0.7151687, 0.0721923], [0.0193308, 0.1191948, 0.9505322]])
_WHITE = _RGB_TO_XYZ.sum(1)
_KNEE = 6 / 29


def match_color(crops: torch.Tensor, references: torch.Tensor, masks: torch.Tensor, method: str = "mkl",
                amount: float = 1.0) -> torch.Tensor:
    """Give crops ``[N, S, S, 3]`` the colours of ``references`` ``[N, R, R, 3]``, which show the same squares of the photograph.

    masks: ``[N, M, M]``, what will be pasted. Statistics come from inside the mask, its border counting most, and only from pixels whose
    colour is usual in the crop and in the reference (within three standard deviations of both colour distributions): eyes, teeth, hair
    across the forehead and spectacles drop out, skin remains. method: ``mean-std`` per CIELAB channel (Reinhard et al. 2001), ``mkl`` the
    linear Monge-Kantorovitch map of RGB (Pitié & Kokaram 2007), ``low-frequency`` the photograph's light at the scales above a sixteenth
    of the crop. amount: 0..1. Returns ``[N, S, S, 3]`` 0..1; a crop with an empty mask comes back as it was.
    """
    if not 0 <= amount <= 1:
        raise FaceLoomError(f"The amount of colour match must lie between 0 and 1, not {amount}.")
    return apply_colors(crops, measure_colors(crops, references, masks, method), amount)


@dataclass(frozen=True, eq=False)
class ColorMap:
    """What gives a crop the colours of its photograph.

    method: one of ``METHODS``. values: the matrix ``[3, 3]`` and offset ``[3]`` that its colours go through (CIELAB for ``mean-std``, RGB
    for ``mkl``), or for ``low-frequency`` what is added, ``[3, E, E]``.
    """

    method: str
    values: tuple[torch.Tensor, ...]

    def applied(self, crop: torch.Tensor) -> torch.Tensor:
        """Return a crop ``[S, S, 3]`` with its colours mapped, 0..1."""
        if self.method == "low-frequency":
            size = crop.shape[0]
            added = F.interpolate(self.values[0][None].to(crop), (size, size), mode="bicubic", align_corners=False)[0]
            return (crop + added.permute(1, 2, 0)).clamp_(0, 1)
        gain, offset = (value.to(crop) for value in self.values)
        if self.method == "mkl":
            return (crop @ gain.T + offset).clamp_(0, 1)
        return lab_to_rgb(rgb_to_lab(crop) @ gain.T + offset).clamp_(0, 1)

    def towards(self, other: ColorMap, part: float) -> ColorMap:
        """Return the map between this one and another of the same method, ``part`` 0..1 of the way."""
        return ColorMap(self.method, tuple(torch.lerp(one, another, part) for one, another in zip(self.values, other.values, strict=True)))


def measure_colors(crops: torch.Tensor, references: torch.Tensor, masks: torch.Tensor, method: str) -> list[ColorMap | None]:
    """Return for each crop the map that ``match_color`` applies, whose arguments these are; None where its mask is empty."""
    if method not in METHODS:
        raise FaceLoomError(f"The colour match must be one of {', '.join(METHODS)}, not {method!r}.")
    edge = min(_STATISTICS_EDGE, crops.shape[1], references.shape[1])
    masks = masks[..., None].to(torch.float32)
    small, reference, weights = _masked_means(crops, masks, edge), _masked_means(references, masks, edge), _area_means(masks, edge)
    return [ColorMap(method, _MATCHES[method](small[i], reference[i], weights[i, ..., 0])) if float(weights[i].sum()) > 1 else None
            for i in range(len(crops))]


def apply_colors(crops: torch.Tensor, maps: Sequence[ColorMap | None], amount: float = 1.0) -> torch.Tensor:
    """Return crops ``[N, S, S, 3]`` with each one's colours mapped; those without a map as they are."""
    out = torch.empty_like(crops)
    for i, (crop, mapping) in enumerate(zip(crops, maps, strict=True)):
        out[i] = crop if mapping is None else torch.lerp(crop, mapping.applied(crop), amount)
    return out


def rgb_to_lab(rgb: torch.Tensor) -> torch.Tensor:
    """Convert sRGB ``[..., 3]`` 0..1 to CIELAB (D65): L 0..100, a and b about -110..110."""
    linear = torch.where(rgb > 0.04045, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = linear @ linear.new_tensor((_RGB_TO_XYZ / _WHITE[:, None]).T)
    f = torch.where(xyz > _KNEE**3, xyz.clamp_min(_KNEE**3) ** (1 / 3), xyz / (3 * _KNEE**2) + 4 / 29)
    x, y, z = f.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def lab_to_rgb(lab: torch.Tensor) -> torch.Tensor:
    """Convert CIELAB ``[..., 3]`` to sRGB; colours a screen cannot show come out beyond 0..1."""
    lightness, a, b = lab.unbind(-1)
    y = (lightness + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], -1)
    xyz = torch.where(f > _KNEE, f**3, 3 * _KNEE**2 * (f - 4 / 29))
    linear = xyz @ xyz.new_tensor((np.linalg.inv(_RGB_TO_XYZ) * _WHITE).T)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055, linear * 12.92)


# Each method takes a crop and its reference averaged down to [E, E, 3], and the mask [E, E], and returns the values of its ColorMap.


def _mean_std(small: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Shift and scale each CIELAB channel to the reference's mean and standard deviation."""
    small, reference = rgb_to_lab(small), rgb_to_lab(reference)
    weights = _usual_color_weights(small, reference, mask, 100 * _MIN_SPREAD)
    (mean, cloud), (target_mean, target_cloud) = (_moments(picture, weights) for picture in (small, reference))
    deviations = (np.sqrt(np.diag(c) + (100 * _MIN_SPREAD) ** 2) for c in (target_cloud, cloud))
    gain = np.clip(np.divide(*deviations), 1 / _MAX_LAB_GAIN, _MAX_LAB_GAIN)
    return _affine(small, np.diag(gain), mean, target_mean)


def _mkl(small: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Map RGB linearly so that mean and covariance become the reference's, moving colours as little as possible."""
    weights = _usual_color_weights(small, reference, mask, _MIN_SPREAD)
    (mean, cloud), (target_mean, target_cloud) = (_moments(picture, weights) for picture in (small, reference))
    floor = _MIN_SPREAD**2 * np.eye(3)
    root = _power(cloud + floor, 0.5)
    inverse = _power(cloud + floor, -0.5)
    gain = inverse @ _power(root @ (target_cloud + floor) @ root, 0.5) @ inverse
    values, vectors = np.linalg.eigh((gain + gain.T) / 2)
    return _affine(small, (vectors * np.clip(values, 1 / _MAX_GAIN, _MAX_GAIN)) @ vectors.T, mean, target_mean)


def _low_frequency(small: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Add the difference to the reference, blurred from coarse to fine.

    The blurs are normalized by the weights, so that nothing bleeds in from beyond the mask or from pixels where crop and reference show
    different things (their difference is far from its median).
    """
    difference = (reference - small).permute(2, 0, 1)
    inner = difference[:, mask > 0.5 * mask.max()]
    middle = inner.median(1).values
    limit = 2.5 * 1.4826 * (inner - middle[:, None]).abs().median(1).values + 0.05
    weights = mask * ((difference - middle[:, None, None]).abs() <= limit[:, None, None]).all(0)
    total = weights.sum().clamp_min(1e-6)
    correction = ((difference * weights).sum((1, 2)) / total)[:, None, None].expand_as(difference)
    for band in _BANDS:
        sigma = band * mask.shape[0]
        share = _blur(weights[None], sigma)
        correction = correction + _blur((difference - correction) * weights, sigma) / (share + 1e-3)
    return (correction,)


_MATCHES = {"mean-std": _mean_std, "mkl": _mkl, "low-frequency": _low_frequency}


def _area_means(pictures: torch.Tensor, edge: int) -> torch.Tensor:
    """Average pictures ``[N, H, W, C]`` down to ``[N, edge, edge, C]``."""
    return F.interpolate(pictures.permute(0, 3, 1, 2), (edge, edge), mode="area").permute(0, 2, 3, 1)


def _masked_means(pictures: torch.Tensor, masks: torch.Tensor, edge: int) -> torch.Tensor:
    """Average pictures down over the mask only, so that a cell on its border shows no colour from beyond it; 0 where there is no mask."""
    masks = _area_means(masks, pictures.shape[1])
    return _area_means(pictures * masks, edge) / _area_means(masks, edge).clamp_min(1e-6)


def _usual_color_weights(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor, spread: float) -> torch.Tensor:
    """Return weights ``[E, E]``: the mask, its border counting most, without the pixels whose colour is unusual in either picture.

    Distances are Mahalanobis', so the choice does not depend on any linear change of colour between the two.
    """
    soft = _blur(mask[None], mask.shape[0] / 16)[0]
    ring = mask * (0.25 + 4 * soft * (1 - soft))
    core = _main_colors(first, mask, spread) * _main_colors(second, mask, spread)
    return ring * core if float((mask * core).sum()) > 0.2 * float(mask.sum()) else ring


def _main_colors(picture: torch.Tensor, mask: torch.Tensor, spread: float) -> torch.Tensor:
    """Return ``[E, E]``, 1 where a pixel of the mask belongs to the main colour distribution, else 0.

    Concentration steps of the minimum covariance determinant (Rousseeuw & Van Driessen 1999), started from the half of the mask that is
    nearest to its median colour.
    """
    inside = mask > 0.5 * float(mask.max())
    away = picture - picture[inside].median(0).values
    distance = (away.abs() / (away[inside].abs().median(0).values + spread)).amax(-1)
    for _ in range(_CONCENTRATION_STEPS):
        mean, cloud = _moments(picture, (inside & (distance <= distance[inside].median())).to(mask.dtype))
        away = picture - picture.new_tensor(mean)
        distance = ((away @ picture.new_tensor(np.linalg.inv(cloud + spread**2 * np.eye(3)))) * away).sum(-1)
    return (inside & (distance < _MAX_DISTANCE)).to(mask.dtype)


def _moments(picture: torch.Tensor, weights: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted mean ``[3]`` and covariance ``[3, 3]`` of a picture ``[E, E, 3]``."""
    flat, weights = picture.reshape(-1, 3), weights.reshape(-1, 1)
    weights = weights / weights.sum()
    mean = (flat * weights).sum(0)
    away = flat - mean
    return mean.cpu().double().numpy(), (away.T @ (away * weights)).cpu().double().numpy()


def _affine(like: torch.Tensor, gain: np.ndarray, mean: np.ndarray, target_mean: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return matrix and offset of the linear map by ``gain`` ``[3, 3]`` that takes ``mean`` to ``target_mean``, tensors like ``like``."""
    return like.new_tensor(gain), like.new_tensor(target_mean - gain @ mean)


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """Return a power of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 1e-12) ** exponent) @ vectors.T


def _blur(planes: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur ``[C, h, w]`` by a Gaussian of ``sigma`` pixels, with zeros beyond the edges."""
    return gaussian_blur(planes, sigma, max(1, math.ceil(3 * sigma)), "zeros")
