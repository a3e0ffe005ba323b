"""What a picture file says about itself besides its pixels: read from one file, made true for the result, and written into another."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image, PngImagePlugin

from ..errors import FaceLoomError
from .exif import HEADER, IMAGE_DESCRIPTION, SOFTWARE, turned_upright, with_directories, with_resolution, with_words

_XMP_MARKER, _PHOTOSHOP_MARKER = b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"
_XMP_TAG, _IPTC_TAG, _IPTC_RESOURCE = 700, 33723, 0x0404
_XMP_TEXT = "XML:com.adobe.xmp"
_LARGEST_SEGMENT = 65533  # bytes of a JPEG marker's data
# Of a TIFF file's own tags those that say something about the photograph and not about how its pixels lie.
_DESCRIPTIVE = {270, 271, 272, 305, 306, 315, 316, 33432, 34665, 34853, 18246, 36867, 40091, 40092, 40093, 40094, 40095}
_DIRECTORIES = (34665, 34853)  # about the camera, and about the place
# What Pillow raises on tags that are damaged, or of types that it does not know.
_TAG_ERRORS = (OSError, SyntaxError, ValueError, TypeError, KeyError, AttributeError, struct.error, OverflowError)
# PNG texts that hold EXIF and the like in another form, or a thumbnail.
_OTHER_TEXTS = ("Raw profile type ", "Thumb::", _XMP_TEXT)
_ORIENTATION_IN_XMP = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>)\s*)[2-8]")
_THUMBNAILS_IN_XMP = re.compile(rb"<(xmp|xap):Thumbnails\b.*?</\1:Thumbnails>", re.DOTALL)


@dataclass(frozen=True)
class Metadata:
    """A picture's metadata, true for the picture as it lies in memory: upright, and without thumbnails.

    exif: a TIFF structure, without its JPEG header. xmp: a packet. iptc: IPTC records. dpi: across and down. text: PNG texts. comment: of
    JPEG and GIF. damaged: what was there and could not be read.
    """

    exif: bytes = b""
    xmp: bytes = b""
    iptc: bytes = b""
    dpi: tuple[float, float] | None = None
    text: Mapping[str, str] = field(default_factory=dict)
    comment: bytes = b""
    damaged: tuple[str, ...] = ()


def read_metadata(file: Image.Image, width: int, height: int, turned: bool) -> Metadata:
    """Read the metadata of an opened and loaded file. width, height: of the upright picture. turned: whether that lies on its side in the
    file."""
    damaged = []
    try:
        exif = _exif_of(file)
        exif = turned_upright(exif, width, height) if exif else b""
    except (FaceLoomError, *_TAG_ERRORS):
        exif = b""
        damaged.append("EXIF")
    xmp = _THUMBNAILS_IN_XMP.sub(b"", _ORIENTATION_IN_XMP.sub(rb"\g<1>1", _xmp_of(file)))
    text = {key: str(value) for key, value in (getattr(file, "text", None) or {}).items() if not key.startswith(_OTHER_TEXTS)}
    comment = file.info.get("comment", b"")
    return Metadata(exif, xmp, _iptc_of(file), _dpi_of(file, turned), text, comment if isinstance(comment, bytes) else b"", tuple(damaged))


def _exif_of(file: Image.Image) -> bytes:
    """Return the EXIF data of a file; of a TIFF file, which has its own tags, the descriptive ones as EXIF data."""
    data = file.info.get("exif") or b""
    if isinstance(data, Image.Exif):
        data = data.tobytes()
    tags = getattr(file, "tag_v2", None)
    if not data and tags is not None:
        exif = file.getexif()
        for tag in _DIRECTORIES:
            exif.get_ifd(tag)
        for tag in [tag for tag in exif if tag not in _DESCRIPTIVE]:
            del exif[tag]
        data = exif.tobytes() if len(exif) else b""
    return data[len(HEADER) :] if data.startswith(HEADER) else data


def _segments(file: Image.Image, start: bytes) -> list[bytes]:
    """Return what follows ``start`` in the markers of a JPEG file that begin with it."""
    return [data[len(start) :] for _, data in getattr(file, "applist", []) if data.startswith(start)]


def _xmp_of(file: Image.Image) -> bytes:
    tags = getattr(file, "tag_v2", None) or {}
    xmp = file.info.get("xmp") or file.info.get(_XMP_TEXT) or tags.get(_XMP_TAG) or b"".join(_segments(file, _XMP_MARKER)[:1])
    if isinstance(xmp, tuple):
        xmp = xmp[0]
    return xmp.encode() if isinstance(xmp, str) else bytes(xmp)


def _iptc_of(file: Image.Image) -> bytes:
    """Return the IPTC records of a TIFF or JPEG file. Of Photoshop's other resources, its thumbnail among them, nothing is kept."""
    tags = getattr(file, "tag_v2", None) or {}
    if isinstance(tags.get(_IPTC_TAG), bytes):
        return tags[_IPTC_TAG]
    data, place = b"".join(_segments(file, _PHOTOSHOP_MARKER)), 0
    while data[place : place + 4] == b"8BIM" and place + 12 <= len(data):
        number, name = struct.unpack_from(">HB", data, place + 4)
        start = place + 6 + (name + 2) // 2 * 2
        size = int.from_bytes(data[start : start + 4], "big")
        if number == _IPTC_RESOURCE:
            return data[start + 4 : start + 4 + size]
        place = start + 4 + (size + 1) // 2 * 2
    return b""


