"""Holds one frame of a clip: its times, the pixels as they were decoded, and RGB when somebody asks."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from .color import to_rgb, to_tensor, white_of
from .pixel_formats import layout_of

if TYPE_CHECKING:
    from av.sidedata.sidedata import SideData
    from av.video.frame import VideoFrame


WHOLE = (slice(None), slice(None))  # rows and columns


@dataclass(eq=False)
class ClipFrame:
    """One frame of a clip, upright.

    index: its number in the section that is read. pts, duration: in ticks of ``time_base`` (seconds). native: the decoded planes, which the
    writer puts back where nothing changed; None for GIF, APNG, WebP and TIFF. matrix, full_range: how ``native`` is read. pixels: integers
    ``[H, W, 3|4]`` whose white is ``white``, once they are converted. kept: the part of them that is left after ``keep_part``, and which.
    damaged: the decoder had to make up a part of it.
    """

    index: int
    pts: int
    duration: int
    time_base: Fraction
    native: VideoFrame | None = None
    matrix: int = 1
    full_range: bool = False
    pixels: np.ndarray | None = field(default=None, repr=False)
    white: int = 255
    damaged: bool = False
    kept: tuple[np.ndarray, tuple[slice, slice]] | None = field(default=None, repr=False)

    @property
    def time(self) -> float:
        """Seconds at which the frame is shown."""
        return float(self.pts * self.time_base)

    def convert(self) -> np.ndarray:
        """Convert the decoded planes to integers RGB ``[H, W, 3|4]``, once."""
        if self.pixels is None:
            assert self.native is not None  # a frame has the one or the other
            layout = layout_of(self.native.format.name)
            assert layout is not None
            self.pixels, self.white = to_rgb(self.native, self.matrix, self.full_range), white_of(layout)
        return self.pixels

    def image(self, part: tuple[slice, slice] = WHOLE) -> torch.Tensor:
        """Return the colours ``[H, W, 3]`` float32 in 0..1, or those of a part (rows and columns), in the clip's own transfer; a new tensor
        each time."""
        if self.kept is not None and part != WHOLE:
            pixels, held = self.kept
            if all(there.start <= side.start and side.stop <= there.stop for side, there in zip(part, held)):
                inner = [slice(side.start - there.start, side.stop - there.start) for side, there in zip(part, held)]
                return to_tensor(pixels[(*inner, slice(3))], self.white)
        return to_tensor(self.convert()[(*part, slice(3))], self.white)

    def keep_part(self, part: tuple[slice, slice]) -> None:
        """Let go of the converted pixels outside of a part (rows and columns), which nobody will ask for; they could be converted again."""
        if self.native is not None and self.pixels is not None:
            self.kept, self.pixels = (self.pixels[part].copy(), part), None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        if self.native is not None:
            return self.native.height, self.native.width
        height, width = self.convert().shape[:2]
        return height, width

    def with_part(self, image: torch.Tensor, part: tuple[slice, slice] | None) -> torch.Tensor:
        """Return the whole picture ``[H, W, 3]`` of which ``image`` is new: all, or a part (rows and columns)."""
        if part is None:
            return image
        whole = self.image()
        whole[part] = image.to(whole)
        return whole

    def alpha(self) -> torch.Tensor | None:
        """Return the transparency ``[H, W]`` float32 in 0..1, or None where the clip has none."""
        pixels = self.convert()
        return to_tensor(pixels[..., 3], self.white) if pixels.shape[-1] == 4 else None


def mastering_of(frame: VideoFrame) -> tuple[str, str]:
    """Return the HDR mastering display of a frame, "G(x,y)B(x,y)R(x,y)WP(x,y)L(max,min)" in units of 0.00002 and 0.0001 cd/m², and its
    light levels "max,average"; each "" where the frame has none."""
    display, light = _side_data(frame, "MASTERING_DISPLAY_METADATA"), _side_data(frame, "CONTENT_LIGHT_LEVEL")
    levels = ",".join(map(str, struct.unpack_from("=II", light))) if len(light) >= 8 else ""
    if len(display) < 88:
        return "", levels
    numbers = struct.unpack_from("=22i", display)  # AVMasteringDisplayMetadata: ten rationals, then two flags
    red, green, blue, white = ([_units(numbers[at : at + 2], 50_000), _units(numbers[at + 2 : at + 4], 50_000)] for at in (0, 4, 8, 12))
    low, high = _units(numbers[16:18], 10_000), _units(numbers[18:20], 10_000)
    if not (numbers[20] and numbers[21]):
        return "", levels
    points = "".join(f"{name}({x},{y})" for name, (x, y) in (("G", green), ("B", blue), ("R", red), ("WP", white)))
    return f"{points}L({high},{low})", levels


def _units(rational: Sequence[int], scale: int) -> int:
    """Return a rational in whole units of 1 / scale."""
    return round(scale * rational[0] / rational[1]) if rational[1] else 0


def _side_data(frame: VideoFrame, name: str) -> bytes:
    """Return the bytes of a frame's side data, empty where it has none of that name."""
    for data in cast("Iterable[SideData]", frame.side_data):  # a mapping whose iterator gives the values
        if data.type.name == name:
            return bytes(data)
    return b""
