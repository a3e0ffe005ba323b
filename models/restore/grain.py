"""Matches sharpness and grain of a crop to the photograph, without a network.

Everything is measured on the photograph's own pixels: the crop is sampled there as pasting does it, so that its grain gets the size of the
photograph's, whatever the crop's size. What is measured in the photograph is the crop's square, the original face included: it lies at the
same distance from the camera and in the same light.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F

from ..crops.crop import crop_matrices
from ..faces import Faces
from ..pixels.affine import compose, invert, scale_of, transform
from ..pixels.blur import gaussian_blur
from ..pixels.sampling import warp
from ..progress import Progress, silent
from ..runtime.method import Method

# Orthonormal lightness and two colour differences: noise that is independent in R, G and B has equal variance in all three.
_OPPONENT = torch.tensor([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / torch.tensor([[3.0], [2.0], [6.0]]).sqrt()
# Gaussian widths, photograph pixels, between the bands that grain is measured and made in.
_WIDTHS = (0.6, 1.2, 2.4)
_STRUCTURE = 4.8
_BLOCK = 8
# Sharpness within this ratio counts as equal: the estimate is no better on different faces.
_DEAD_ZONE = 1.15
_MOST_SHARPENING = 1.5
# Less missing variance than this (a third of an 8-bit step) is no grain.
_NO_GRAIN = (0.3 / 255) ** 2


def match_photo(crops: torch.Tensor, images: torch.Tensor, faces: Faces, masks: torch.Tensor, progress: Progress = silent) -> torch.Tensor:
    """Give crops ``[N, S, S, 3]`` the sharpness and grain of ``images`` ``[B, H, W, 3]``, all float32 0..1.

    masks: ``[N, S, S]``, where the crops will be pasted. A crop that is sharper than the photograph is blurred, one that is softer is
    sharpened (without halos), and then the grain that it lacks is added. The grain is the same for the same frame index and face number.
    """
    size = crops.shape[1]
    matrices = crop_matrices(faces, size)
    out = crops.clone()
    for i, face in enumerate(faces):
        progress(i, len(faces))
        if bool((masks[i] > 0.5).any()):
            image = images[face.frame].to(crops.device)
            whole = _site(image, matrices[i], (0, 0, size - 1, size - 1))
            site = _site(image, matrices[i], _extent(masks[i], 16 * float(scale_of(matrices[i]))))
            where = site.sample(masks[i][..., None], "zeros")[..., 0] > 0.5
            photo = _smaller_noise(measure_noise(whole.photo, _inside_square(whole, size)), measure_noise(site.photo, where))
            maker = _GrainMaker(photo, site, where, size, seed=face.frame * 1009 + i)
            grain = maker.lacking_in(crops[i])
            sharp = _match_sharpness(crops[i], grain, where, site)
            out[i] = (sharp + (grain if sharp is crops[i] else maker.lacking_in(sharp))).clamp(0, 1)
    progress(len(faces), len(faces))
    return out


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


def _blur(channels: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur ``[C, H, W]`` with a Gaussian of this many pixels, mirrored at the borders."""
    radius = min(math.ceil(3.5 * sigma), min(channels.shape[-2:]) - 1)
    return channels if radius < 1 else gaussian_blur(channels, sigma, radius)


def _opponent(picture: torch.Tensor) -> torch.Tensor:
    """Convert RGB ``[h, w, 3]`` to lightness and two colour differences, ``[3, h, w]``."""
    return torch.einsum("hwc,dc->dhw", picture, _OPPONENT.to(picture.device))


