"""Swapped crops to crops that look like part of their photograph again: ``restore_crops``; ``load.py`` opens restoration networks."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch

from ..crops.crop import check_crop_count
from ..errors import FaceLoomError
from ..faces import Faces
from ..options.restore import RestoreSettings
from ..parse import region_mask
from ..pixels.masks import fit_mask
from ..pixels.resize import resize_bicubic
from ..pixels.tensors import check_images
from ..progress import Progress, silent
from .grain import match_photo
from .square import face_points


@runtime_checkable
class Restorer(Protocol):
    """A network that makes detail in canonical crops."""

    name: str

    def restore(self, crops: torch.Tensor, fidelity: float, progress: Progress = silent, points: np.ndarray | None = None
                ) -> torch.Tensor:
        """Restore crops ``[N, S, S, 3]`` to ``[N, T, T, 3]``, both float32 0..1.

        fidelity: 0 is the most detail, 1 the closest to the input. points: ``[N, 5, 2]``, where the crops show the five points of the face
        (``square.face_points``); None is where FFHQ's template has them.
        """
        ...


def restore_crops(crops: torch.Tensor, *, restorer: Restorer | None = None, fidelity: float = 0.5, amount: float = 1.0,
                  images: torch.Tensor | None = None, faces: Faces | None = None, masks: torch.Tensor | None = None,
                  progress: Progress = silent) -> torch.Tensor:
    """Restore crops ``[N, S, S, 3]`` float32 0..1, which keep their size and device.

    restorer: None matches sharpness and grain of each crop to the photograph it belongs to, which needs ``images`` ``[B, H, W, 3]`` and
    ``faces`` (see grain.match_photo). fidelity: of the restorer, 0..1. amount: 0 returns the crops as they are, 1 is the full effect.
    masks: where (any mask form, crop space); nothing outside changes. None is the whole crop for a network, and the face with its forehead
    without one.
    """
    RestoreSettings(amount, fidelity).check()
    check_images(crops, "crops")
    count, height, width = crops.shape[:3]
    if faces is not None and len(faces) == 0:
        return crops
    if faces is not None:
        check_crop_count(count, faces)
    if masks is not None:
        masks = fit_mask(masks, count, height, width).to(crops.device)
    if amount == 0:
        return crops
    if restorer is not None:
        masks = crops.new_ones((count, height, width)) if masks is None else masks
        restored = _restore_with(restorer, crops, fidelity, masks, face_points(faces, height) if faces else None, progress)
    else:
        if images is None or faces is None:
            raise FaceLoomError("Restore without a model matches the photograph; connect the image and the faces, or a restore model.")
        check_images(images)
        faces.check_image(images.shape)
        masks = region_mask(("face",), height, faces=faces).to(crops.device) if masks is None else masks
        restored = match_photo(crops, images, faces, masks, progress)
    return mix_restored(crops, restored, masks, amount)


def mix_restored(crops: torch.Tensor, restored: torch.Tensor, masks: torch.Tensor, amount: float) -> torch.Tensor:
    """Return crops ``[N, S, S, 3]`` with ``amount`` (0..1) of the restored ones inside the masks ``[N, S, S]``; outside bit for bit."""
    share = masks[..., None] * amount
    return torch.where(share > 0, (crops + (restored - crops) * share).clamp(0, 1), crops)


def _restore_with(restorer: Restorer, crops: torch.Tensor, fidelity: float, masks: torch.Tensor, points: np.ndarray | None,
                  progress: Progress) -> torch.Tensor:
    """Run the network on the crops whose mask is not empty, and return all crops at their own size."""
    chosen = torch.nonzero(masks.flatten(1).amax(1) > 0).flatten()
    if len(chosen) == 0:
        return crops
    points = None if points is None else points[chosen.cpu().numpy()]
    outputs = restorer.restore(crops[chosen], fidelity, progress, points).to(device=crops.device, dtype=crops.dtype)
    restored = resize_bicubic(outputs, (crops.shape[1], crops.shape[2]))
    return restored if len(chosen) == len(crops) else crops.index_copy(0, chosen, restored)
