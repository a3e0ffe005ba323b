"""Masks ``[N, H, W]`` float32 0..1: drawing polygons, growing, feathering, and fitting what is connected to a mask socket."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import FaceLoomError
from .resize import resize_bilinear

# The distance of pixels that no border is within reach of.
_OUT_OF_REACH = 1e6
# Added and subtracted again, it rounds a float64 to multiples of 2^-32.
_ROUNDING = 2.0**20
# The distance from an anti-aliased edge is this times the logit of the edge blurred by [1 2 1] / 4: the standard deviation of both, over
# the 1.702 that makes a logistic function most like an error function.
_EDGE_WIDTH = math.sqrt(0.5 + 1 / 12) / 1.702


def polygon_mask(points: np.ndarray | Sequence, height: int, width: int) -> torch.Tensor:
    """Draw a filled polygon: ``[height, width]`` float32 on the CPU, the exact share of every pixel's square that lies inside.

    points: ``[K, 2]`` (x, y), the last joined to the first, or a list of such polygons whose signed areas add up (a hole is a polygon
    that runs the other way round). Integers are pixel centres: pixel (0, 0) is the square from -0.5 to 0.5. Parts outside the picture
    are clipped exactly. NaN and infinite points are an error.

    Areas are accumulated: each edge is cut at the pixel grid and adds its coverage to its own pixel and to all pixels right of it, by one
    running sum per row. The cost is the outline's length plus one pass over its bounding box.
    """
    polygons = [points] if len(points) and np.ndim(points[0]) == 1 else points
    polygons = [np.asarray(polygon, np.float64) + 0.5 for polygon in polygons]
    if not all(np.isfinite(polygon).all() for polygon in polygons):
        raise FaceLoomError("A mask outline contains NaN or infinite points; check the landmarks it was made from.")
    mask = torch.zeros((height, width))
    corners = np.concatenate([np.zeros((0, 2)), *polygons])
    if not len(corners):
        return mask
    low = np.clip(np.floor(corners.min(0)), 0, (width, height)).astype(int)
    high = np.clip(np.floor(corners.max(0)) + 1, 0, (width, height)).astype(int)
    columns, rows = (high - low).tolist()  # nothing can be covered outside this window
    if columns > 0 and rows > 0:
        steps = [_coverage_steps(polygon - low, rows, columns) for polygon in polygons]
        coverage = torch.from_numpy(sum(steps[1:], steps[0])).cumsum(1)[:, :columns].abs_()
        coverage.add_(_ROUNDING).sub_(_ROUNDING)  # the sums' last bits would leave 1e-16 where nothing is covered
        mask[low[1] : high[1], low[0] : high[0]] = coverage.clamp_(max=1)
    return mask


def _coverage_steps(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Compute by how much one polygon's coverage changes from each pixel to the next: ``[height, width + 1]`` float64.

    Pixel (0, 0) is the square from 0 to 1 here.
    """
    start, step = polygon, np.roll(polygon, -1, 0) - polygon
    # Places on the outline are numbers: k is a corner, k + t lies between corners k and k + 1 at the share t.
    cuts = [np.arange(len(polygon) + 1.0)]
    for axis, limit in ((0, width), (1, height)):
        ends = start[:, axis], start[:, axis] + step[:, axis]
        first = np.clip(np.floor(np.minimum(*ends)) + 1, 0, limit + 1).astype(np.int64)
        last = np.clip(np.ceil(np.maximum(*ends)) - 1, -1, limit).astype(np.int64)
        count = np.maximum(last - first + 1, 0)
        edge = np.repeat(np.arange(len(polygon)), count)
        line = np.arange(len(edge)) + (first - np.cumsum(count) + count)[edge]
        cuts.append(edge + (line - start[edge, axis]) / step[edge, axis])
    cut = np.sort(np.concatenate(cuts))
    middle = (cut[1:] + cut[:-1]) / 2
    edge = np.minimum(middle.astype(np.int64), len(polygon) - 1)
    rise = step[edge, 1] * (cut[1:] - cut[:-1])
    middle -= edge
    x, y = (start[edge, axis] + step[edge, axis] * middle for axis in (0, 1))
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    visible = (row >= 0) & (row < height) & (column < width)
    column, row, rise, x = column[visible], row[visible], rise[visible], x[visible]
    share = np.where(column < 0, 0, x - column)
    index = row * (width + 1) + np.maximum(column, 0)
    steps = np.bincount(np.concatenate([index, index + 1]), np.concatenate([rise * (1 - share), rise * share]), height * (width + 1))
    return steps.reshape(height, width + 1).astype(np.float64, copy=False)  # bincount of nothing returns integers