def edge_width(picture: torch.Tensor, where: torch.Tensor) -> float | None:
    """Measure how blurred the clear edges of a picture ``[h, w, 3]`` are inside ``where`` ``[h, w]`` bool.

    Returns the standard deviation of the Gaussian that blurs them, pixels; None where there are too few edges.

    The ratio of an edge's gradient before and after blurring it once more tells its width whatever its contrast (Zhuo & Sim 2011,
    "Defocus map estimation from a single image"). Both are measured after a slight blur that keeps noise from passing for edges.
    """
    if min(picture.shape[:2]) < 16:
        return None
    grey = picture.mean(-1)[None]
    if not bool(where.any()):
        return None
    for calm in (0.8, 1.6):
        first = _slope(_blur(grey, calm))
        # The quarter of flattest pixels has the slope that noise alone makes; an edge stands well above it.
        floor = 5 * float(torch.quantile(first[where][::7], 0.25))
        if floor < 0.012:
            break
    floor, again = max(0.012, floor), 1.5 * calm
    second = _slope(_blur(grey, math.hypot(calm, again)))
    edge = (first == F.max_pool2d(first[None], 3, 1, 1)[0]) & where & (first > floor)
    ratio = (first[edge] / second[edge].clamp_min(1e-6)).clamp_min(1.0 + 1e-3)
    if ratio.numel() < 30:
        return None
    strongest = first[edge] >= torch.quantile(first[edge], 0.5)
    width = again / (ratio[strongest].square() - 1).sqrt()
    return math.sqrt(max(float(torch.quantile(width, 0.6)) ** 2 - calm**2, 0.05))


def _slope(grey: torch.Tensor) -> torch.Tensor:
    """Return the length of the gradient of ``[1, h, w]``, by central differences."""
    padded = F.pad(grey[None], (1, 1, 1, 1), mode="replicate")[0, 0]
    across, down = padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]
    return torch.hypot(across, down)[None][0] / 2


def _match_sharpness(crop: torch.Tensor, grain: torch.Tensor, where: torch.Tensor, site: _Site) -> torch.Tensor:
    """Blur or sharpen a crop ``[S, S, 3]`` to the edge width of the photograph.

    The crop is measured with the ``grain`` ``[S, S, 3]`` that it will get: noise makes edges look sharper, in the photograph as well.
    """
    photo, mine = edge_width(site.photo, where), edge_width(site.sample(crop + grain), where)
    if photo is None or mine is None:
        return crop
    scale = float(scale_of(site.to_crop))
    channels = crop.movedim(-1, 0)
    if mine < photo / _DEAD_ZONE:
        return _blur(channels, math.sqrt(photo**2 - mine**2) * scale).movedim(0, -1)
    if mine > photo * _DEAD_ZONE:
        return _sharpen(channels, mine * scale, photo * scale).movedim(0, -1)
    return crop


