"""Reads and writes picture files: upright, with transparency, colour profile and depth."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from ..errors import FaceLoomError
from ..pixels.tensors import to_uint8
from .cache import replace_file

# What is read from folders and can be written. Single files of any other kind that Pillow knows are read too.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
_OPTIONS: dict[str, dict] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_lzw"},
}
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")
# Everything Pillow's decoders are known to raise on damaged files.
_UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, OverflowError, MemoryError, KeyError, IndexError,
               zlib.error, Image.DecompressionBombError)
_IMAGE_DESCRIPTION, _SOFTWARE = 0x010E, 0x0131


@dataclass(frozen=True, eq=False)
class PictureFile:
    """A picture file in memory.

    image: ``[H, W, 3]`` float32 RGB 0..1, upright. alpha: ``[H, W]`` float32 0..1, or None for an opaque file.
    icc: the RGB colour profile to write back with the pixels. bits: per channel in the file (results are written with 8).
    """

    image: torch.Tensor
    alpha: torch.Tensor | None = None
    icc: bytes | None = None
    bits: int = 8


def read_image(path: str | os.PathLike) -> torch.Tensor:
    """A picture file as ``[H, W, 3]`` float32 0..1; see ``read_picture``."""
    return read_picture_file(path).image


def read_picture_file(path: str | os.PathLike) -> PictureFile:
    """A picture file, turned upright by its EXIF tag; of an animation the first frame.

    16-bit grey and float files keep their depth; 16-bit colour arrives with 8 bits, as Pillow reads it. CMYK goes through the
    file's own profile. Raises FaceLoomError for anything that is missing, damaged or no picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large and odd files that it reads well enough
            with Image.open(path) as file:
                bits = _bits_of(file)
                picture = _decode(file, bits)
    except FileNotFoundError:
        raise FaceLoomError(f"There is no file {path}.") from None
    except FaceLoomError as error:
        raise FaceLoomError(f"{path} {error}") from None
    except _UNREADABLE as error:
        raise FaceLoomError(f"{path} cannot be read as a picture ({_one_line(error)}).") from error
    return picture


def _decode(file: Image.Image, bits: int) -> PictureFile:
    picture = ImageOps.exif_transpose(file)
    if picture.mode in _SIXTEEN_BITS:
        if bits != 16:
            raise FaceLoomError("has 32-bit integer pixels; save it with 8 or 16 bits per channel.")
        return PictureFile(_grey(np.asarray(picture, np.float32) / 65535), bits=16)
    if picture.mode == "F":
        array = np.asarray(picture, np.float32)
        if not np.isfinite(array).all():
            raise FaceLoomError("contains NaN or infinite pixels.")
        return PictureFile(_grey(array.clip(0, 1)), bits=32)
    icc = file.info.get("icc_profile")
    if picture.mode == "CMYK" and icc:
        picture, icc = _cmyk_to_rgb(picture, icc), None
    alpha = None
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        array = np.asarray(picture.getchannel("A"), np.float32) / 255
        alpha = torch.from_numpy(array) if array.min() < 1 else None
    image = torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 255)
    return PictureFile(image, alpha, icc if icc and icc[16:20] == b"RGB " else None, bits)


def _grey(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.repeat(array[..., None], 3, -1))


def _cmyk_to_rgb(picture: Image.Image, icc: bytes) -> Image.Image:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        return ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # a damaged profile: Pillow's plain conversion is what every viewer falls back to
        return picture.convert("RGB")


def _bits_of(file: Image.Image) -> int:
    """Bits per channel of an opened, not yet decoded file. Pillow's mode says 8 for 16-bit colour, the decoder's raw mode tells."""
    if file.mode == "F":
        return 32
    if file.mode == "I":
        return 32 if file.format == "TIFF" else 16  # PNG and PGM come as "I" scaled to 65535
    raw = file.tile[0][3] if file.tile else ""
    raw = raw[0] if isinstance(raw, tuple) and raw else raw
    return 16 if file.mode in _SIXTEEN_BITS or (isinstance(raw, str) and ";16" in raw) else 8


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def write_image(path: str | os.PathLike, image: torch.Tensor, metadata: Mapping[str, str] | None = None, *,
                alpha: torch.Tensor | None = None, icc: bytes | None = None) -> None:
    """Write ``[H, W, 3]`` 0..1 (rounded, not truncated) to ``path`` in one move, so a crash never leaves half a file.

    ``alpha`` ``[H, W]`` is kept where the format has it; in JPEG and BMP the picture is laid on white. ``metadata`` becomes PNG
    text, and one EXIF description in the other formats. ``icc`` is embedded as it is.
    """
    path = Path(path)
    kind = format_of(path)
    array = to_uint8(image)
    if alpha is not None and kind in ("JPEG", "BMP"):
        array = to_uint8(image.cpu() * alpha.cpu()[..., None] + (1 - alpha.cpu()[..., None]))
    elif alpha is not None:
        array = np.concatenate([array, to_uint8(alpha)[..., None]], -1)
    options = dict(_OPTIONS.get(kind, {}))
    if icc:
        options["icc_profile"] = icc
    if metadata:
        options |= _metadata_options(kind, metadata)
    try:
        with replace_file(path) as file:
            Image.fromarray(array).save(file, format=kind, **options)
    except (OSError, ValueError, KeyError) as error:
        raise FaceLoomError(f"{path} cannot be written ({_one_line(error)}).") from error


def _metadata_options(kind: str, metadata: Mapping[str, str]) -> dict:
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        for key, value in metadata.items():
            text.add_itxt(key, value)
        return {"pnginfo": text}
    if kind == "BMP":
        raise FaceLoomError("A .bmp file has no room for provenance; write .png, .jpg, .webp or .tif.")
    exif = Image.Exif()
    exif[_IMAGE_DESCRIPTION] = "; ".join(f"{key}: {value}" for key, value in metadata.items()).encode("ascii", "replace").decode()
    exif[_SOFTWARE] = "FaceLoom"
    return {"exif": exif}


def format_of(path: str | os.PathLike) -> str:
    """Pillow's name of the format that ``path``'s suffix asks for."""
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise FaceLoomError(f"{path} cannot be written: pictures are written as {', '.join(IMAGE_SUFFIXES)}.")
    return _FORMATS[suffix]


