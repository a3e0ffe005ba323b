"""Reads pictures of several frames or pages with Pillow: GIF, APNG, animated WebP, TIFF."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image, ImageOps, ImageSequence

from ...errors import FaceLoomError
from .frame import ClipFrame
from .library import ClipSource, name_of, open_binary, reason_of
from .marks import BT709, RGB, SRGB, ColorMarks

# What the files begin with. Pictures of a single frame are read as clips of one.
_GIF, _PNG, _TIFF = b"GIF8", b"\x89PNG\r\n\x1a\n", (b"II*\x00", b"MM\x00*")
_TICK = Fraction(1, 1000)
_DEFAULT_MS = 100  # browsers show frames without a duration so long
_ERRORS = (
    struct.error,
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    OverflowError,
    MemoryError,
    KeyError,
    IndexError,
    Image.DecompressionBombError,
)


def is_paged(source: ClipSource) -> bool:
    """True for files that Pillow reads, by their first bytes."""
    with open_binary(source) as file:
        head = file.read(16)
    return head.startswith((_GIF, _PNG, *_TIFF)) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def probe_pages(source: ClipSource) -> dict[str, Any]:
    """Read what an animation is, decoding it once: the fields of ``ClipInfo``, counted up to where it is damaged. FaceLoomError where no
    frame can be decoded."""
    frames = ms = 0
    alpha, size, bits, loop, kind = False, (0, 0), 8, 0, ""
    try:
        for picture, duration in _pages(source):
            if not frames:
                size, kind = ImageOps.exif_transpose(picture).size, (picture.format or "").lower()
                loop, bits = _plays(picture), 16 if picture.mode.startswith("I") else 8
            alpha = alpha or _has_holes(picture)
            frames, ms = frames + 1, ms + duration
    except FaceLoomError:
        if not frames:
            raise
    return {
        "width": size[0],
        "height": size[1],
        "time_base": _TICK,
        "rate": Fraction(frames * 1000, ms),
        "frames": frames,
        "duration": Fraction(ms, 1000),
        "pixel_format": "gbrap" if alpha else "gbrp",
        "bits": bits,
        "alpha": alpha,
        "codec": kind,
        "container": kind,
        "loop": loop,
        "marks": ColorMarks(BT709, SRGB, RGB, True),
    }


def _has_holes(picture: Image.Image) -> bool:
    """True where a pixel is not opaque. That a format could hold transparency says nothing: every WebP animation of Pillow's does."""
    return picture.has_transparency_data and picture.convert("RGBA").getchannel("A").getextrema()[0] < 255  # type: ignore[operator]


def read_pages(source: ClipSource, alpha: bool, keep_damaged: bool) -> Iterator[ClipFrame]:
    """Read the frames of an animation one after another, in ticks of a millisecond. alpha: give RGBA. keep_damaged: end where the file is
    damaged instead of raising FaceLoomError."""
    pages, at = _pages(source), 0
    for number in range(1_000_000_000):
        try:
            picture, duration = next(pages)
        except StopIteration:
            return
        except FaceLoomError:
            if keep_damaged and number:
                return
            raise
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I"):  # 16 bits of grey
            pixels, white = np.repeat(np.asarray(upright).astype(np.uint16)[..., None], 3, -1), 65535
            if alpha:
                pixels = np.concatenate([pixels, np.full_like(pixels[..., :1], 65535)], -1)
        else:
            pixels, white = np.array(upright.convert("RGBA" if alpha else "RGB")), 255  # a copy: torch takes no arrays that are locked
        yield ClipFrame(number, at, duration, _TICK, full_range=True, matrix=RGB, pixels=pixels, white=white)
        at += duration


def _pages(source: ClipSource) -> Iterator[tuple[Image.Image, int]]:
    """Decode the pages of a file; each with its milliseconds. It is valid until the next one. FaceLoomError where one is damaged."""
    with open_binary(source) as file:
        data = file if not isinstance(file, io.BytesIO) else io.BytesIO(file.getvalue())
        try:
            picture = Image.open(data)
        except _ERRORS as error:
            raise FaceLoomError(f"{name_of(source)} cannot be read as a picture ({reason_of(error)}).") from error
        with picture:
            # An APNG may begin with a picture for programs that know no animation; it is none of the frames.
            skipped = int(bool(picture.info.get("default_image")) and getattr(picture, "n_frames", 1) > 1)
            number = 0
            pages = ImageSequence.Iterator(picture)
            while True:
                try:
                    page = next(pages, None)
                    if page is None:
                        return
                    page.load()
                except _ERRORS as error:
                    raise FaceLoomError(f"{name_of(source)} is damaged at frame {number + 1} ({reason_of(error)}).") from error
                number += 1
                if number > skipped:
                    yield page, max(1, round(page.info.get("duration") or _DEFAULT_MS))


def _plays(picture: Image.Image) -> int:
    """Return how often an animation plays, 0 for without end. GIF counts repetitions, and without a count plays once."""
    loop = picture.info.get("loop")
    if picture.format == "GIF":
        return 1 if loop is None else 0 if loop == 0 else int(loop) + 1
    return int(loop or 0)