def grow_mask(mask: torch.Tensor, pixels: float) -> torch.Tensor:
    """Grow masks ``[..., H, W]`` by ``pixels`` (shrink them where negative; fractions count), with round corners.

    The border, where the mask passes 0.5, is moved. The moved border is one pixel wide; growing never lowers a value and shrinking never
    raises one, so softer slopes stay on the other side. The picture's own edge is no border.
    """
    if pixels == 0 or mask.numel() == 0:
        return mask
    distance = signed_distance(mask, abs(pixels) + 1, coarse=max(1, min(3, int(abs(pixels) / 24))))
    moved = (0.5 + pixels - distance).clamp(0, 1)
    return torch.maximum(mask, moved) if pixels > 0 else torch.minimum(mask, moved)


def feather_mask(mask: torch.Tensor, pixels: float, side: str = "both") -> torch.Tensor:
    """Give the border of masks ``[..., H, W]`` a ramp ``pixels`` wide.

    side: ``"inside"`` is 0 at the border, 1 at ``pixels`` inside it, and nowhere above the given mask; ``"both"`` is 0.5 at the border
    and has half of the ramp on each side. The ramp is smootherstep of the distance (Perlin 2002), whose slope and curvature vanish at
    both ends, so that no Mach band shows. Parts thinner than the ramp keep a lower peak instead of vanishing.
    """
    if side not in ("inside", "both"):
        raise FaceLoomError(f'Feather side must be "inside" or "both", not "{side}".')
    if pixels < 0:
        raise FaceLoomError("Feather must be 0 or more pixels.")
    if pixels == 0 or mask.numel() == 0:
        return mask
    if side == "inside":
        distance = signed_distance(mask, pixels, coarse=max(1, int(pixels / 10)))
        return torch.minimum(mask, _smootherstep(-distance / pixels))
    distance = signed_distance(mask, pixels / 2, coarse=max(1, int(pixels / 16)))
    return _smootherstep(0.5 - distance / pixels)


def _smootherstep(x: torch.Tensor) -> torch.Tensor:
    """Compute Perlin's polynomial from 0 at ``x`` = 0 to 1 at ``x`` = 1."""
    x = x.clamp(0, 1)
    return x * x * x * (x * (x * 6 - 15) + 10)


def signed_distance(mask: torch.Tensor, reach: float, coarse: int = 1) -> torch.Tensor:
    """Measure the Euclidean distance in pixels to the border, where masks ``[..., H, W]`` pass 0.5; it is negative inside: ``[..., H, W]``.

    Beyond ``reach`` only the sign counts. The values of border pixels tell where the border lies between pixel centres (as in Gustavson &
    Strand 2011, "Anti-aliased Euclidean distance transform"); the mean error on anti-aliased shapes is 0.05 pixels. Columns are measured
    by a running maximum and rows within a window of ``reach``, so the cost is pixels times ``reach``. coarse: above 1, it works on that
    many times fewer pixels in each direction and interpolates.
    """
    height, width = mask.shape[-2:]
    flat = mask.reshape(-1, height, width).to(torch.float32)
    if coarse > 1:
        pad = (0, -width % coarse, 0, -height % coarse)
        flat = F.avg_pool2d(F.pad(flat[:, None], pad, mode="replicate"), coarse)[:, 0]
    inside = flat >= 0.5
    window = math.ceil(reach / coarse) + 2
    outward = _distance_to(inside, flat, window)
    inward = _distance_to(~inside, 1 - flat, window)
    distance = torch.where(inside, -inward, outward)
    if coarse > 1:
        distance = distance.clamp(-window, window) * coarse
        size = (distance.shape[1] * coarse, distance.shape[2] * coarse)
        distance = F.interpolate(distance[:, None], size=size, mode="bicubic", align_corners=False)[:, 0, :height, :width]
    return distance.reshape(mask.shape)


