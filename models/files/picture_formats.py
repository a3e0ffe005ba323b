"""Which suffixes are pictures, and which of them are read and written here: what Pillow knows, and what its plug-ins add."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path

from PIL import Image

from ..errors import FaceLoomError

# The suffixes that every Pillow reads and writes, and Pillow's names of their formats.
WRITTEN: Mapping[str, str] = {
    ".png": "PNG", ".apng": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".webp": "WEBP", ".bmp": "BMP",
    ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF",
}  # fmt: skip
# Further suffixes of pictures: written too where this Pillow, or the plug-in that pip calls so, can do it.
PLUGINS: Mapping[str, str] = {
    ".avif": "pillow-avif-plugin", ".heic": "pillow-heif", ".heif": "pillow-heif", ".hif": "pillow-heif", ".jxl": "pillow-jxl-plugin",
}  # fmt: skip
# Pictures that are read and written as .png: Pillow does not write them, or viewers do not show them.
_READ = (".jp2", ".j2k", ".jpx", ".tga", ".ppm", ".pgm", ".pnm", ".psd", ".ico", ".dib", ".mpo", ".qoi", ".dds", ".pcx", ".sgi")
# Photographs and clips that are not read here, and what to do with them.
_FOREIGN: Mapping[str, str] = {
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw"), "develop them to .tif or .jpg first"),
    **dict.fromkeys((".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v"), "a clip is no source; save one of its frames as a picture"),
    **dict.fromkeys((".svg", ".pdf", ".eps", ".ai", ".exr", ".hdr", ".xcf"), "save them as .png first"),
}
# Formats that hold several frames or pages, and those of them that have a time for each.
SEVERAL = ("PNG", "WEBP", "GIF", "TIFF", "AVIF")
TIMED = ("PNG", "WEBP", "GIF", "AVIF")


@lru_cache(maxsize=1)
def plug_in() -> None:
    """Let the plug-ins that are installed tell Pillow what they read; those that are not change nothing."""
    Image.init()
    for module, register in (("pillow_heif", "register_heif_opener"), ("pillow_avif", ""), ("pillow_jxl", "")):
        if module == "pillow_avif" and "AVIF" in Image.OPEN:
            continue  # Pillow has its own since 11.3
        try:
            plugin = import_module(module)
        except ImportError:
            continue
        if register:
            getattr(plugin, register)()


def _pillow_format(suffix: str) -> str | None:
    """Return Pillow's name of the format that it reads from files of this suffix; None where it reads none."""
    plug_in()
    name = Image.registered_extensions().get(suffix)
    return name if name in Image.OPEN else None


def is_read(suffix: str) -> bool:
    """Whether files of this suffix (lower case, with its dot) are pictures that are read here."""
    return suffix in WRITTEN or ((suffix in PLUGINS or suffix in _READ) and _pillow_format(suffix) is not None)


def why_not_read(suffix: str) -> str | None:
    """Return what to do with files of this suffix, which are pictures or clips that are not read here; None where they are neither."""
    if suffix in PLUGINS:
        return f"install {PLUGINS[suffix]} to read them"
    return "this Pillow does not read them" if suffix in _READ else _FOREIGN.get(suffix)


def written_format(suffix: str) -> str | None:
    """Return Pillow's name of the format in which files of this suffix (lower case) are written; None where they cannot be."""
    if suffix in WRITTEN:
        return WRITTEN[suffix]
    name = _pillow_format(suffix) if suffix in PLUGINS else None
    return name if name in Image.SAVE else None


def written_suffixes() -> list[str]:
    """Return the suffixes of the pictures that can be written."""
    return [suffix for suffix in (*WRITTEN, *PLUGINS) if written_format(suffix)]


def format_of(path: str | os.PathLike) -> str:
    """Return Pillow's name of the format to write ``path`` in; FaceLoomError where its suffix is none of ``written_suffixes``."""
    name = written_format(Path(path).suffix.lower())
    if name is None:
        raise FaceLoomError(f"{path} cannot be written: pictures are written as {', '.join(written_suffixes())}.")
    return name
