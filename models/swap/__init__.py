"""Turning target crops and an identity into swapped crops: the engine protocol, the table of built-in engines, and ``swap_faces``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch

from ..crops.crop import crop_faces, crop_matrices, face_windows
from ..detect import kept_positions
from ..faces import Faces, Identity
from ..pixels.affine import scale_of
from ..pixels.masks import fit_mask, is_placeholder
from ..pixels.tensors import as_images
from ..progress import Progress, silent
from .load import load_engine

__all__ = ["ENGINES", "SwapEngine", "load_engine", "lost_detail", "swap_faces"]


class SwapEngine(Protocol):
    """Anything that draws an identity over target faces."""

    name: str

    def swap(self, images: torch.Tensor, faces: Faces, identity: Identity, size: int, *, strength: float = 1.0, pixel_boost: int = 1,
             progress: Progress = silent) -> tuple[torch.Tensor, torch.Tensor]:
        """Canonical crops ``[N, size, size, 3]`` and the masks ``[N, size, size]`` of where they show the new face; outside its mask a
        crop is the target's own."""


def _mesh() -> SwapEngine:
    from .mesh import MeshEngine

    return MeshEngine()


ENGINES: dict[str, Callable[[], SwapEngine]] = {"mesh": _mesh}


def swap_faces(images: torch.Tensor, faces: Faces, identity: Identity, engine: SwapEngine | None = None, *, size: int | None = None,
               strength: float = 1.0, pixel_boost: int = 1, which: str = "all", mask: torch.Tensor | None = None,
               progress: Progress = silent) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops ``[N, S, S, 3]`` and masks ``[N, S, S]`` of all ``faces`` of ``images`` ``[B, H, W, C]``, the ones ``which`` names swapped.

    engine: None is the built-in mesh warp. size: edge of the crops (the faces' own crop size). which: ``"all"``, ``"first"`` or
    positions such as ``"0,2,-1"`` or ``"0-3"``; the other faces keep the target's crop and get an all-zero mask. mask: how much of the
    new faces may show where (any mask form, crop space, one for all faces or one for each); the engine's masks are multiplied by it,
    where it is 0 the crops are the target's, bit for bit, and a face it leaves nothing of is not swapped. LoadImage's placeholder is
    no mask.
    """
    images = as_images(images, within=partial(face_windows, faces))
    faces.check_image(images.shape)
    size = size or faces.crop_size
    chosen = sorted(kept_positions(which, len(faces)))
    shown = _shown(mask, len(faces), size)
    if shown is not None:
        left = (shown.amax((1, 2)) > 0).tolist()
        chosen = [i for i in chosen if left[i]]
    others = [i for i in range(len(faces)) if i not in chosen]
    if chosen:
        engine = engine or ENGINES["mesh"]()
        taken = faces.take(chosen)
        swapped = engine.swap(images, taken, identity, size, strength=strength, pixel_boost=pixel_boost, progress=progress)
        if shown is not None:
            swapped = _behind(crop_faces(images, taken, size), *swapped, shown[chosen] if others else shown)
        if not others:
            return swapped
    crops = torch.empty((len(faces), size, size, 3), device=images.device)
    crops[others] = crop_faces(images, faces.take(others), size)
    masks = crops.new_zeros(crops.shape[:3])
    if chosen:
        crops[chosen], masks[chosen] = swapped
    return crops, masks


def _shown(mask: torch.Tensor | None, count: int, size: int) -> torch.Tensor | None:
    """``[count, size, size]``, or None where no mask was meant. A mask of the crops' own size is one, even where LoadImage's
    placeholder has that size too."""
    if mask is None or count == 0 or (is_placeholder(mask) and size != mask.shape[-1]):
        return None
    return fit_mask(mask, count, size, size)


def _behind(targets: torch.Tensor, crops: torch.Tensor, masks: torch.Tensor, shown: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """An engine's crops and masks as far as ``shown`` ``[N, S, S]`` lets them through; written into the ``targets`` ``[N, S, S, 3]``."""
    shown = shown.to(targets.device)
    return targets.lerp_(crops.to(targets), shown[..., None]), masks * shown.to(masks)


def lost_detail(faces: Faces, engine: SwapEngine | None, pixel_boost: int = 1) -> str:
    """What to do where crops are too small for what the engine draws and the photograph could show; else ""."""
    drawn = getattr(engine, "size", 0) * pixel_boost
    if not len(faces) or drawn <= faces.crop_size or float(scale_of(crop_matrices(faces, faces.crop_size)).min()) >= 1:
        return ""
    return (f"{engine.name} draws {drawn} pixels, and crops of {faces.crop_size} are smaller than the face is in the picture; set "
            f"crop_size {drawn} in Face Detect to keep the detail.")
