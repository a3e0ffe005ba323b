"""Reaches the planes of a decoded frame as arrays: turning upright, copying, changing depth and subsampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .library import require_av
from .pixel_formats import Layout, layout_of, nearest_planar, turned

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

# libswscale's flags: bicubic, full chroma resolution in and out, exact rounding, the same result on every machine.
EXACT = 0x4 | 0x2000 | 0x4000 | 0x40000 | 0x80000


def planes_of(frame: VideoFrame) -> list[np.ndarray]:
    """Return views of the planes of a planar frame, ``[h, w]`` uint8 or uint16: Y, U, V or G, B, R, and alpha last. Writing to them writes
    to the frame."""
    layout = layout_of(frame.format.name)
    dtype = np.dtype(np.uint8) if layout is None or layout.bits == 8 else np.dtype("<u2")
    views = []
    for plane in frame.planes:
        lines = np.frombuffer(memoryview(plane), dtype)  # type: ignore[arg-type]
        stride = plane.line_size // dtype.itemsize
        views.append(lines[: plane.height * stride].reshape(plane.height, stride)[:, : plane.width])
    return views


def empty_like(frame: VideoFrame, name: str, width: int = 0, height: int = 0) -> VideoFrame:
    """Return a frame with room for pixels of the format ``name`` and with the colour marks and times of another."""
    made = require_av().VideoFrame(width or frame.width, height or frame.height, name)
    return copy_marks(frame, made)


def copy_marks(source: VideoFrame, target: VideoFrame) -> VideoFrame:
    """Give a frame the colour marks and the time of another, and return it."""
    target.colorspace, target.color_range = source.colorspace, source.color_range
    target.color_primaries, target.color_trc = source.color_primaries, source.color_trc
    target.pts = source.pts
    if source.time_base is not None:
        target.time_base = source.time_base
    return target


def with_planes(frame: VideoFrame, name: str, arrays: list[np.ndarray]) -> VideoFrame:
    """Return a frame of the planar format ``name`` that holds these planes."""
    made = empty_like(frame, name, arrays[0].shape[1], arrays[0].shape[0])
    for target, values in zip(planes_of(made), arrays):
        target[:] = values
    return made


def upright_planar(frame: VideoFrame, rotation: int, size: tuple[int, int]) -> VideoFrame:
    """Return a decoded frame in a planar format, turned counter-clockwise by ``rotation`` degrees; without either need, the frame itself.

    The planes are turned as they are, chroma too, so nothing is rounded. size: (width, height) that the upright frame must have; a stream
    that changes its size half-way is scaled to it.
    """
    layout = nearest_planar(frame.format.name)
    turns = rotation // 90 % 4
    if turns % 2 and layout.sub_x > 1:  # 4:1:1 turned has no name
        layout = Layout("yuv", layout.bits, layout.alpha)
    before = size if turns % 2 == 0 else size[::-1]
    if layout_of(frame.format.name) != layout or (frame.width, frame.height) != before:
        frame = same_range_reformat(frame, layout.name, *before)
    if turns:
        name = (turned(layout) if turns % 2 else layout).name
        frame = with_planes(frame, name, [np.rot90(plane, turns) for plane in planes_of(frame)])
    return frame


def same_range_reformat(frame: VideoFrame, name: str, width: int = 0, height: int = 0) -> VideoFrame:
    """Change a frame's format or size by libswscale while matrix and range stay."""
    from av.video.reformatter import Interpolation

    made = frame.reformat(
        width=width or None,
        height=height or None,
        format=name,
        src_color_range=1,
        dst_color_range=1,
        src_colorspace=1,
        dst_colorspace=1,
        interpolation=Interpolation(EXACT),
    )
    return copy_marks(frame, made)


def as_layout(frame: VideoFrame, target: Layout, full_range: bool) -> VideoFrame:
    """Return a planar frame in another planar layout of the same family; the frame itself where it already is in it.

    Depth is changed value by value, subsampling by libswscale, and a plane of alpha that the layout lacks is left out.
    """
    source = layout_of(frame.format.name)
    if source is None or frame.format.name == target.name:
        return frame
    if (source.family, source.sub_x, source.sub_y) != (target.family, target.sub_x, target.sub_y):
        if (
            frame.format.name != source.name
        ):  # libswscale would change the range of a "yuvj" frame, which is the same planes by another name
            frame = with_planes(frame, source.name, planes_of(frame))
        return same_range_reformat(frame, target.name)
    planes = planes_of(frame)
    colors = 1 if target.family == "gray" else 3
    made = [
        _change_depth(plane, source, target, full_range, chroma=target.family == "yuv" and number > 0)
        for number, plane in enumerate(planes[:colors])
    ]
    if target.alpha and source.alpha:
        made.append(_change_depth(planes[-1], source, target, full_range=True, chroma=False))
    elif target.alpha:
        made.append(np.full(planes[0].shape, (1 << target.bits) - 1, _dtype(target.bits)))
    return with_planes(frame, target.name, made)


def _change_depth(plane: np.ndarray, source: Layout, target: Layout, full_range: bool, chroma: bool) -> np.ndarray:
    """Return the values of a plane with another number of bits, rounded: by a power of two, but full range (and RGB) so that white stays
    white."""
    if source.bits == target.bits:
        return plane
    old, new = (1 << source.bits) - 1, (1 << target.bits) - 1
    if full_range or source.family == "gbr":
        old_zero, new_zero = (1 << source.bits - 1, 1 << target.bits - 1) if chroma else (0, 0)
        values = (plane.astype(np.float64) - old_zero) * (new / old) + new_zero
    else:
        values = plane.astype(np.float64) * 2.0 ** (target.bits - source.bits)
    return np.rint(values).clip(0, new).astype(_dtype(target.bits))


def _dtype(bits: int) -> np.dtype:
    return np.dtype(np.uint8) if bits == 8 else np.dtype("<u2")
