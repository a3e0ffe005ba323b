"""Puts changed pixels into a decoded frame and leaves every other value as it was decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch

from ...errors import FaceLoomError
from .color import alpha_plane, from_rgb
from .frame import ClipFrame
from .pixel_formats import Layout, layout_of
from .planes import as_layout, planes_of, with_planes

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

Part = tuple[slice, slice]  # rows and columns of a frame


def frame_to_encode(
    frame: ClipFrame,
    image: torch.Tensor | None,
    alpha: torch.Tensor | None,
    layout: Layout,
    colors: tuple[int, bool],
    part: Part | None = None,
) -> VideoFrame:
    """Return what the encoder gets for a frame: the decoded planes, with the pixels of ``image`` that differ from the frame's own put in.

    image: ``[H, W, 3]`` float32 in 0..1, or None where nothing was changed. part: where it is only a part of the frame, which part. alpha:
    ``[H, W]``, or None to keep the frame's. layout, colors: the encoder's planar format, its matrix and whether it is full range. Where the
    layout has no transparency the frame is laid on white.
    """
    base = _base(frame, layout)
    if base is None:
        return _converted(frame, None if image is None else frame.with_part(image, part), alpha, layout, colors)
    if image is not None:
        base = _patched(base, image, frame, layout, colors, part)
    if alpha is not None and layout.alpha:
        base = with_planes(base, layout.name, [*planes_of(base)[:-1], alpha_plane(alpha, layout)])
    return base


def _base(frame: ClipFrame, layout: Layout) -> VideoFrame | None:
    """Return the decoded planes in the encoder's layout, or None where they cannot be taken over: pictures, RGB that becomes YUV, and
    transparency that the layout lacks."""
    if frame.native is None:
        return None
    own = layout_of(frame.native.format.name)
    if own is None or (own.alpha and not layout.alpha) or (own.family != layout.family and own.family != "gray"):
        return None
    return as_layout(frame.native, layout, frame.full_range)


def _converted(
    frame: ClipFrame, image: torch.Tensor | None, alpha: torch.Tensor | None, layout: Layout, colors: tuple[int, bool]
) -> VideoFrame:
    """Return a frame converted from RGB as a whole."""
    from .library import require_av

    image = frame.image() if image is None else image
    _check_size(image, frame)
    alpha = frame.alpha() if alpha is None else alpha
    if alpha is not None and not layout.alpha:
        cover = alpha.to(image)[..., None]
        image = image * cover + (1 - cover)
    planes = from_rgb(image, layout, *colors)
    if layout.alpha:
        planes.append(alpha_plane(torch.ones(image.shape[:2]) if alpha is None else alpha, layout))
    made = require_av().VideoFrame(image.shape[1], image.shape[0], layout.name)
    for target, values in zip(planes_of(made), planes):
        target[:] = values
    return made


def _check_size(image: torch.Tensor, frame: ClipFrame) -> None:
    """Raise FaceLoomError where an image is not of the frame's size."""
    if image.shape != (*frame.size, 3):
        _refuse_size(image, frame)


def _refuse_size(image: torch.Tensor, frame: ClipFrame) -> NoReturn:
    """Raise FaceLoomError for an image that is not of the frame's size."""
    height, width = frame.size
    raise FaceLoomError(
        f"Frame {frame.index} is {width}x{height} but the image for it is {tuple(image.shape)}; give [{height}, {width}, 3]."
    )


def _patched(
    base: VideoFrame, image: torch.Tensor, frame: ClipFrame, layout: Layout, colors: tuple[int, bool], part: Part | None
) -> VideoFrame:
    """Return a copy of ``base`` with the changed pixels converted and put in, or ``base`` where none are; part: as of
    ``frame_to_encode``."""
    height, width = frame.size
    if part is None or not _holds_whole_blocks(part, layout, height, width):
        image, part = frame.with_part(image, part), (slice(0, height), slice(0, width))
    own = frame.image(part)
    if image.shape != own.shape:
        _refuse_size(image, frame)
    changed = (image.detach().cpu() != own).any(-1).numpy()
    box = _box_of(changed, layout)
    if box is None:
        return base
    top, bottom, left, right = box
    mask = changed[top:bottom, left:right]
    made = with_planes(base, layout.name, planes_of(base))
    patches = from_rgb(image[top:bottom, left:right], layout, *colors)
    top, left = top + part[0].start, left + part[1].start
    for number, (plane, patch) in enumerate(zip(planes_of(made), patches)):
        chroma = layout.family == "yuv" and number > 0
        sub_x, sub_y = (layout.sub_x, layout.sub_y) if chroma else (0, 0)
        where = _any_in_blocks(mask, 1 << sub_y, 1 << sub_x)
        at = plane[top >> sub_y :, left >> sub_x :][: patch.shape[0], : patch.shape[1]]
        at[where] = patch[where]
    return made


def _holds_whole_blocks(part: Part, layout: Layout, height: int, width: int) -> bool:
    """Tell whether no block of pixels that share a value of chroma lies partly in a part of the frame."""
    sides = ((part[0], 1 << layout.sub_y, height), (part[1], 1 << layout.sub_x, width))
    return all(side.start % block == 0 and (side.stop % block == 0 or side.stop == end) for side, block, end in sides)


def _box_of(changed: np.ndarray, layout: Layout) -> tuple[int, int, int, int] | None:
    """Return the smallest box (top, bottom, left, right) around what changed whose sides lie between blocks of chroma; None where nothing
    did."""
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    if not len(rows):
        return None
    high, wide = 1 << layout.sub_y, 1 << layout.sub_x
    top, left = rows[0] // high * high, columns[0] // wide * wide
    return top, min(-(-(rows[-1] + 1) // high) * high, changed.shape[0]), left, min(-(-(columns[-1] + 1) // wide) * wide, changed.shape[1])


def _any_in_blocks(mask: np.ndarray, high: int, wide: int) -> np.ndarray:
    """Return for each block of pixels whether one of it is set."""
    height, width = mask.shape
    mask = np.pad(mask, ((0, -height % high), (0, -width % wide)))
    return mask.reshape(-(-height // high), high, -(-width // wide), wide).max((1, 3))
