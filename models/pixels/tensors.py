"""Pictures as tensors: brought to the one form that is computed with, and to 8 bits."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from ..errors import FaceLoomError


def as_images(image: torch.Tensor, name: str = "image", within: Callable[[], Sequence[tuple[slice, slice, slice]]] | None = None
              ) -> torch.Tensor:
    """Any IMAGE (``[H, W, C]`` or ``[B, H, W, C]``, C = 1, 3 or 4, any float or uint8) as ``[B, H, W, 3]`` float32 0..1 on its
    own device. Alpha is dropped, grey becomes RGB, values outside 0..1 are clipped; NaN and infinity are an error.

    ``within`` tells the parts (frames, rows, columns) that will be read, where not all is; only they are looked through for such values.
    A picture that was looked through whole and given back as it is (nobody writes in it) is not looked through again."""
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise FaceLoomError(f"{name} must be a picture batch [B, H, W, 1, 3 or 4] with at least one pixel, not {tuple(image.shape)}.")
    if image.dtype == torch.uint8:
        return expand_rgb(image).to(torch.float32) / 255
    if _sound.get(id(image)) is image:
        return image
    rgb = expand_rgb(image).to(torch.float32)
    parts = [rgb] if within is None else [part for part in (rgb[where] for where in within()) if part.numel()]
    # amin and amax: of a part, both at once (aminmax) take half as long again
    low, high = (torch.stack([limit(part) for part in parts]).tolist() if parts else [] for limit in (torch.amin, torch.amax))
    if not np.isfinite(low + high).all():
        raise FaceLoomError(f"{name} contains NaN or infinite values; check the node before it (an fp16 VAE is the usual cause).")
    if min(low, default=0) < 0 or max(high, default=1) > 1:
        return rgb.clamp(0, 1)
    return sound(rgb) if rgb is image and within is None else rgb

# Batches that are as ``as_images`` wants them, by id: each node would look at every pixel of a clip again.
_sound: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()


def sound(images: torch.Tensor) -> torch.Tensor:
    """``[B, H, W, 3]`` float32 whose maker vouches that all values are within 0..1 and that nobody writes in it any more."""
    _sound[id(images)] = images
    return images


def as_crops(image: torch.Tensor, name: str = "crops") -> torch.Tensor:
    """Any IMAGE of squares as ``[N, S, S, 3]``, as ``as_images`` does; a picture of another shape is no crop and an error."""
    crops = as_images(image, name)
    if crops.shape[1] != crops.shape[2]:
        raise FaceLoomError(f"Crops must be square, not {crops.shape[2]}×{crops.shape[1]}; connect the crops of Face Detect, or bring them "
                            "back to squares.")
    return crops


def expand_rgb(image: torch.Tensor) -> torch.Tensor:
    """``[..., 1, 3 or 4]`` to ``[..., 3]`` without copying; what is RGB is given back itself."""
    if image.shape[-1] == 3:
        return image
    return image.expand(*image.shape[:-1], 3) if image.shape[-1] == 1 else image[..., :3]


def to_pil(image: torch.Tensor) -> Image.Image:
    """``[H, W, 3]`` 0..1 as an 8-bit PIL picture."""
    return Image.fromarray(to_uint8(image))


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """Any tensor of 0..1 as uint8 numpy, rounded."""
    return image.detach().to("cpu", torch.float32).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
