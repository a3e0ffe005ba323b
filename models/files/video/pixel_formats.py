"""Knows FFmpeg's pixel formats by their names: depth, transparency, subsampling, range, and which of them frames are kept in."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .library import require_av

# Planar formats, little-endian: what frames are kept, turned and patched in.
_PLANAR = re.compile(r"(?P<family>yuvj|yuva|yuv|gbrap|gbrp|gray)(?P<sub>4[0-4][0-4])?p?(?P<bits>9|1[0246])?(?:le)?$")
_DEPTHS = (8, 9, 10, 12, 14, 16)


@dataclass(frozen=True)
class Layout:
    """A planar pixel format. family: "yuv", "gbr" or "gray". sub_x, sub_y: log2 of how much wider and higher a pixel of chroma is."""

    family: str
    bits: int = 8
    alpha: bool = False
    sub_x: int = 0
    sub_y: int = 0

    @property
    def name(self) -> str:
        """FFmpeg's name of the format."""
        depth = "" if self.bits == 8 else f"{self.bits}le"
        if self.family == "gray":
            return f"gray{depth}"
        if self.family == "gbr":
            return f"gbr{'a' if self.alpha else ''}p{depth}"
        return f"yuv{'a' if self.alpha else ''}{_SUBSAMPLINGS[self.sub_x, self.sub_y]}p{depth}"


_SUBSAMPLINGS = {(0, 0): "444", (1, 0): "422", (1, 1): "420", (0, 1): "440", (2, 0): "411", (2, 2): "410"}
_SUB_BY_NAME = {name: sub for sub, name in _SUBSAMPLINGS.items()}


def layout_of(name: str) -> Layout | None:
    """Return the layout of a planar format; None for packed, palette, big-endian and float ones. "yuvj420p" is yuv420p with another
    range."""
    match = _PLANAR.match(name)
    if not match or (match["family"].startswith("yuv") and not match["sub"]):
        return None
    family, bits = match["family"], int(match["bits"] or 8)
    if family.startswith("yuv"):
        return Layout("yuv", bits, family == "yuva", *_SUB_BY_NAME[match["sub"]])
    return Layout("gray", bits) if family == "gray" else Layout("gbr", bits, family == "gbrap")


def nearest_planar(name: str) -> Layout:
    """Return the planar layout that holds all that a format holds."""
    if layout := layout_of(name):
        return layout
    pixel = require_av().VideoFormat(name, 64, 64)
    bits = next((depth for depth in _DEPTHS if depth >= bits_of(name) and depth != 9), 16)
    if is_rgb(name) or (has_alpha(name) and len(pixel.components) == 2):  # grey with alpha: no planar format has just these
        return Layout("gbr", bits, has_alpha(name))
    if len(pixel.components) == 1:
        return Layout("gray", bits)
    width, height = pixel.chroma_width(64), pixel.chroma_height(64)
    sub = (64 // width).bit_length() - 1, (64 // height).bit_length() - 1
    return Layout("yuv", bits, has_alpha(name), *(sub if sub in _SUBSAMPLINGS else (0, 0)))


def turned(layout: Layout) -> Layout:
    """Return the layout of a frame after a quarter turn: what was subsampled in x is so in y."""
    return replace(layout, sub_x=layout.sub_y, sub_y=layout.sub_x)


def bits_of(name: str) -> int:
    """Return the bits per channel of a format (8 for palettes)."""
    if name == "pal8":
        return 8
    return max((component.bits for component in require_av().VideoFormat(name, 16, 16).components), default=8)


def has_alpha(name: str) -> bool:
    """True for formats with transparency, palettes included."""
    return name == "pal8" or any(component.is_alpha for component in require_av().VideoFormat(name, 16, 16).components)


def is_rgb(name: str) -> bool:
    """True for RGB formats, palettes included."""
    return name == "pal8" or require_av().VideoFormat(name, 16, 16).is_rgb


def is_full_range(name: str) -> bool:
    """True for formats whose values are full range where nothing marks them: RGB, grey and the "yuvj" ones."""
    return name.startswith(("yuvj", "gray")) or is_rgb(name)


def choose(wanted: Layout, offered: list[str], width: int, height: int, even: bool) -> Layout | None:
    """Return the planar format among those an encoder offers that loses least of ``wanted``; None where it offers none.

    even: the encoder refuses subsampled formats where a side is odd; then only those that fit are looked at.
    """
    layouts = [layout for layout in map(layout_of, offered) if layout]
    if even:
        layouts = [layout for layout in layouts if not (width % (1 << layout.sub_x) or height % (1 << layout.sub_y))]

    gray = wanted.family == "gray"
    if gray:  # in YUV its chroma says nothing, so it may be coarse
        wanted = replace(wanted, sub_x=1, sub_y=1)

    def loss(layout: Layout) -> tuple:
        sub = (layout.sub_x, layout.sub_y)
        return (
            wanted.alpha and not layout.alpha,
            layout.family != wanted.family and not gray,
            layout.bits < wanted.bits,
            layout.family != wanted.family,
            layout.sub_x > wanted.sub_x or layout.sub_y > wanted.sub_y,
            abs(layout.bits - wanted.bits),
            layout.alpha and not wanted.alpha,
            abs(sub[0] - wanted.sub_x) + abs(sub[1] - wanted.sub_y),
        )

    return min(layouts, key=loss, default=None)
