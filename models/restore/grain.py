"""Matches sharpness and grain of a crop to the photograph, without a network.

Everything is measured on the photograph's own pixels: the crop is sampled there as pasting does it, so that its grain gets the size of the
photograph's, whatever the crop's size. What is measured in the photograph is the crop's square, the original face included: it lies at the
same distance from the camera and in the same light.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from ..crops.crop import crop_matrices
from ..faces import Faces
from ..pixels.affine import compose, invert, scale_of, transform
from ..pixels.checksum import checksum
from ..pixels.sampling import warp
from ..progress import Progress, silent
from ..runtime.method import Method
from .noise import OPPONENT, WIDTHS, Noise, bands, blur, measure_noise, smaller_noise
from .sharpness import edge_width, match_sharpness

# The largest edge in photograph pixels of a crop's square that is measured as it is.
_MOST_PIXELS = 2048
# Less missing variance than this (a third of an 8-bit step) is no grain.
_NO_GRAIN = (0.3 / 255) ** 2


def match_photo(crops: torch.Tensor, images: torch.Tensor, faces: Faces, masks: torch.Tensor, progress: Progress = silent, *,
                looks: Sequence[Look | None] | None = None) -> torch.Tensor:
    """Give crops ``[N, S, S, 3]`` the sharpness and grain of ``images`` ``[B, H, W, 3]``, all float32 0..1.

    masks: ``[N, S, S]``, where the crops will be pasted. A crop that is sharper than the photograph is blurred, one that is softer is
    sharpened (without halos), and then the grain that it lacks is added. The grain follows from the photograph's own pixels alone: the
    same face has the same grain wherever it stands in the batch, and no two frames have the same unless they are the same. looks: what
    ``measure_looks`` found for each crop, or for the same face in frames nearby; None measures each crop.
    """
    size = crops.shape[1]
    matrices = crop_matrices(faces, size)
    out = crops.clone()
    for i, face in enumerate(faces):
        progress(i, len(faces))
        if bool((masks[i] > 0.5).any()):
            work = _CropWork(crops[i], images[face.frame], matrices[i], masks[i])
            look = work.measure() if looks is None else looks[i]
            if look is not None:
                out[i] = work.given(look)
    progress(len(faces), len(faces))
    return out


def measure_looks(crops: torch.Tensor, images: torch.Tensor, faces: Faces, masks: torch.Tensor) -> list[Look | None]:
    """Return for each crop what ``match_photo`` would do to it; None where its mask is empty. The arguments are those of
    ``match_photo``."""
    size = crops.shape[1]
    matrices = crop_matrices(faces, size)
    return [_CropWork(crops[i], images[face.frame], matrices[i], masks[i]).measure() if bool((masks[i] > 0.5).any()) else None
            for i, face in enumerate(faces)]


@dataclass(frozen=True)
class Look:
    """What a crop has to be given to look like its photograph.

    widths: standard deviations of the crop's and of the photograph's edges, photograph pixels; None where the sharpness is left alone.
    gains: ``[4, 3]``, the variance of each noise (``_parts``) in each channel (``opponent``). level: as of ``Noise``.
    """

    widths: tuple[float, float] | None
    gains: np.ndarray
    level: tuple[float, float]

    def towards(self, other: Look, part: float) -> Look:
        """Return the look between this one and another, ``part`` 0..1 of the way."""
        def mix(one: tuple[float, float], another: tuple[float, float]) -> tuple[float, float]:
            return (1 - part) * one[0] + part * another[0], (1 - part) * one[1] + part * another[1]

        nearer = self if part < .5 else other
        widths = mix(self.widths, other.widths) if self.widths and other.widths else nearer.widths
        return Look(widths, (1 - part) * self.gains + part * other.gains, mix(self.level, other.level))


class _CropWork:
    """One crop ``[S, S, 3]`` and the part of its photograph ``[H, W, 3]`` under it. matrix: image → crop. mask: ``[S, S]``."""

    def __init__(self, crop: torch.Tensor, image: torch.Tensor, matrix: np.ndarray, mask: torch.Tensor) -> None:
        self.crop, self.size = crop, len(crop)
        self.image, self.matrix = _at_bounded_size(image.to(crop.device), matrix, self.size)
        self.site = _site(self.image, self.matrix, _extent(mask, 16 * float(scale_of(self.matrix))))
        self.where = self.site.sample(mask[..., None], "zeros")[..., 0] > 0.5
        self.maker = _GrainMaker(self.site, self.size, seed=checksum(self.site.photo.contiguous()))

    def measure(self) -> Look:
        """Compare the crop with its photograph."""
        whole = _site(self.image, self.matrix, (0, 0, self.size - 1, self.size - 1))
        around = measure_noise(whole.photo, _inside_square(whole, self.size))
        photo = smaller_noise(around, measure_noise(self.site.photo, self.where))
        if photo is None:
            return Look(self._widths(self.crop), np.zeros((4, 3)), (1.0, 0.0))
        wanted = _WantedGrain(photo, self.site, self.where, self.maker.mixing(self.where))
        gains = wanted.lacking_in(self.crop)
        widths = self._widths(self.crop + self.maker.grain(gains, photo.level, self.crop))
        sharp = match_sharpness(self.crop, widths, float(scale_of(self.site.to_crop)))
        return Look(widths, gains if sharp is self.crop else wanted.lacking_in(sharp), photo.level)

    def _widths(self, crop: torch.Tensor) -> tuple[float, float] | None:
        """Measure the edges of a crop that has its grain, for noise makes edges look sharper, in the photograph as well."""
        photo, mine = edge_width(self.site.photo, self.where), edge_width(self.site.sample(crop), self.where)
        return None if photo is None or mine is None else (mine, photo)

    def given(self, look: Look) -> torch.Tensor:
        """Return the crop with this look, ``[S, S, 3]`` 0..1."""
        sharp = match_sharpness(self.crop, look.widths, float(scale_of(self.site.to_crop)))
        return (sharp + self.maker.grain(look.gains, look.level, sharp)).clamp(0, 1)


def _at_bounded_size(image: torch.Tensor, matrix: np.ndarray, size: int) -> tuple[torch.Tensor, np.ndarray]:
    """Return an image ``[H, W, 3]`` and image → crop, both averaged down by a whole number where the crop's square is larger than
    ``_MOST_PIXELS`` in the image: a crop that is so much coarser cannot carry the finest grain, and measuring it would take gigabytes."""
    step = math.ceil(size / float(scale_of(matrix)) / _MOST_PIXELS)
    if step <= 1:
        return image, matrix
    site = _site(image, matrix, (-0.25 * size, -0.25 * size, 1.25 * size, 1.25 * size))
    small = F.avg_pool2d(site.photo.movedim(-1, 0)[None], step, ceil_mode=True, count_include_pad=False)[0].movedim(0, -1)
    shift = (step - 1) / 2  # of the middle of the first averaged pixel
    return small, compose(site.to_crop, np.array([[step, 0, shift], [0, step, shift]], np.float64))


@dataclass(frozen=True)
class _Site:
    """The part of a photograph that a crop, or part of it, covers. photo: ``[h, w, 3]``, its pixels. to_crop: they → crop, ``[2, 3]``."""

    photo: torch.Tensor
    to_crop: np.ndarray

    def sample(self, picture: torch.Tensor, padding: str = "border") -> torch.Tensor:
        """Sample a picture of the crop's size, ``[S, S, C]``, at the photograph's pixels: ``[h, w, C]``."""
        height, width = self.photo.shape[:2]
        return warp(picture, invert(self.to_crop), height, width, padding)


def _extent(mask: torch.Tensor, margin: float) -> tuple[float, float, float, float]:
    """Return x0, y0, x1, y1 of what a mask ``[S, S]`` covers and ``margin`` pixels around it, inside the crop."""
    rows, columns = (torch.nonzero(mask.amax(axis) > 0)[:, 0] for axis in (1, 0))
    y0, y1, x0, x1 = (float(v) for v in (rows[0], rows[-1], columns[0], columns[-1]))
    height, width = mask.shape
    return max(0.0, x0 - margin), max(0.0, y0 - margin), min(width - 1.0, x1 + margin), min(height - 1.0, y1 + margin)


def _site(image: torch.Tensor, matrix: np.ndarray, extent: tuple[float, float, float, float]) -> _Site:
    """Cut the part of an image ``[H, W, 3]`` under the rectangle ``extent`` (x0, y0, x1, y1) of a crop. matrix: image → crop."""
    height, width = image.shape[:2]
    left, top, right, bottom = extent
    square = transform(np.array([[left, top], [right, top], [left, bottom], [right, bottom]]), invert(matrix))
    x0, y0 = np.clip(np.floor(square.min(0)).astype(int), 0, [width - 1, height - 1])
    x1, y1 = np.clip(np.ceil(square.max(0)).astype(int) + 1, [x0 + 1, y0 + 1], [width, height])
    shift = np.array([[1.0, 0, x0], [0, 1, y0]])
    return _Site(image[y0:y1, x0:x1, :3].to(torch.float32), compose(matrix, shift))


def _parts(noise: torch.Tensor) -> torch.Tensor:
    """Make the four noises that grain is mixed from, ``[4, C, H, W]`` of about unit variance, out of white noise ``[4, C, H, W]``.

    They are its finest band (to make up for resampling), white noise (a bare sensor), and two softer ones (demosaicing, denoising, JPEG).
    """
    _, norm = _spectra()
    channels = [noise[0] - blur(noise[0], WIDTHS[0]), noise[1], blur(noise[2], 0.7), blur(noise[3], 1.4)]
    return torch.stack([part / float(n) for part, n in zip(channels, norm, strict=True)])


@lru_cache
def _spectra() -> tuple[np.ndarray, np.ndarray]:
    """Return how much variance noise k of unit variance has in band j, ``[3, 4]``, and the norm of each noise's filter, ``[4]``."""
    axis = np.fft.fftfreq(128) * 2 * np.pi
    square = axis[:, None] ** 2 + axis**2
    smooth = [np.ones_like(square), *(np.exp(-square * width**2 / 2) for width in WIDTHS)]
    band = np.stack([(fine - coarse) ** 2 for fine, coarse in pairwise(smooth)])
    part = np.stack([band[0], smooth[0], np.exp(-square * 0.7**2), np.exp(-square * 1.4**2)])
    norm = part.mean((1, 2))
    return np.einsum("jyx,kyx->jk", band, part) / square.size / norm, np.sqrt(norm)


