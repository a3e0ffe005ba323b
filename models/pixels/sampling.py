"""Samples images through a matrix ``[2, 3]`` from image to crop pixels, with the filter that the scale needs: bicubic, Lanczos or area."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from .affine import bounds, invert, scale_of
from .magnify import double_resolution

# From this many image pixels per crop pixel on, a crop is area filtered; below, a bicubic look-up aliases too little to see.
_AREA_FILTER_FROM = 1.25
# Up to this many image pixels per crop pixel, the image is made twice as fine first.
_DOUBLE_UP_TO = 0.5


def sampling_grid(to_image: np.ndarray, height: int, width: int, image_height: int, image_width: int,
                  device: torch.device | str = "cpu", step: float = 1.0) -> torch.Tensor:
    """Return the grid ``[N, height, width, 2]`` with which ``grid_sample(align_corners=False)`` reads crops out of an image.

    to_image: crop → image, ``[N, 2, 3]`` or ``[2, 3]``. step: above 1 only the crop pixels of a ``lattice`` are read. In memory the x and
    the y are two planes, which are computed several times as fast as pairs.
    """
    m = _to_grid(np.asarray(to_image).reshape(-1, 2, 3), image_height, image_width)
    across = m[..., :1] * lattice(width, step) + m[..., 2:]
    down = m[..., 1:2] * lattice(height, step)
    planes = torch.from_numpy(across).to(device)[:, :, None] + torch.from_numpy(down).to(device)[..., None]
    return planes.permute(0, 2, 3, 1)


def _to_grid(to_image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Turn matrices ``[..., 2, 3]`` to image pixels into float32 ones to the coordinates of ``grid_sample``, -1..1 across the image."""
    size = np.array([width, height], np.float64)
    m = np.asarray(to_image, np.float64) * (2 / size)[:, None]
    m[..., 2] += 1 / size - 1
    return m.astype(np.float32)


