"""Reads and writes picture files: upright, with transparency, colour profile, metadata and depth, and with all their frames."""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageCms, ImageFile

from ..errors import FaceLoomError
from ..pixels.tensors import to_uint8
from .cache import write_file
from .exif import ORIENTATION
from .picture_formats import SEVERAL, TIMED, format_of, plug_in
from .picture_metadata import Metadata, completed, read_metadata, save_options

# Raises the number of pixels up to which pictures are read, which is Pillow's own.
LIMIT_VARIABLE = "FACELOOM_MAX_MEGAPIXELS"

_SAVE_OPTIONS: dict[str, dict] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "AVIF": {"quality": 90, "subsampling": "4:4:4"},
    "HEIF": {"quality": 95, "chroma": 444},
    "TIFF": {"compression": "tiff_lzw"},
}
_LARGEST_SIDE = {"JPEG": 65500, "WEBP": 16383, "GIF": 65535}  # pixels
_NO_ALPHA = ("JPEG", "BMP")
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
# The errors that Pillow's decoders are known to raise on damaged files.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, OverflowError, MemoryError, KeyError, IndexError,
                   zlib.error, Image.DecompressionBombError)
_TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
          5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}
_SUBFILE_TYPE = 254


@dataclass(frozen=True, eq=False)
class PictureFile:
    """A picture file in memory, or one frame of it.

    image: ``[H, W, 3]`` float32 RGB in 0..1, upright. alpha: ``[H, W]`` float32 in 0..1, or None for an opaque file.
    icc: the RGB colour profile to write back with the pixels, or None. bits: per channel in the file (results are written with 8).
    metadata: to write back too. milliseconds: how long the frame is shown. notes: sentences about what was left out or mended.
    """

    image: torch.Tensor
    alpha: torch.Tensor | None = None
    icc: bytes | None = None
    bits: int = 8
    metadata: Metadata = field(default_factory=Metadata)
    milliseconds: float = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frames:
    """The frames (or pages) of a picture file. count: 1 for a still. loop: how often they are shown, 0 for ever; None: the file does not
    say. still_first: whether the first one is only for viewers that cannot play the rest (APNG). timed: whether each has a time."""

    count: int = 1
    loop: int | None = None
    still_first: bool = False
    timed: bool = False


def read_image(path: str | os.PathLike) -> torch.Tensor:
    """Read the pixels of a picture file: ``[H, W, 3]`` float32 RGB in 0..1; ``read_picture_file`` says how."""
    return read_picture_file(path).image


def read_picture_file(path: str | os.PathLike) -> PictureFile:
    """Read a picture file and turn it upright as its EXIF tag says; of an animation the first frame, which is noted.

    16-bit grey and float files keep their depth; 16-bit colour is read with 8 bits, as Pillow does. CMYK is converted with the file's own
    profile. A JPEG whose end is missing is read as far as it goes, which is noted too. FaceLoomError where the file is missing, damaged,
    too large or no picture.
    """
    with _reading(path):
        with Image.open(path) as file:
            count = int(getattr(file, "n_frames", 1))
            notes = [f"{path} holds {count} pictures; the first was taken."] if count > 1 else []
            try:
                return _decode(file, path, notes)
            except OSError as error:
                if file.format not in ("JPEG", "MPO") or "truncated" not in str(error):
                    raise
        notes.append(f"{path} is cut short; what is missing at its end is grey.")
        with Image.open(io.BytesIO(Path(path).read_bytes() + b"\xff\xd9")) as file:  # with an end, the decoder fills what is missing
            return _decode(file, path, notes)


def read_frames(path: str | os.PathLike) -> Iterator[PictureFile]:
    """Read every frame or page of a picture file as ``read_picture_file`` reads the first one. Pages that are small versions of others are
    left out, for they show the picture as it was."""
    with _reading(path):
        file = Image.open(path)
    with file:
        for number in range(_frames_of(file).count):
            with _reading(path):
                file.seek(number)
                if number and getattr(file, "tag_v2", {}).get(_SUBFILE_TYPE, 0) & 1:
                    continue
                picture = _decode(file, path)
            yield picture


def frames_in(path: str | os.PathLike) -> Frames:
    """Return how many frames or pages a picture file holds, and how they are shown. Of the formats whose further pictures are thumbnails,
    layers or other views of the first one, 1."""
    with _reading(path), Image.open(path) as file:
        return _frames_of(file)