class _GrainMaker:
    """Makes grain for crops of ``size`` pixels on the pixels of a photograph."""

    def __init__(self, site: _Site, size: int, seed: int) -> None:
        self.site, self.size, self.seed = site, size, seed

    @cached_property
    def parts(self) -> torch.Tensor:
        """``[4, 3, h, w]``: the noises that grain is mixed from."""
        height, width = self.site.photo.shape[:2]
        noise = torch.randn((4, 3, height, width), generator=torch.Generator().manual_seed(self.seed)).to(self.site.photo.device)
        return _parts(noise)

    def mixing(self, where: torch.Tensor) -> np.ndarray:
        """Return ``[3, 4]``: the variance in each band that sampling to the crop and back leaves of each noise, inside ``where``."""
        back = self.site.sample(warp(self.parts[:, 0].movedim(0, -1), self.site.to_crop, self.size, self.size, "zeros"), "zeros")
        return np.stack([band[:, where].square().mean(-1).cpu().numpy() for band in bands(back.movedim(-1, 0))]).astype(np.float64)

    def grain(self, gains: np.ndarray, level: tuple[float, float], crop: torch.Tensor) -> torch.Tensor:
        """Return grain ``[S, S, 3]`` for a crop ``[S, S, 3]``; ``Look`` says what ``gains`` and ``level`` are."""
        if not gains.any():
            return torch.zeros_like(crop)
        weights = torch.from_numpy(np.sqrt(gains)).float().to(crop.device)
        grain = torch.einsum("kdhw,kd,dc->hwc", self.parts, weights, OPPONENT.to(crop.device))
        offset, slope = level
        strength = (offset + slope * crop.mean(-1, keepdim=True)).clamp(0.4, 2.5).sqrt()
        return warp(grain, self.site.to_crop, self.size, self.size, "zeros") * strength


