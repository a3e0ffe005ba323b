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
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageCms, ImageFile, ImageOps, PngImagePlugin

from ..errors import FaceLoomError
from ..pixels.tensors import to_uint8
from .cache import replace_file

# The suffixes that are read from folders and can be written. Single files of any other format that Pillow knows are read too.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
_SAVE_OPTIONS: dict[str, dict] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_lzw"},
}
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
# The errors that Pillow's decoders are known to raise on damaged files.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, OverflowError, MemoryError, KeyError, IndexError,
                   zlib.error, Image.DecompressionBombError)
# EXIF tags
_IMAGE_DESCRIPTION, _SOFTWARE = 0x010E, 0x0131


@dataclass(frozen=True, eq=False)
class PictureFile:
    """A picture file in memory.

    image: ``[H, W, 3]`` float32 RGB in 0..1, upright. alpha: ``[H, W]`` float32 in 0..1, or None for an opaque file.
    icc: the RGB colour profile to write back with the pixels, or None. bits: per channel in the file (results are written with 8).
    """

    image: torch.Tensor
    alpha: torch.Tensor | None = None
    icc: bytes | None = None
    bits: int = 8


def read_image(path: str | os.PathLike) -> torch.Tensor:
    """Read the pixels of a picture file: ``[H, W, 3]`` float32 RGB in 0..1; ``read_picture_file`` says how."""
    return read_picture_file(path).image


def read_picture_file(path: str | os.PathLike) -> PictureFile:
    """Read a picture file and turn it upright as its EXIF tag says; of an animation the first frame.

    16-bit grey and float files keep their depth; 16-bit colour is read with 8 bits, as Pillow does. CMYK is converted with the file's own
    profile. FaceLoomError where the file is missing, damaged or no picture.
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
    except _DECODER_ERRORS as error:
        raise FaceLoomError(f"{path} cannot be read as a picture ({_one_line(error)}).") from error
    return picture


def _decode(file: Image.Image, bits: int) -> PictureFile:
    """Decode an opened file. The sentences of its errors begin after the file's name."""
    picture = ImageOps.exif_transpose(file)
    if picture.mode in _SIXTEEN_BIT_MODES:
        if bits != 16:
            raise FaceLoomError("has 32-bit integer pixels; save it with 8 or 16 bits per channel.")
        return PictureFile(_grey_to_rgb(np.asarray(picture, np.float32) / 65535), bits=16)
    if picture.mode == "F":
        array = np.asarray(picture, np.float32)
        if not np.isfinite(array).all():
            raise FaceLoomError("contains NaN or infinite pixels.")
        return PictureFile(_grey_to_rgb(array.clip(0, 1)), bits=32)
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


def _grey_to_rgb(array: np.ndarray) -> torch.Tensor:
    """Turn ``[H, W]`` into ``[H, W, 3]``."""
    return torch.from_numpy(np.repeat(array[..., None], 3, -1))


def _cmyk_to_rgb(picture: Image.Image, icc: bytes) -> Image.Image:
    """Convert a CMYK picture to sRGB with its profile."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        converted = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        return cast(Image.Image, converted)  # None only where a picture is converted in place
    except (ImageCms.PyCMSError, OSError):  # a damaged profile: Pillow's plain conversion is what every viewer falls back to
        return picture.convert("RGB")


def _bits_of(file: ImageFile.ImageFile) -> int:
    """Return the bits per channel of an opened, not yet decoded file. For 16-bit colour Pillow's mode says 8; the decoder's raw mode is
    read instead."""
    if file.mode == "F":
        return 32
    if file.mode == "I":
        return 32 if file.format == "TIFF" else 16  # PNG and PGM come as "I" scaled to 65535
    raw = file.tile[0][3] if file.tile else ""
    raw = raw[0] if isinstance(raw, tuple) and raw else raw
    return 16 if file.mode in _SIXTEEN_BIT_MODES or (isinstance(raw, str) and ";16" in raw) else 8


def _one_line(error: BaseException) -> str:
    """Return the message of an error on one line, or its type where it has none."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def write_image(path: str | os.PathLike, image: torch.Tensor, metadata: Mapping[str, str] | None = None, *,
                alpha: torch.Tensor | None = None, icc: bytes | None = None) -> None:
    """Write an image ``[H, W, 3]`` in 0..1 with 8 bits per channel (rounded, not truncated). A crash never leaves half a file.

    alpha: ``[H, W]`` in 0..1, kept where the format has it; in JPEG and BMP the image is laid on white. metadata: written as PNG text, or
    as one EXIF description in the other formats. icc: a colour profile to embed as it is. FaceLoomError where the file cannot be
    written, where its suffix is none of ``IMAGE_SUFFIXES``, and for metadata in a .bmp.
    """
    path = Path(path)
    format_name = format_of(path)
    array = to_uint8(image)
    if alpha is not None and format_name in ("JPEG", "BMP"):
        array = to_uint8(image.cpu() * alpha.cpu()[..., None] + (1 - alpha.cpu()[..., None]))
    elif alpha is not None:
        array = np.concatenate([array, to_uint8(alpha)[..., None]], -1)
    options = dict(_SAVE_OPTIONS.get(format_name, {}))
    if icc:
        options["icc_profile"] = icc
    if metadata:
        options |= _metadata_options(format_name, metadata)
    try:
        with replace_file(path) as file:
            Image.fromarray(array).save(file, format=format_name, **options)
    except (OSError, ValueError, KeyError) as error:
        raise FaceLoomError(f"{path} cannot be written ({_one_line(error)}).") from error


def _metadata_options(format_name: str, metadata: Mapping[str, str]) -> dict:
    """Return the options with which Pillow writes the metadata in this format."""
    if format_name == "PNG":
        text = PngImagePlugin.PngInfo()
        for key, value in metadata.items():
            text.add_itxt(key, value)
        return {"pnginfo": text}
    if format_name == "BMP":
        raise FaceLoomError("A .bmp file has no room for provenance; write .png, .jpg, .webp or .tif.")
    exif = Image.Exif()
    exif[_IMAGE_DESCRIPTION] = "; ".join(f"{key}: {value}" for key, value in metadata.items()).encode("ascii", "replace").decode()
    exif[_SOFTWARE] = "FaceLoom"
    return {"exif": exif}


def format_of(path: str | os.PathLike) -> str:
    """Return Pillow's name of the format to write ``path`` in; FaceLoomError where its suffix is none of ``IMAGE_SUFFIXES``."""
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise FaceLoomError(f"{path} cannot be written: pictures are written as {', '.join(IMAGE_SUFFIXES)}.")
    return _FORMATS[suffix]