def _frames_of(file: ImageFile.ImageFile) -> Frames:
    count = int(getattr(file, "n_frames", 1)) if file.format in SEVERAL else 1
    loop = file.info.get("loop")
    return Frames(count, loop if isinstance(loop, int) else None, bool(file.info.get("default_image")), file.format in TIMED)


@contextmanager
def _reading(path: str | os.PathLike) -> Iterator[None]:
    """Let Pillow read a picture file: every kind that plug-ins add, up to the size that the user's environment names, and whatever goes
    wrong becomes a sentence."""
    plug_in()
    usual = Image.MAX_IMAGE_PIXELS
    try:
        if os.environ.get(LIMIT_VARIABLE):
            Image.MAX_IMAGE_PIXELS = _pixel_limit(os.environ[LIMIT_VARIABLE])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large and odd files that it reads well enough
            yield
    except FileNotFoundError:
        raise FaceLoomError(f"There is no file {path}.") from None
    except _NotDecoded as error:
        raise FaceLoomError(f"{path} {error}") from None
    except Image.DecompressionBombError as error:
        pixels, limit = (int(number) // 10**6 for number in re.findall(r"\d+", str(error))[:2])
        raise FaceLoomError(f"{path} exceeds limits: it has {pixels} megapixels, and up to {limit} are read; if you trust the file, set "
                            f"the environment variable {LIMIT_VARIABLE} to {pixels + 1}.") from None
    except _DECODER_ERRORS as error:
        raise FaceLoomError(f"{path} cannot be read as a picture ({_one_line(error)}).") from error
    finally:
        Image.MAX_IMAGE_PIXELS = usual


def _pixel_limit(words: str) -> int:
    """Read a number of megapixels as what Pillow calls its limit: Pillow refuses pictures of more than twice as many pixels."""
    with suppress(ValueError):
        if 0 < float(words) < 1e9:
            return int(float(words) * 1e6 / 2)
    raise FaceLoomError(f"{LIMIT_VARIABLE} must be a number of megapixels, such as 400, not {words!r}.")


class _NotDecoded(FaceLoomError):
    """Pixels of a kind that is not taken. The sentence begins after the file's name."""


def _decode(file: ImageFile.ImageFile, path: str | os.PathLike, notes: Sequence[str] = ()) -> PictureFile:
    """Decode the frame at which an opened file stands."""
    bits, before = _bits_of(file), _orientation_of(file)
    file.load()
    orientation = _orientation_of(file)  # 1 where the decoder has turned the picture already
    picture = file.transpose(_TURNS[orientation]) if orientation in _TURNS else file
    metadata = read_metadata(file, picture.width, picture.height, turned=max(before, orientation) >= 5)
    notes = [*notes, *(f"The {kind} data of {path} is damaged and is left out." for kind in metadata.damaged)]
    rest: dict = {"metadata": metadata, "milliseconds": float(file.info.get("duration") or 0), "notes": tuple(notes)}
    if picture.mode in _SIXTEEN_BIT_MODES:
        if bits != 16:
            raise _NotDecoded("has 32-bit integer pixels; save it with 8 or 16 bits per channel.")
        return PictureFile(_grey_to_rgb(np.asarray(picture, np.float32) / 65535), bits=16, **rest)
    if picture.mode == "F":
        array = np.asarray(picture, np.float32)
        if not np.isfinite(array).all():
            raise _NotDecoded("contains NaN or infinite pixels.")
        return PictureFile(_grey_to_rgb(array.clip(0, 1)), bits=32, **rest)
    icc = file.info.get("icc_profile")
    if picture.mode == "CMYK" and icc:
        picture, icc = _cmyk_to_rgb(picture, icc), None
    alpha = None
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        array = np.asarray(picture.getchannel("A"), np.float32) / 255
        alpha = torch.from_numpy(array) if array.min() < 1 else None
    image = torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 255)
    return PictureFile(image, alpha, icc if icc and icc[16:20] == b"RGB " else None, bits, **rest)


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


def _orientation_of(file: ImageFile.ImageFile) -> int:
    """Return the EXIF orientation of an opened file, 1 to 8; 1 where it says none that can be read."""
    try:
        found = file.getexif().get(ORIENTATION, 1)
    except _DECODER_ERRORS:
        return 1
    return found if found in _TURNS else 1


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


