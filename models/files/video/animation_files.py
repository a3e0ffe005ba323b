"""Lays out GIF, APNG, animated WebP and TIFF files picture by picture, so that only one is in memory.

Pillow compresses the pictures; its own way to save several holds them all.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

import numpy as np
from PIL import Image, TiffImagePlugin


class AnimationFile(Protocol):
    """A file that is begun when it is made, gets pictures ``[H, W, 3|4]`` uint8 with the milliseconds they are shown, and is then
    closed."""

    def add(self, pixels: np.ndarray, ms: int) -> None: ...

    def close(self) -> None: ...


class GifFile:
    """A GIF of whole frames, each with a palette of its own. plays: how often, 0 without end."""

    def __init__(self, file: BinaryIO, size: tuple[int, int], plays: int):
        self._file = file
        file.write(b"GIF89a" + struct.pack("<HHBBB", *size, 0x70, 0, 0))
        if plays != 1:
            file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<HB", max(plays - 1, 0), 0))

    def add(self, pixels: np.ndarray, ms: int) -> None:
        """Add a frame; its time is rounded to hundredths of a second by whoever calls."""
        picture, transparent = _with_palette(pixels)
        buffer = io.BytesIO()
        picture.save(buffer, "GIF", optimize=False, interlace=0, **({"transparency": 255} if transparent else {}))
        data = buffer.getvalue()
        at = 13 + 3 * (2 << (data[10] & 7))
        table, clear = data[13:at], 0
        while data[at] == 0x21:  # extensions; Pillow may have renumbered the transparent colour
            if data[at + 1] == 0xF9 and data[at + 3] & 1:
                clear = data[at + 6]
            at += 2
            while data[at]:
                at += data[at] + 1
            at += 1
        flags = (2 if transparent else 1) << 2 | transparent  # the next frame begins from nothing where this one has holes
        self._file.write(b"\x21\xf9\x04" + struct.pack("<BHBB", flags, ms // 10, clear, 0))
        self._file.write(data[at : at + 9] + bytes([0x80 | (data[10] & 7)]) + table + data[at + 10 : -1])

    def close(self) -> None:
        """Write the end mark."""
        self._file.write(b"\x3b")


def _with_palette(pixels: np.ndarray) -> tuple[Image.Image, bool]:
    """Return a frame with at most 256 colours, exactly where it has no more, and whether colour 255 is transparent."""
    clear = pixels[..., 3] < 128 if pixels.shape[-1] == 4 else np.zeros(pixels.shape[:2], bool)
    room = 256 - bool(clear.any())
    packed = pixels[..., :3].astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    packed[clear] = packed[~clear].min() if not clear.all() else 0
    colors, numbers = np.unique(packed, return_inverse=True)
    if len(colors) <= room:
        palette = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], -1).astype(np.uint8).tobytes()
    else:
        rgb = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
        reduced = rgb.quantize(room, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
        numbers, palette = np.asarray(reduced), bytes(reduced.getpalette() or [])
    numbers = np.where(clear, 255, numbers.reshape(packed.shape)).astype(np.uint8)
    picture = Image.frombytes("P", (pixels.shape[1], pixels.shape[0]), numbers.tobytes())
    picture.putpalette(palette.ljust(768, b"\0")[:768])
    return picture, bool(clear.any())


class PngFile:
    """An APNG. Every frame replaces the whole picture."""

    def __init__(self, file: BinaryIO, size: tuple[int, int], plays: int):
        self._file, self._size, self._plays = file, size, plays
        self._frames = self._numbers = 0
        self._count_at = 0

    def add(self, pixels: np.ndarray, ms: int) -> None:
        """Add a frame; all are RGB or all RGBA."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
        chunks = list(_png_chunks(buffer.getvalue()))
        if not self._frames:
            self._file.write(b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", chunks[0][1]))
            self._count_at = self._file.tell()
            self._file.write(_png_chunk(b"acTL", struct.pack(">II", 0, self._plays)))
        self._file.write(_png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", self._next(), *self._size, 0, 0, ms, 1000, 0, 0)))
        for name, data in chunks:
            if name == b"IDAT" and self._frames:
                self._file.write(_png_chunk(b"fdAT", struct.pack(">I", self._next()) + data))
            elif name == b"IDAT":
                self._file.write(_png_chunk(b"IDAT", data))
        self._frames += 1

    def _next(self) -> int:
        """Return the number of the next chunk that carries one."""
        self._numbers += 1
        return self._numbers - 1

    def close(self) -> None:
        """Write the end mark, and at the beginning how many frames there are."""
        self._file.write(_png_chunk(b"IEND", b""))
        self._file.seek(self._count_at)
        self._file.write(_png_chunk(b"acTL", struct.pack(">II", self._frames, self._plays)))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give name and content of each chunk of a PNG file."""
    at = 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += length + 12


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


class WebpFile:
    """An animated WebP. quality: 0 to 100, None without loss."""

    def __init__(self, file: BinaryIO, size: tuple[int, int], plays: int, alpha: bool, quality: float | None):
        self._file, self._size = file, size
        self._options = {"lossless": True, "exact": True, "method": 2} if quality is None else {"quality": quality, "method": 4}
        header = struct.pack("<I", 0x02 | (0x10 if alpha else 0)) + _uint24(size[0] - 1) + _uint24(size[1] - 1)
        file.write(b"RIFF\0\0\0\0WEBP" + _riff(b"VP8X", header) + _riff(b"ANIM", struct.pack("<IH", 0, plays)))

    def add(self, pixels: np.ndarray, ms: int) -> None:
        """Add a frame that replaces the whole picture."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "WEBP", **self._options)
        pictures = b"".join(_riff(name, data) for name, data in _riff_chunks(buffer.getvalue()) if name in (b"ALPH", b"VP8 ", b"VP8L"))
        place = _uint24(0) * 2 + _uint24(self._size[0] - 1) + _uint24(self._size[1] - 1)
        self._file.write(_riff(b"ANMF", place + _uint24(ms) + b"\x02" + pictures))

    def close(self) -> None:
        """Write at the beginning how long the file is."""
        length = self._file.tell()
        self._file.seek(4)
        self._file.write(struct.pack("<I", length - 8))


def _uint24(value: int) -> bytes:
    return struct.pack("<I", value)[:3]


def _riff(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give name and content of each chunk of a WebP file."""
    at = 12
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        yield data[at : at + 4], data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


class TiffFile:
    """A TIFF of several pages."""

    def __init__(self, path: str):
        self._writer = TiffImagePlugin.AppendingTiffWriter(path, new=True)

    def add(self, pixels: np.ndarray, ms: int) -> None:
        """Add a page; TIFF has no times."""
        Image.fromarray(pixels).save(self._writer, "TIFF", compression="tiff_lzw")  # type: ignore[arg-type]
        self._writer.newFrame()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