def _sharpen(channels: torch.Tensor, width: float, target_width: float) -> torch.Tensor:
    """Sharpen ``[C, S, S]`` by an unsharp mask so that edges of Gaussian ``width`` get ``target_width`` (both in crop pixels).

    The gain follows from the slope at the middle of a blurred step; the result stays within what the neighbourhood already holds.
    """
    gain = (1 / target_width - 1 / width) / (1 / width - 1 / math.hypot(width, width))
    gain = min(gain, _MOST_SHARPENING)
    detail = channels - _blur(channels, width)
    reach = 2 * max(1, round(1.5 * width)) + 1
    high = F.max_pool2d(channels[None], reach, 1, reach // 2)[0]
    low = -F.max_pool2d(-channels[None], reach, 1, reach // 2)[0]
    return torch.minimum(torch.maximum(channels + gain * detail, low), high)


def _bands(channels: torch.Tensor) -> list[torch.Tensor]:
    """Split ``[C, H, W]`` into differences of Gaussians, finest first."""
    smooth = [channels, *(_blur(channels, width) for width in _WIDTHS)]
    return [fine - coarse for fine, coarse in pairwise(smooth)]


def _parts(noise: torch.Tensor) -> torch.Tensor:
    """Make the four noises that grain is mixed from, ``[4, C, H, W]`` of about unit variance, out of white noise ``[4, C, H, W]``.

    They are its finest band (to make up for resampling), white noise (a bare sensor), and two softer ones (demosaicing, denoising, JPEG).
    """
    _, norm = _spectra()
    channels = [noise[0] - _blur(noise[0], _WIDTHS[0]), noise[1], _blur(noise[2], 0.7), _blur(noise[3], 1.4)]
    return torch.stack([part / float(n) for part, n in zip(channels, norm, strict=True)])


@lru_cache
def _spectra() -> tuple[np.ndarray, np.ndarray]:
    """Return how much variance noise k of unit variance has in band j, ``[3, 4]``, and the norm of each noise's filter, ``[4]``."""
    axis = np.fft.fftfreq(128) * 2 * np.pi
    square = axis[:, None] ** 2 + axis**2
    smooth = [np.ones_like(square), *(np.exp(-square * width**2 / 2) for width in _WIDTHS)]
    band = np.stack([(fine - coarse) ** 2 for fine, coarse in pairwise(smooth)])
    part = np.stack([band[0], smooth[0], np.exp(-square * 0.7**2), np.exp(-square * 1.4**2)])
    norm = part.mean((1, 2))
    return np.einsum("jyx,kyx->jk", band, part) / square.size / norm, np.sqrt(norm)


@dataclass(frozen=True)
class _Noise:
    """The noise of a picture.

    variance: ``[3, 3]``, by band (finest first) and channel (``_opponent``). level: at lightness L the variance is
    ``level[0] + level[1] · L`` times that.
    """

    variance: np.ndarray
    level: tuple[float, float] = (1.0, 0.0)


def measure_noise(picture: torch.Tensor, where: torch.Tensor) -> _Noise | None:
    """Measure the noise of ``[h, w, 3]`` inside ``where`` ``[h, w]`` bool; None where fewer than four blocks can be judged.

    Blocks are ranked by their structure coarser than grain. The flattest fifth are taken for noise alone, and the result is their median
    variance in each band. The picture's blacks and whites, where clipping hides grain, are left out.
    """
    channels = _opponent(picture)
    if min(picture.shape[:2]) < 4 * _BLOCK:
        return None
    full = F.avg_pool2d(where[None].to(torch.float32), _BLOCK)[0] > 0.999
    light = F.avg_pool2d(picture.mean(-1)[None], _BLOCK)[0]
    spare = F.avg_pool2d(((picture <= 0.004) | (picture >= 0.996)).any(-1)[None].to(torch.float32), _BLOCK)[0]
    full &= (spare < 0.02) & (light > 0.03) & (light < 0.97)
    if int(full.sum()) < 4:
        return None
    coarse = _blur(channels, _WIDTHS[-1])
    structure = F.avg_pool2d((coarse - _blur(channels, _STRUCTURE)).square().sum(0)[None], _BLOCK)[0][full]
    structure += F.avg_pool2d(_slope(coarse[:1]).square()[None], _BLOCK)[0][full] * 4
    flat = _flattest(structure)
    power = torch.stack([F.avg_pool2d(band.square(), _BLOCK)[:, full] for band in _bands(channels)])
    variance = power[..., flat].median(-1).values.cpu().double().numpy()
    return _Noise(variance, _level(light[full], power[:, 0], structure, flat))


def _smaller_noise(around: _Noise | None, here: _Noise | None) -> _Noise | None:
    """Return the noise of the square ``around``, but no more than the original face ``here`` has.

    Texture adds to what is measured and never takes away from it, so the smaller of two measurements is the better one.
    """
    if around is None or here is None:
        return around
    return _Noise(np.minimum(around.variance, here.variance), around.level)


def _flattest(structure: torch.Tensor) -> torch.Tensor:
    """Return which of ``[K]`` blocks are the fifth with the least structure (a dozen at least), ``[K]`` bool."""
    return structure <= torch.quantile(structure, max(0.2, min(1.0, 12 / structure.numel())))


def _level(light: torch.Tensor, power: torch.Tensor, structure: torch.Tensor, flat: torch.Tensor) -> tuple[float, float]:
    """Fit a line to how the variance of the finest band, relative to that of the ``flat`` blocks, depends on lightness.

    light, structure: ``[K]`` of each block. power: ``[3, K]``, the lightness' variance in each band. The line goes through the medians of
    the flattest darker and of the flattest brighter blocks. Hair is dark, textured and never flat: blocks whose coarse bands are stronger
    than in noise are left out. Returns offset and slope; (1, 0) where the blocks are too few or too alike in lightness.
    """
    plain = power[2] / power[0].clamp_min(1e-12) < 2 * (power[2, flat].median() / power[0, flat].median().clamp_min(1e-12))
    bright = light > light[plain].median() if bool(plain.any()) else plain
    halves = (plain & ~bright, plain & bright)
    if min(int(half.sum()) for half in halves) < 12:
        return 1.0, 0.0
    (x0, y0), (x1, y1) = ((float(light[half][quiet].median()), float(power[0, half][quiet].median()))
                          for half in halves for quiet in (_flattest(structure[half]),))
    middle = float(light[flat].median())
    if x1 - x0 < 0.12:
        return 1.0, 0.0
    slope = (y1 - y0) / (x1 - x0)
    base = max(y0 + slope * (middle - x0), 0.25 * max(y0, y1), 1e-12)
    return (y0 - slope * x0) / base, slope / base


class _GrainMaker:
    """Makes grain for one crop that, pasted, looks like the photograph's.

    photo: the photograph's noise, or None where it could not be measured. parts: ``[4, 3, h, w]``, the noises that grain is mixed from.
    mixing: ``[3, 4]``, the variance in each band that sampling to the crop and back leaves of each of them.
    """

    def __init__(self, photo: _Noise | None, site: _Site, where: torch.Tensor, size: int, seed: int) -> None:
        self.photo, self.site, self.where, self.size = photo, site, where, size
        if photo is None:
            return
        height, width = site.photo.shape[:2]
        noise = torch.randn((4, 3, height, width), generator=torch.Generator().manual_seed(seed)).to(site.photo.device)
        self.parts = _parts(noise)
        back = site.sample(warp(self.parts[:, 0].movedim(0, -1), site.to_crop, size, size, "zeros"), "zeros")
        self.mixing = np.stack([band[:, where].square().mean(-1).cpu().numpy() for band in _bands(back.movedim(-1, 0))]).astype(np.float64)

    def lacking_in(self, crop: torch.Tensor) -> torch.Tensor:
        """Return the grain ``[S, S, 3]`` to add to a crop ``[S, S, 3]`` so that, pasted, it has as much as the photograph."""
        mine = measure_noise(self.site.sample(crop), self.where)
        if self.photo is None or mine is None:
            return torch.zeros_like(crop)
        # A face is seldom flat, and its texture passes for grain in the coarser bands. Taken as grain of the photograph's own spectrum,
        # the crop has as much of it as its poorest band shows.
        has = (mine.variance / np.maximum(self.photo.variance, 1e-12)).min(0)
        lacking = self.photo.variance * np.maximum(1 - has, 0)
        if lacking.sum() < _NO_GRAIN:
            return torch.zeros_like(crop)
        gains = np.stack([self._gains(lacking[:, channel]) for channel in range(3)], 1)
        weights = torch.from_numpy(np.sqrt(gains)).float().to(crop.device)
        grain = torch.einsum("kdhw,kd,dc->hwc", self.parts, weights, _OPPONENT.to(crop.device))
        offset, slope = self.photo.level
        strength = (offset + slope * crop.mean(-1, keepdim=True)).clamp(0.4, 2.5).sqrt()
        return warp(grain, self.site.to_crop, self.size, self.size, "zeros") * strength

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