def read_grid(planes: torch.Tensor, grid: torch.Tensor, mode: str, padding: str) -> torch.Tensor:
    """Read ``planes`` ``[1, C, h, w]`` at ``grid`` ``[1, H, W, 2]`` by ``grid_sample(align_corners=False)``: ``[C, H, W]``.

    On the CPU torch gives each picture of a batch to one thread, and so a single picture to a single thread; the grid's rows are
    therefore dealt out as a batch.
    """
    parts = min(torch.get_num_threads(), grid.shape[1] // 32) if planes.device.type == "cpu" else 1
    if parts < 2:
        return F.grid_sample(planes, grid, mode=mode, padding_mode=padding, align_corners=False)[0]
    share = grid.shape[1] // parts
    dealt = grid[0].unfold(0, grid.shape[1] - share * (parts - 1), share).permute(0, 3, 1, 2)  # the last few rows of a part twice
    out = F.grid_sample(planes.expand(parts, -1, -1, -1), dealt, mode=mode, padding_mode=padding, align_corners=False)
    return torch.cat([*out[:-1, :, :share], out[-1]], 1)


def lattice(edge: int, step: float) -> np.ndarray:
    """Return whole pixel positions, float32, about ``step`` apart and centred on ``edge`` pixels; all of them for a step of 1."""
    if step <= 1:
        return np.arange(edge, dtype=np.float32)
    return np.floor(np.arange(step / 2, edge, step, dtype=np.float32))


def read_region(image: torch.Tensor, to_image: np.ndarray, height: int, width: int) -> tuple[torch.Tensor, np.ndarray]:
    """Return the part of ``image`` ``[H, W, C]`` that a ``height`` × ``width`` crop needs, ready for one bicubic look-up per crop pixel.

    to_image: crop → image, ``[2, 3]``. Returns the region ``[1, C, h, w]`` float32, and crop → region ``[2, 3]``. Where the crop is coarser
    than the image, the region is area filtered: it is averaged over whole blocks down to about two samples per crop pixel (finer than the
    crop, so that the bicubic look-up costs no sharpness), and then goes through a three-tap kernel that has, together with the blocks, the
    response of a box as wide as a crop pixel at half the band.
    """
    shrink = float(scale_of(to_image))  # image pixels per crop pixel
    pool = _block_size(shrink)
    rest = shrink / pool
    rows, columns = source_window(to_image, height, width, *image.shape[:2])
    region = image[rows, columns].to(torch.float32)
    to_region = to_image.copy()
    to_region[:, 2] -= (columns.start, rows.start)
    if pool > 1:
        region = _block_means(_block_means(region, pool, 0), pool, 1)
        to_region /= pool
        to_region[:, 2] += 0.5 / pool - 0.5
    if shrink > _AREA_FILTER_FROM:
        side = (1 - np.sinc(rest / 4) / (np.sinc(0.25) if pool > 1 else 1)) / 2
        region = _soften(_soften(region, side, 0), side, 1)
    return region.permute(2, 0, 1)[None], to_region


def source_window(to_image: np.ndarray, height: int, width: int, image_height: int, image_width: int) -> tuple[slice, slice]:
    """Return rows and columns of the image pixels that a crop of ``height`` × ``width`` pixels is made of.

    to_image: ``[2, 3]`` crop → image. Both slices hold at least one pixel, wherever the crop lies.
    """
    left, top, right, bottom = bounds(to_image, -.5, -.5, width - .5, height - .5)
    # As far as a bicubic look-up reaches, and the filter that makes pictures finer.
    margin = max(3 * _block_size(float(scale_of(to_image))), 4)
    x0, y0 = min(max(math.floor(left) - margin, 0), image_width - 1), min(max(math.floor(top) - margin, 0), image_height - 1)
    x1, y1 = (min(max(math.ceil(high) + margin + 1, low + 1), limit)
              for low, high, limit in ((x0, right, image_width), (y0, bottom, image_height)))
    return slice(y0, y1), slice(x0, x1)


def _block_size(shrink: float) -> int:
    """Return how many image pixels, along each axis, are averaged first where a crop pixel spans ``shrink`` of them."""
    return max(1, int(shrink / 2 + 0.75)) if shrink > _AREA_FILTER_FROM else 1


def _block_means(region: torch.Tensor, count: int, dim: int) -> torch.Tensor:
    """Average blocks of ``count`` neighbours along ``dim`` of ``[h, w, C]``; the last pixel repeats to fill the last block."""
    size = region.shape[dim]
    blocks = -(-size // count)
    total = region.new_zeros([blocks if d == dim else edge for d, edge in enumerate(region.shape)])
    for i in range(count):
        whole = (size - i + count - 1) // count
        picked = region[i::count] if dim == 0 else region[:, i::count]
        total.narrow(dim, 0, whole).add_(picked)
        if whole < blocks:
            total.narrow(dim, whole, 1).add_(region.narrow(dim, size - 1, 1))
    return total.div_(count)


def _soften(region: torch.Tensor, side: float, dim: int) -> torch.Tensor:
    """Filter ``[h, w, C]`` with the kernel ``side, 1 - 2 side, side`` along ``dim``; the border repeats."""
    last = region.shape[dim] - 1
    out = region * (1 - 2 * side)
    out.narrow(dim, 1, last).add_(region.narrow(dim, 0, last), alpha=side)
    out.narrow(dim, 0, last).add_(region.narrow(dim, 1, last), alpha=side)
    out.narrow(dim, 0, 1).add_(region.narrow(dim, 0, 1), alpha=side)
    out.narrow(dim, last, 1).add_(region.narrow(dim, last, 1), alpha=side)
    return out


def warp(image: torch.Tensor, matrix: np.ndarray, height: int, width: int, padding: str = "border", step: float = 1.0,
         mode: str = "bicubic") -> torch.Tensor:
    """Sample one image ``[H, W, C]`` through ``matrix`` ``[2, 3]``, image → crop, to ``[height, width, C]`` float32.

    The filter is bicubic where the crop is as fine as the image or finer, Lanczos' where it is more than twice as fine, and an area filter
    where it is coarser, so that nothing aliases. Only the region needed is read. padding: ``"border"`` repeats the edge, ``"zeros"`` gives
    0 outside. step: above 1 only the crop pixels of that ``lattice`` are computed, with the same values. mode: ``"bilinear"`` for masks,
    which must not ring.
    """
    to_image = invert(np.asarray(matrix, np.float64))
    region, to_region = read_region(image, to_image, height, width)
    if mode == "bicubic" and float(scale_of(to_image)) <= _DOUBLE_UP_TO:
        region, to_region, mode = double_resolution(region), 2 * to_region, "bilinear"
        to_region[:, 2] += 0.5
    grid = sampling_grid(to_region, height, width, region.shape[2], region.shape[3], image.device, step)
    return read_grid(region, grid, mode, padding).permute(1, 2, 0)


def sample_crops(images: torch.Tensor, frames: Sequence[int] | np.ndarray, matrices: np.ndarray, size: int,
                 step: float = 1.0) -> torch.Tensor:
    """Cut crops ``[N, size, size, C]`` float32 0..1 out of ``images`` ``[B, H, W, C]`` (any device and float type), one per matrix.

    frames: ``[N]``, the image of each crop. matrices: image → crop, ``[N, 2, 3]``. Outside the image the border repeats. step: above 1 only
    the pixels of that ``lattice`` are computed.
    """
    edge = len(lattice(size, step))
    out = torch.empty((len(matrices), edge, edge, images.shape[-1]), dtype=torch.float32, device=images.device)
    for i, (frame, matrix) in enumerate(zip(frames, matrices, strict=True)):
        out[i] = warp(images[int(frame)], matrix, size, size, step=step).clamp_(0, 1)
    return out
