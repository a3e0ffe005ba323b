"""Edits EXIF data in place: everything that is not touched stays byte for byte, makers' notes included.

EXIF is a small TIFF file: a byte order, and directories of twelve-byte entries. All offsets are checked; FaceLoomError where they lead out
of the data.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from contextlib import suppress

from ..errors import FaceLoomError

HEADER = b"Exif\0\0"
IMAGE_DESCRIPTION, ORIENTATION, SOFTWARE = 0x010E, 0x0112, 0x0131
_EXIF_DIRECTORY, _PLACE_DIRECTORY, _INTEROP_DIRECTORY = 0x8769, 0x8825, 0xA005
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003
_STRIPS = ((0x0201, 0x0202), (0x0111, 0x0117))  # where a thumbnail begins and how long it is: JPEG, uncompressed
_EMPTY = b"II*\0\x08\0\0\0\0\0\0\0\0\0"
_ACROSS, _DOWN, _UNIT = 0x011A, 0x011B, 0x0128  # resolution, and what it counts by
_ASCII, _SHORT, _LONG, _RATIONAL = 2, 3, 4, 5
# Types of more than one byte: the bytes of a number, and the numbers of a value.
_SIZES = {3: (2, 1), 4: (4, 1), 5: (4, 2), 8: (2, 1), 9: (4, 1), 10: (4, 2), 11: (4, 1), 12: (8, 1), 13: (4, 1)}
# A JPEG inside: a thumbnail, or the preview in a maker's note.
_JPEG = re.compile(rb"\xff\xd8\xff[\xc0-\xfe].*?\xff\xd9", re.DOTALL)


def turned_upright(exif: bytes, width: int, height: int) -> bytes:
    """Return EXIF data (without ``HEADER``) of a picture that now lies upright and has ``width`` × ``height`` pixels.

    The orientation is 1, and thumbnails and previews, which show the picture as it was, are blank.
    """
    data = _Directories(exif)
    first = data.u32(4)
    after = data.entries(first)[-1] + 12 if data.entries(first) else first + 2
    for entry in data.entries(first):
        tag = data.u16(entry)
        if tag == ORIENTATION:
            data.set_number(entry, 1)
        elif tag == _EXIF_DIRECTORY:
            for inner in data.entries(data.u32(entry + 8)):
                if data.u16(inner) in (_PIXEL_WIDTH, _PIXEL_HEIGHT):
                    data.set_number(inner, width if data.u16(inner) == _PIXEL_WIDTH else height)
    thumbnail = data.u32(after) if after + 4 <= len(exif) else 0
    if thumbnail:
        data.put(after, data.order + "I", 0)
        data.blank_thumbnail(thumbnail)
    return _JPEG.sub(lambda found: bytes(len(found[0])), bytes(data.body))


def with_words(exif: bytes, words: Mapping[int, str]) -> bytes:
    """Return EXIF data (without ``HEADER``; b"" for none) with these texts, by tag, in its first directory. They become ASCII."""
    data, entries = _Directories(exif or _EMPTY), {}
    for tag, text in words.items():
        value = text.encode("ascii", "replace") + b"\0"
        place = value.ljust(4, b"\0") if len(value) <= 4 else data.append(value)
        entries[tag] = struct.pack(data.order + "HHI", tag, _ASCII, len(value)) + place
    return data.with_entries(entries)


def with_resolution(exif: bytes, across: float, down: float) -> bytes:
    """Return EXIF data (without ``HEADER``; b"" for none) with this resolution in dots per inch."""
    data, entries = _Directories(exif or _EMPTY), {}
    for tag, value in ((_ACROSS, across), (_DOWN, down)):
        place = data.append(struct.pack(data.order + "II", round(value * 1000), 1000))
        entries[tag] = struct.pack(data.order + "HHI", tag, _RATIONAL, 1) + place
    entries[_UNIT] = struct.pack(data.order + "HHIHH", _UNIT, _SHORT, 1, 2, 0)
    return data.with_entries(entries)


def with_directories(tiff: bytes, exif: bytes) -> bytes:
    """Return a TIFF file whose first page has the directories about camera and place of EXIF data (without ``HEADER``)."""
    data, source, entries = _Directories(tiff), _Directories(exif), {}
    for entry in source.entries(source.u32(4)):
        tag = source.u16(entry)
        if tag in (_EXIF_DIRECTORY, _PLACE_DIRECTORY):
            with suppress(FaceLoomError):
                entries[tag] = struct.pack(data.order + "HHI", tag, _LONG, 1) + _copy_directory(source, source.u32(entry + 8), data)
    return data.with_entries(entries) if entries else tiff


def _copy_directory(source: _Directories, directory: int, to: _Directories, deepest: bool = False) -> bytes:
    """Append a directory with its values to other data, in that one's byte order. Return where it is, as four bytes.

    Values that lie beyond the end are left out, and all from where they come to more than there is, because they overlap.
    """
    copied, room = b"", len(to.body) + 2 * len(source.body)
    for entry in source.entries(directory):
        tag, kind, count = source.u16(entry), source.u16(entry + 2), source.u32(entry + 4)
        if tag == _INTEROP_DIRECTORY and not deepest:
            place = _copy_directory(source, source.u32(entry + 8), to, deepest=True)
        else:
            width, words = _SIZES.get(kind, (1, 1))
            length = width * words * count
            start = entry + 8 if length <= 4 else source.u32(entry + 8)
            value = bytes(source.body[start : start + length])
            if len(value) < length or len(to.body) + length > room:
                continue
            if source.order != to.order:
                value = b"".join(value[at : at + width][::-1] for at in range(0, length, width))
            place = value.ljust(4, b"\0") if length <= 4 else to.append(value)
        copied += struct.pack(to.order + "HHI", tag, kind, count) + place
    return to.append(struct.pack(to.order + "H", len(copied) // 12) + copied + bytes(4))


class _Directories:
    """The bytes of EXIF data, and its numbers by their places."""

    def __init__(self, exif: bytes) -> None:
        self.body = bytearray(exif)
        self.order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(exif[:4]), "")
        if not self.order:
            raise FaceLoomError("The EXIF data does not begin as such data does.")

    def get(self, place: int, kind: str) -> int:
        try:
            return struct.unpack_from(self.order + kind, self.body, place)[0]
        except struct.error:
            raise FaceLoomError("The EXIF data points beyond its end.") from None

    def u16(self, place: int) -> int:
        return self.get(place, "H")

    def u32(self, place: int) -> int:
        return self.get(place, "I")

    def put(self, place: int, layout: str, value: int) -> None:
        struct.pack_into(layout, self.body, place, value)

    def append(self, value: bytes) -> bytes:
        """Append a value. Return where it is, as four bytes."""
        self.body += bytes(len(self.body) % 2)
        place = struct.pack(self.order + "I", len(self.body))
        self.body += value
        return place

    def with_entries(self, entries: Mapping[int, bytes]) -> bytes:
        """Return the data with these entries of twelve bytes, by tag, in a new first directory."""
        first = self.u32(4)
        merged = {self.u16(entry): bytes(self.body[entry : entry + 12]) for entry in self.entries(first)} | dict(entries)
        after = first + 2 + 12 * len(self.entries(first))
        following = self.u32(after) if after + 4 <= len(self.body) else 0
        directory = struct.pack(self.order + "H", len(merged)) + b"".join(merged[tag] for tag in sorted(merged))
        self.body[4:8] = self.append(directory + struct.pack(self.order + "I", following))
        return bytes(self.body)

    def entries(self, directory: int) -> list[int]:
        """Return where the entries of a directory begin, all of them inside the data."""
        places = [directory + 2 + 12 * number for number in range(self.u16(directory))]
        if places and places[-1] + 12 > len(self.body):
            raise FaceLoomError("The EXIF data is cut short.")
        return places

    def set_number(self, entry: int, value: int) -> None:
        """Set an entry that holds one whole number; other entries, and numbers that do not fit, stay."""
        kind = self.u16(entry + 2)
        if kind == _SHORT and value < 1 << 16:
            self.put(entry + 8, self.order + "H", value)
        elif kind == _LONG:
            self.put(entry + 8, self.order + "I", value)

    def blank_thumbnail(self, directory: int) -> None:
        """Overwrite the thumbnail that a directory describes, and the directory, with zeros; cut it off where it comes last."""
        places = {self.u16(entry): entry for entry in self.entries(directory)}
        ranges = [range(directory, directory + 2 + 12 * self.u16(directory))]
        for begin, length in _STRIPS:
            if begin in places and length in places:
                start, size = (self.u32(places[tag] + 8) for tag in (begin, length))
                ranges.append(range(max(start, 8), start + size))  # never the head of the data itself
        for taken in ranges:
            stop = min(taken.stop, len(self.body))
            self.body[taken.start : stop] = bytes(max(0, stop - taken.start))
            if stop == taken.stop == len(self.body) and taken is not ranges[0]:
                del self.body[taken.start :]