@dataclass(frozen=True, eq=False)
class _WantedGrain:
    """How much grain crops have to be given. photo: the photograph's noise. mixing: ``_GrainMaker.mixing`` inside ``where``."""

    photo: Noise
    site: _Site
    where: torch.Tensor
    mixing: np.ndarray

    def lacking_in(self, crop: torch.Tensor) -> np.ndarray:
        """Return the gains ``[4, 3]`` of the grain that a crop ``[S, S, 3]``, pasted, needs to have as much as the photograph."""
        mine = measure_noise(self.site.sample(crop), self.where)
        if mine is None:
            return np.zeros((4, 3))
        # A face is seldom flat, and its texture passes for grain in the coarser bands. Taken as grain of the photograph's own spectrum,
        # the crop has as much of it as its poorest band shows.
        has = (mine.variance / np.maximum(self.photo.variance, 1e-12)).min(0)
        lacking = self.photo.variance * np.maximum(1 - has, 0)
        if lacking.sum() < _NO_GRAIN:
            return np.zeros((4, 3))
        return np.stack([self._gains(lacking[:, channel]) for channel in range(3)], 1)

    def _gains(self, lacking: np.ndarray) -> np.ndarray:
        """Return the variance ``[4]`` of each noise that gives the ``lacking`` variance ``[3]`` of each band.

        Non-negative least squares; every band counts relative to itself. A crop coarser than the photograph cannot carry the finest band,
        so no gain is spent on that.
        """
        from scipy.optimize import nnls

        weight = 1 / np.maximum(lacking, lacking.max() * 1e-3 + 1e-12)[:, None]
        fit = [nnls(mixing * weight, lacking * weight[:, 0])[0] for mixing in (self.mixing, _spectra()[0])]
        return fit[0] * min(1.0, 3 * fit[1].sum() / max(fit[0].sum(), 1e-12))


def _inside_square(site: _Site, size: int) -> torch.Tensor:
    """Return which pixels of the site lie inside its crop of ``size`` pixels, ``[h, w]`` bool."""
    height, width = site.photo.shape[:2]
    ys, xs = np.mgrid[:height, :width]
    points = transform(np.stack([xs, ys], -1).reshape(-1, 2), site.to_crop)
    inside = ((points >= 0) & (points <= size - 1)).all(-1).reshape(height, width)
    return torch.from_numpy(inside).to(site.photo.device)


# No restorer: restore_crops matches the photograph then.
METHOD = Method("match the photograph", label="match the photograph (built in)", open=lambda file, loading: None)
