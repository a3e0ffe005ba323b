"""Puts changed pixels into a decoded frame and leaves every other value as it was decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ...errors import FaceLoomError
from .color import alpha_plane, from_rgb, to_tensor
from .frame import ClipFrame
from .pixel_formats import Layout, layout_of
from .planes import as_layout, planes_of, with_planes

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

# Rows and columns: top, bottom, left, right (the last ones excluded).
Box = tuple[int, int, int, int]


def frame_to_encode(
    frame: ClipFrame,
    image: torch.Tensor | None,
    alpha: torch.Tensor | None,
    layout: Layout,
    colors: tuple[int, bool],
    within: Box | None = None,
) -> VideoFrame:
    """Return what the encoder gets for a frame: the decoded planes, with the pixels of ``image`` that differ from the frame's own put in.

    image: ``[H, W, 3]`` float32 in 0..1, or None where nothing was changed. alpha: ``[H, W]``, or None to keep the frame's. layout, colors:
    the encoder's planar format, its matrix and whether it is full range. Where the layout has no transparency the frame is laid on white.
    within: the box outside of which nothing was changed, where it is known.
    """
    base = _base(frame, layout)
    if base is None:
        return _converted(frame, image, alpha, layout, colors)
    if image is not None:
        _check_size(image, frame)
        base = _patched(base, image, frame, layout, colors, within)
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
    height, width = frame.convert().shape[:2]
    if tuple(image.shape) != (height, width, 3):
        raise FaceLoomError(
            f"Frame {frame.index} is {width}x{height} but the image for it is {tuple(image.shape)}; give [{height}, {width}, 3]."
        )


def _patched(
    base: VideoFrame, image: torch.Tensor, frame: ClipFrame, layout: Layout, colors: tuple[int, bool], within: Box | None
) -> VideoFrame:
    """Return a copy of ``base`` with the changed pixels converted and put in, or ``base`` where none are. within: where they are looked
    for."""
    height, width = image.shape[:2]
    rows, columns = (slice(*within[:2]), slice(*within[2:])) if within is not None else (slice(0, height), slice(0, width))
    own = to_tensor(frame.convert()[rows, columns, :3], frame.white)
    changed = np.zeros((height, width), bool)
    changed[rows, columns] = (image[rows, columns].detach().cpu() != own).any(-1).numpy()
    box = _box_of(changed, layout)
    if box is None:
        return base
    top, bottom, left, right = box
    mask = changed[top:bottom, left:right]
    made = with_planes(base, layout.name, planes_of(base))
    patches = from_rgb(image[top:bottom, left:right], layout, *colors)
    for number, (plane, patch) in enumerate(zip(planes_of(made), patches)):
        chroma = layout.family == "yuv" and number > 0
        sub_x, sub_y = (layout.sub_x, layout.sub_y) if chroma else (0, 0)
        where = _any_in_blocks(mask, 1 << sub_y, 1 << sub_x)
        at = plane[top >> sub_y :, left >> sub_x :][: patch.shape[0], : patch.shape[1]]
        at[where] = patch[where]
    return made


def _box_of(changed: np.ndarray, layout: Layout) -> Box | None:
    """Return the smallest box around what changed whose sides lie between blocks of chroma, or None where nothing did."""
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