def _distance_to(seeds: torch.Tensor, coverage: torch.Tensor, window: int) -> torch.Tensor:
    """Measure the distance of every pixel to the border of ``seeds`` ``[N, H, W]`` bool: exact up to ``window`` pixels, larger beyond.

    coverage: how much of each pixel the seeds cover, 0..1.
    """
    height, width = seeds.shape[-2:]
    # How far the border lies beyond a seed's centre: a slightly blurred edge is an error function of known width, which is inverted.
    kernel = coverage.new_tensor([1.0, 2.0, 1.0]) / 4
    blurred = F.conv2d(F.pad(coverage[:, None], (1, 1, 1, 1), mode="replicate"), (kernel[:, None] * kernel)[None, None])[:, 0]
    overhang = (torch.logit(blurred, 1e-3) * _EDGE_WIDTH).clamp_(max=0.75)
    overhang = torch.maximum(overhang, coverage - 0.5)  # corners
    rows = torch.arange(height, device=seeds.device, dtype=torch.float32)[:, None]
    above = torch.where(seeds, rows, -_OUT_OF_REACH).cummax(1).values
    below = torch.where(seeds, -rows, -_OUT_OF_REACH).flip(1).cummax(1).values.flip(1).neg()
    up, down = rows - above, below - rows
    nearest = torch.where(up <= down, above, below).clamp(0, height - 1).to(torch.int64)
    vertical = torch.minimum(up, down)
    overhang = overhang.gather(1, nearest)
    window = min(window, width - 1)
    vertical = F.pad(vertical.square(), (window, window), value=_OUT_OF_REACH**2)
    overhang = F.pad(overhang, (window, window))
    best = torch.full_like(coverage, _OUT_OF_REACH)
    for shift in range(-window, window + 1):
        part = slice(window + shift, window + shift + width)
        best = torch.minimum(best, (vertical[:, :, part] + shift * shift).sqrt_() - overhang[:, :, part])
    return best


def nonzero_bounds(mask: torch.Tensor) -> tuple[int, int, int, int] | None:
    """Find the rectangle (x0, y0, x1, y1; the last two exclusive) of the pixels of ``[H, W]`` above 0; None where there are none."""
    used = torch.cat([mask.amax(0), mask.amax(1)]).cpu().numpy() > 0
    columns, rows = np.flatnonzero(used[: mask.shape[1]]), np.flatnonzero(used[mask.shape[1] :])
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else None


def is_placeholder(mask: torch.Tensor) -> bool:
    """Tell whether a mask is the 64×64 zeros that ComfyUI's LoadImage sends for a picture without alpha, where no mask was meant."""
    return tuple(mask.shape[-2:]) == (64, 64) and not bool(mask.any())


def fit_mask(mask: torch.Tensor, count: int, height: int, width: int, name: str = "mask") -> torch.Tensor:
    """Turn what is connected to a mask socket into ``[count, height, width]`` float32 0..1 on its own device.

    One mask is shared by all, as many as ``count`` are one for each, and several for a ``count`` of 1, as segmentation nodes give them, are
    taken together; any other number is an error. Takes ``[H, W]``, ``[B, H, W]``, ``[B, 1, H, W]`` or ``[B, H, W, 1]`` of any size and
    type, bool and uint8 included. LoadImage's placeholder (see ``is_placeholder``) becomes zeros. NaN is an error. name: what errors call
    the socket.
    """
    if is_placeholder(mask):
        return mask.new_zeros((count, height, width), dtype=torch.float32)
    return fit_shared_mask(mask, count, (height, width), name).expand(count, height, width)


def fit_shared_mask(mask: torch.Tensor, count: int, size: tuple[int, int] | None, name: str = "mask") -> torch.Tensor:
    """Do what ``fit_mask`` does for a ``size`` (height, width), None being the mask's own, but return one mask that is shared by all as
    ``[1, H, W]``, and a placeholder as it is."""
    if mask.ndim == 4 and 1 in (mask.shape[1], mask.shape[-1]):
        mask = mask[:, 0] if mask.shape[1] == 1 else mask[..., 0]
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or 0 in mask.shape[1:]:
        raise FaceLoomError(f"The {name} must be a mask [B, H, W], not {tuple(mask.shape)}; convert an image with Convert Image to Mask.")
    mask = mask.to(torch.float32) / 255 if mask.dtype == torch.uint8 else mask.to(torch.float32)
    if len(mask) > 1:
        mask = mask.amax(0, keepdim=True) if count == 1 else mask
        check_count(len(mask), count, name)
    low, high = torch.stack(torch.aminmax(mask)).tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise FaceLoomError(f"The {name} contains NaN or infinite values; check the node before it.")
    if low < 0 or high > 1:
        mask = mask.clamp(0, 1)
    if size is not None and tuple(mask.shape[1:]) != size:
        mask = resize_bilinear(mask, *size).clamp(0, 1)
    return mask


def check_count(number: int, count: int, name: str) -> None:
    """Raise unless there is one ``name`` for all, or one for each of ``count`` faces or pictures."""
    if number not in (1, count):
        raise FaceLoomError(f"The {name} has {number} pictures but {count} are needed; connect one for all, or one for each.")