def picture_array(image: torch.Tensor, alpha: torch.Tensor | None, format_name: str) -> np.ndarray:
    """Return the bytes ``[H, W, 3 or 4]`` to write of an image ``[H, W, 3]`` and its alpha ``[H, W]``, rounded. In formats without
    transparency the image is laid on white."""
    if alpha is None:
        return to_uint8(image)
    if format_name in _NO_ALPHA:
        return to_uint8(image.cpu() * alpha.cpu()[..., None] + (1 - alpha.cpu()[..., None]))
    return np.concatenate([to_uint8(image), to_uint8(alpha)[..., None]], -1)


def write_image(path: str | os.PathLike, image: torch.Tensor, metadata: Mapping[str, str] | None = None, *,
                alpha: torch.Tensor | None = None, icc: bytes | None = None, about: Metadata | None = None) -> list[str]:
    """Write an image ``[H, W, 3]`` in 0..1 with 8 bits per channel (rounded, not truncated). A crash never leaves half a file.

    alpha: ``[H, W]`` in 0..1, kept where the format has it; in JPEG and BMP the image is laid on white. metadata: written as PNG text, or
    as one EXIF description in the other formats. icc: a colour profile to embed as it is. about: the metadata of the photograph that the
    image was made from. Returns what of that the format has no room for. FaceLoomError where the file cannot be written, where its suffix
    is unknown, and for metadata in a .bmp.
    """
    return write_pictures(path, [picture_array(image, alpha, format_of(path))], metadata, icc=icc, about=about)


def write_pictures(path: str | os.PathLike, pictures: Sequence[np.ndarray], metadata: Mapping[str, str] | None = None, *,
                   milliseconds: Sequence[float] = (), frames: Frames | None = None, icc: bytes | None = None,
                   about: Metadata | None = None) -> list[str]:
    """Write one picture, or several as frames or pages, of ``picture_array``'s form; else as ``write_image``.

    milliseconds: how long each frame is shown. frames: how all of them are shown.
    """
    format_name, about = format_of(path), about or Metadata()
    images = [Image.fromarray(picture) for picture in pictures]
    see_through = any(image.mode == "RGBA" for image in images)
    data = io.BytesIO()  # Pillow's JPEG writer takes no notice of a disk that is full
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata
            options, lost = save_options(format_name, about, metadata or {})
            options |= _SAVE_OPTIONS.get(format_name, {}) | ({"icc_profile": icc} if icc else {})
            if len(images) > 1:
                images = [image.convert("RGBA") for image in images] if see_through else images
                options |= {"save_all": True, "append_images": images[1:]}
                options |= _timing(format_name, milliseconds, frames or Frames(len(images)), see_through)
            images[0].save(data, format=format_name, **options)
            with Image.open(data) as written:
                if written.size != images[0].size:
                    raise OSError("the encoder wrote another size")
    except (*_DECODER_ERRORS, RuntimeError) as error:
        raise FaceLoomError(f"{path} cannot be written ({_one_line(error)}).") from error
    write_file(path, completed(format_name, data.getvalue(), about))
    return lost


def _timing(format_name: str, milliseconds: Sequence[float], frames: Frames, see_through: bool) -> dict:
    """Return the options with which Pillow writes how frames are shown."""
    if format_name not in TIMED:
        return {}
    if format_name == "PNG":
        times = list(milliseconds)[1:] if frames.still_first else list(milliseconds)
        return {"duration": times, "loop": 1 if frames.loop is None else frames.loop, "default_image": frames.still_first}
    options: dict = {"duration": [round(time) for time in milliseconds]}
    if format_name == "WEBP":
        options["loop"] = 1 if frames.loop is None else frames.loop
        options |= {"kmin": 0, "kmax": 1} if see_through else {}  # else libwebp forgets alpha that lies at the border
    if format_name == "GIF":
        options |= {"loop": frames.loop} if frames.loop is not None else {}
        options |= {"disposal": 2} if see_through else {}  # else a frame would show through the holes of the next one
    return options


def check_size(path: str | os.PathLike, width: int, height: int) -> None:
    """Raise FaceLoomError where the format of ``path`` cannot hold a picture of so many pixels."""
    largest = _LARGEST_SIDE.get(format_of(path), max(width, height))
    if max(width, height) > largest:
        raise FaceLoomError(f"{path} cannot be written: a picture of {width} × {height} does not fit into its format, which ends at "
                            f"{largest} pixels; write .png or .tif.")