def _dpi_of(file: Image.Image, turned: bool) -> tuple[float, float] | None:
    """Return the resolution of the upright picture; of formats that have none of their own, the one in the EXIF data."""
    try:
        if "dpi" in file.info:
            across, down = (float(value) for value in file.info["dpi"])
        else:
            exif = file.getexif()
            inches = {2: 1, 3: 2.54}[exif[296]]
            across, down = float(exif[282]) * inches, float(exif[283]) * inches
    except (*_TAG_ERRORS, ZeroDivisionError):
        return None
    if not (0 < across < 65535 and 0 < down < 65535):
        return None
    return (down, across) if turned else (across, down)


def save_options(format_name: str, metadata: Metadata, statement: Mapping[str, str]) -> tuple[dict, list[str]]:
    """Return the options with which Pillow writes the metadata in a format, and what that format has no room for.

    statement: further texts, such as the provenance; FaceLoomError for them where the format has no room.
    """
    if statement and format_name in ("BMP", "GIF"):
        raise FaceLoomError(f"A .{format_name.lower()} file has no room for provenance; write .png, .jpg, .webp or .tif.")
    exif = metadata.exif
    if statement and format_name != "PNG":
        words = "; ".join(f"{key}: {value}" for key, value in statement.items())
        exif = with_words(exif, {IMAGE_DESCRIPTION: words, SOFTWARE: "FaceLoom"})
    has_own = format_name in ("PNG", "JPEG", "TIFF", "BMP")
    options: dict = {"dpi": metadata.dpi} if metadata.dpi and has_own else {}
    if metadata.dpi and (exif or not has_own):
        exif = with_resolution(exif, *metadata.dpi)
    if format_name in ("JPEG", "GIF") and metadata.comment:
        options["comment"] = metadata.comment
    if format_name in ("BMP", "GIF"):
        return options, [name for name, data in (("EXIF", metadata.exif), ("XMP", metadata.xmp), ("IPTC", metadata.iptc)) if data]
    if format_name == "JPEG":
        return _jpeg_options(options, exif, metadata)
    if format_name == "TIFF":
        return _tiff_options(options, exif, metadata)
    if exif:
        options["exif"] = exif
    if format_name == "PNG":
        options["pnginfo"] = _png_texts(metadata, statement)
    elif metadata.xmp:
        options["xmp"] = metadata.xmp
    return options, ["IPTC"] if metadata.iptc else []


def _jpeg_options(options: dict, exif: bytes, metadata: Metadata) -> tuple[dict, list[str]]:
    lost, extra = [], b""
    if exif and len(HEADER + exif) <= _LARGEST_SEGMENT:
        options["exif"] = HEADER + exif
    elif exif:
        lost.append("EXIF")
    iptc = metadata.iptc + bytes(len(metadata.iptc) % 2)
    resource = b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(metadata.iptc)) + iptc if iptc else b""
    for name, code, start, data in (("XMP", 0xE1, _XMP_MARKER, metadata.xmp), ("IPTC", 0xED, _PHOTOSHOP_MARKER, resource)):
        if data and len(start + data) <= _LARGEST_SEGMENT:
            extra += struct.pack(">BBH", 0xFF, code, 2 + len(start + data)) + start + data
        elif data:
            lost.append(name)
    return options | ({"extra": extra} if extra else {}), lost


def _tiff_options(options: dict, exif: bytes, metadata: Metadata) -> tuple[dict, list[str]]:
    tags, lost = Image.Exif(), []
    try:
        tags.load(HEADER + exif if exif else b"")
        for tag in [tag for tag in tags if tag not in _DESCRIPTIVE or tag in _DIRECTORIES]:
            del tags[tag]
        tags.tobytes()  # raises what writing would raise
    except _TAG_ERRORS:
        tags, lost = Image.Exif(), ["EXIF"]
    for tag, data in ((_XMP_TAG, metadata.xmp), (_IPTC_TAG, metadata.iptc)):
        if data:
            tags[tag] = data
    return options | ({"exif": tags} if len(tags) else {}), lost


def completed(format_name: str, data: bytes, metadata: Metadata) -> bytes:
    """Return an encoded picture with the metadata that Pillow cannot write: the directories inside EXIF data in a compressed TIFF file."""
    return with_directories(data, metadata.exif) if format_name == "TIFF" and metadata.exif else data


def _png_texts(metadata: Metadata, statement: Mapping[str, str]) -> PngImagePlugin.PngInfo:
    texts = PngImagePlugin.PngInfo()
    for key, value in {**metadata.text, **statement}.items():
        texts.add_itxt(key, value)
    if metadata.xmp:
        texts.add_itxt(_XMP_TEXT, metadata.xmp.decode("utf-8", "replace"))
    return texts
