"""Bringing whatever an artist connects to the one form that is computed with, and reading and writing picture files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from .errors import FaceLoomError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def as_images(image: torch.Tensor, name: str = "image") -> torch.Tensor:
    """Any IMAGE (``[H, W, C]`` or ``[B, H, W, C]``, C = 1, 3 or 4, any float or uint8) as ``[B, H, W, 3]`` float32 0..1 on its
    own device. Alpha is dropped, grey becomes RGB, values outside 0..1 are clipped; NaN and infinity are an error."""
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise FaceLoomError(f"{name} must be a picture batch [B, H, W, 1, 3 or 4] with at least one pixel, not {tuple(image.shape)}.")
    if image.dtype == torch.uint8:
        return expand_rgb(image).to(torch.float32) / 255
    rgb = expand_rgb(image).to(torch.float32)
    low, high = torch.aminmax(rgb)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise FaceLoomError(f"{name} contains NaN or infinite values; check the node before it (an fp16 VAE is the usual cause).")
    return rgb if low >= 0 and high <= 1 else rgb.clamp(0, 1)


def expand_rgb(image: torch.Tensor) -> torch.Tensor:
    """``[..., 1, 3 or 4]`` to ``[..., 3]`` without copying."""
    return image.expand(*image.shape[:-1], 3) if image.shape[-1] == 1 else image[..., :3]


def read_image(path: str | os.PathLike) -> torch.Tensor:
    """A picture file as ``[H, W, 3]`` float32 0..1, turned upright by its EXIF tag; 16-bit files keep their depth."""
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode in ("I;16", "I;16L", "I;16B", "I"):
                array = np.asarray(picture, np.float32)[..., None].repeat(3, -1) / 65535
            elif picture.mode == "F":
                array = np.asarray(picture, np.float32)[..., None].repeat(3, -1)
            else:
                array = np.asarray(picture.convert("RGB"), np.float32) / 255
    except FileNotFoundError:
        raise FaceLoomError(f"There is no file {path}.") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FaceLoomError(f"{path} cannot be read as a picture ({error}).") from error
    return torch.from_numpy(np.ascontiguousarray(array))


def write_image(path: str | os.PathLike, image: torch.Tensor, metadata: dict[str, str] | None = None) -> None:
    """Write ``[H, W, 3]`` 0..1 (rounded, not truncated) to ``path`` in one move, so a crash never leaves half a file.
    ``metadata`` becomes PNG text."""
    path = Path(path)
    picture = to_pil(image)
    options: dict = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
    if metadata and path.suffix.lower() == ".png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        for key, value in metadata.items():
            options["pnginfo"].add_itxt(key, value)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(suffix=path.suffix, dir=path.parent)
        os.close(handle)
        picture.save(temporary, **options)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, ValueError, KeyError) as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise FaceLoomError(f"{path} cannot be written ({error}).") from error


def to_pil(image: torch.Tensor) -> Image.Image:
    """``[H, W, 3]`` 0..1 as an 8-bit PIL picture."""
    array = image.detach().to("cpu", torch.float32).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    return Image.fromarray(array)


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """``[..., 3]`` 0..1 as uint8 numpy, rounded."""
    return image.detach().to("cpu", torch.float32).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
