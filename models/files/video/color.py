"""Converts between a clip's YUV and RGB by its matrix and range."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ...errors import FaceLoomError
from .marks import RGB
from .pixel_formats import Layout, layout_of
from .planes import EXACT, planes_of, same_range_reformat

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

# libswscale's number of each H.273 matrix, and the weights of red and blue in luma.
_SWS = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
_WHITE_16 = 255 << 8  # what libswscale takes for white in 16 bits, whatever the depth it comes from


def check_matrix(matrix: int) -> None:
    """Raise FaceLoomError where a clip's colour matrix is none that can be converted."""
    if matrix != RGB and matrix not in _WEIGHTS:
        raise FaceLoomError(
            f"The clip's colours are coded by matrix {matrix} of ITU-T H.273, which is not supported; convert it to BT.709 first."
        )


def to_rgb(frame: VideoFrame, matrix: int, full_range: bool) -> np.ndarray:
    """Convert a planar frame to RGB or RGBA ``[H, W, 3|4]`` with its own matrix and range.

    uint8 from formats of 8 bits, else uint16 whose white is ``white_of``. Alpha is not premultiplied and not changed but in depth.
    """
    layout = layout_of(frame.format.name)
    assert layout is not None  # frames are planar once they are read
    planes = planes_of(frame)
    if layout.family == "gbr":
        colors = [planes[2], planes[0], planes[1]]
    elif layout.family == "gray" or (full_range and layout.bits > 8):
        colors = _exact_rgb(frame, layout, matrix, full_range)
    else:
        colors = _yuv_to_rgb(frame, layout, matrix, full_range)
    if layout.alpha:
        colors.append(_scaled_alpha(planes[-1], layout))
    return np.stack(colors, -1)


def white_of(layout: Layout) -> int:
    """Return which value is white (and opaque) in the arrays of ``to_rgb``."""
    if layout.bits == 8:
        return 255
    return (1 << layout.bits) - 1 if layout.family == "gbr" else _WHITE_16


def _scaled_alpha(plane: np.ndarray, layout: Layout) -> np.ndarray:
    """Return a plane of alpha with the same white as the colours beside it."""
    if layout.bits == 8 or layout.family == "gbr":
        return plane
    return (plane.astype(np.uint32) * _WHITE_16 // ((1 << layout.bits) - 1)).astype(np.uint16)


def _exact_rgb(frame: VideoFrame, layout: Layout, matrix: int, full_range: bool) -> list[np.ndarray]:
    """Return the planes R, G and B by the definition of Y'CbCr, where libswscale is wrong: it takes grey for full range always, and full
    range of more than 8 bits for up to 1.5 levels too dark."""
    white, levels, unit = white_of(layout), (1 << layout.bits) - 1, 1 << (layout.bits - 8)
    scale, black, chroma_scale = (levels, 0, levels) if full_range else (219 * unit, 16 * unit, 224 * unit)
    if layout.sub_x or layout.sub_y:
        frame = same_range_reformat(frame, Layout("yuv", layout.bits).name)
    planes = [plane.astype(np.float32) for plane in planes_of(frame)]
    luma = (planes[0] - black) / scale
    if layout.family == "gray":
        colors = [luma] * 3
    else:
        red_weight, blue_weight = _WEIGHTS.get(matrix, _WEIGHTS[1])
        blue, red = (
            luma + 2 * (1 - weight) * (plane - 128 * unit) / chroma_scale for plane, weight in zip(planes[1:], (blue_weight, red_weight))
        )
        colors = [red, (luma - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight), blue]
    return [np.rint(color.clip(0, 1) * white).astype(np.uint8 if layout.bits == 8 else np.uint16) for color in colors]


def _yuv_to_rgb(frame: VideoFrame, layout: Layout, matrix: int, full_range: bool) -> list[np.ndarray]:
    """Return the planes R, G and B of a YUV frame by libswscale."""
    from av.video.reformatter import Interpolation

    space = _SWS.get(matrix, 1)
    rgb = frame.reformat(
        format="gbrp" if layout.bits == 8 else "gbrp16le",
        src_colorspace=space,
        dst_colorspace=space,
        src_color_range=2 if full_range else 1,
        dst_color_range=2,
        interpolation=Interpolation(EXACT),
    )
    green, blue, red = planes_of(rgb)
    if layout.bits == 8:
        return [red, green, blue]
    return [np.minimum(plane, _WHITE_16) for plane in (red, green, blue)]


def to_tensor(pixels: np.ndarray, white: int) -> torch.Tensor:
    """Turn integers ``[H, W, C]`` into float32 in 0..1."""
    if pixels.dtype == np.uint16:
        pixels = pixels.astype(np.int32)  # torch before 2.3 knows no uint16
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(torch.float32).div_(white)


def from_rgb(image: torch.Tensor, layout: Layout, matrix: int, full_range: bool) -> list[np.ndarray]:
    """Convert ``[H, W, 3]`` float32 in 0..1 to the colour planes of a layout, in its order (Y, U, V or G, B, R), rounded to the nearest
    value.

    Chroma is the mean of the pixels it stands for, which is where libswscale puts it; sides that are odd repeat their last line for it.
    """
    values = image.detach().to("cpu", torch.float32).clamp(0, 1).numpy()
    levels = (1 << layout.bits) - 1
    dtype = np.uint8 if layout.bits == 8 else np.dtype("<u2")
    if layout.family == "gbr":
        return [np.rint(values[..., channel] * levels).astype(dtype) for channel in (1, 2, 0)]
    red_weight, blue_weight = _WEIGHTS.get(matrix, _WEIGHTS[1])
    red, green, blue = (values[..., channel] for channel in range(3))
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    unit = 1 << (layout.bits - 8)
    scale, black, chroma_scale = (levels, 0, levels) if full_range else (219 * unit, 16 * unit, 224 * unit)
    planes = [np.rint(luma * scale + black).astype(dtype)]
    if layout.family == "gray":
        return planes
    for color, weight in ((blue, blue_weight), (red, red_weight)):
        chroma = _block_means((color - luma) / (2 * (1 - weight)), layout)
        planes.append(np.rint(chroma * chroma_scale + 128 * unit).clip(0, levels).astype(dtype))
    return planes


def _block_means(plane: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the mean of each block of pixels that shares a value of chroma."""
    wide, high = 1 << layout.sub_x, 1 << layout.sub_y
    if wide == high == 1:
        return plane
    height, width = plane.shape
    plane = np.pad(plane, ((0, -height % high), (0, -width % wide)), "edge")
    return plane.reshape(-(-height // high), high, -(-width // wide), wide).mean((1, 3))


def alpha_plane(alpha: torch.Tensor, layout: Layout) -> np.ndarray:
    """Convert ``[H, W]`` in 0..1 to a plane of alpha."""
    values = np.rint(alpha.detach().to("cpu", torch.float32).clamp(0, 1).numpy() * ((1 << layout.bits) - 1))
    return values.astype(np.uint8 if layout.bits == 8 else np.dtype("<u2"))
