"""Pictures as tensors: brought to the one form that is computed with, checked for it, and converted to 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from ..errors import FaceLoomError
from .tone import compress, white_of


def as_images(image: torch.Tensor, name: str = "image", within: Callable[[], Sequence[tuple[slice, slice, slice]]] | None = None,
              whites: Sequence[float] = ()) -> torch.Tensor:
    """Bring any IMAGE to ``[B, H, W, 3]`` float32 0..1 on its own device, the only form that the functions of ``models/`` take.

    image: ``[H, W, C]`` or ``[B, H, W, C]``, C = 1, 3 or 4, any float type or uint8. Alpha is dropped, grey becomes RGB, values outside
    0..1 are clipped; NaN and infinity are an error. What has that form already is returned itself, without a copy.

    Nodes and command line call this once for each picture that comes in. within: gives the windows (frames, rows, columns) that will be
    read, where not all is; only they are searched for such values. whites: the brightest value of each frame (``Faces.whites``); a frame
    whose is above 1 goes through ``tone.compress`` instead of being clipped.
    """
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise FaceLoomError(f"{name} must be a picture batch [B, H, W, 1, 3 or 4] with at least one pixel, not {tuple(image.shape)}.")
    if image.dtype == torch.uint8:
        return expand_rgb(image).to(torch.float32) / 255
    rgb = expand_rgb(image).to(torch.float32)
    parts = [rgb] if within is None else [part for part in (rgb[window] for window in within()) if part.numel()]
    # amin and amax: of a view, both at once (aminmax) take half as long again
    low, high = (torch.stack([limit(part) for part in parts]).tolist() if parts else [] for limit in (torch.amin, torch.amax))
    if not np.isfinite(low + high).all():
        raise FaceLoomError(f"{name} contains NaN or infinite values; check the node before it (an fp16 VAE is the usual cause).")
    if max(whites, default=1) > 1:
        return torch.stack([compress(frame, white_of(whites, i)) for i, frame in enumerate(rgb)])
    return rgb.clamp(0, 1) if min(low, default=0) < 0 or max(high, default=1) > 1 else rgb


def within_0_and_1(pixels: torch.Tensor) -> torch.Tensor:
    """Return pictures or masks of any shape with values clipped to 0..1; where all lie there, the tensor itself."""
    return pixels.clamp(0, 1) if pixels.numel() and (float(pixels.amin()) < 0 or float(pixels.amax()) > 1) else pixels


def as_crops(image: torch.Tensor, name: str = "crops") -> torch.Tensor:
    """Bring any IMAGE of squares to ``[N, S, S, 3]``, as ``as_images`` does; a picture of another shape is no crop and an error."""
    crops = as_images(image, name)
    check_squares(crops)
    return crops


def check_images(images: torch.Tensor, name: str = "image") -> None:
    """Raise unless a tensor has the form that ``as_images`` gives, ``[B, H, W, 3]`` float32. Values are not looked at."""
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != torch.float32:
        raise FaceLoomError(f"{name} must be a float32 tensor [B, H, W, 3], not {images.dtype} {tuple(images.shape)}; bring it to that "
                            "form with as_images.")


def check_squares(crops: torch.Tensor) -> None:
    """Raise unless the pictures of ``[N, H, W, C]`` are squares."""
    if crops.shape[1] != crops.shape[2]:
        raise FaceLoomError(f"Crops must be square, not {crops.shape[2]}×{crops.shape[1]}; connect the crops of Face Detect, bring them "
                            "back to squares, and see that no node before this one is bypassed: it hands the whole picture on.")


def expand_rgb(image: torch.Tensor) -> torch.Tensor:
    """Return ``[..., 1, 3 or 4]`` as ``[..., 3]`` without copying: grey three times, alpha left out. What is RGB is returned itself."""
    if image.shape[-1] == 3:
        return image
    return image.expand(*image.shape[:-1], 3) if image.shape[-1] == 1 else image[..., :3]


def to_pil(image: torch.Tensor) -> Image.Image:
    """Convert ``[H, W, 3]`` 0..1 to an 8-bit PIL picture."""
    return Image.fromarray(to_uint8(image))


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """Convert any tensor of 0..1 to uint8 numpy, rounded and clipped."""
    return image.detach().to("cpu", torch.float32).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
