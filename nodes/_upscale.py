"""Core's UPSCALE_MODEL (spandrel, loaded by UpscaleModelLoader) as one of our restorers."""

from __future__ import annotations

import comfy.model_management
import torch
import torch.nn.functional as F

from ..models.progress import Progress, silent

# GFPGAN and RestoreFormer were trained on crops of this size and take no other.
FACE_SIZE = 512


class UpscaleRestorer:
    """Runs the network on whole crops, one after the other, and returns them at the size they came in."""

    def __init__(self, descriptor):
        self.descriptor = descriptor
        self.name = getattr(descriptor.architecture, "name", "upscale model")

    def restore(self, crops: torch.Tensor, fidelity: float, progress: Progress = silent, framing: float = 1.0) -> torch.Tensor:
        size = crops.shape[1]
        work_size = FACE_SIZE if self.descriptor.purpose == "FaceSR" else size
        # Core's own estimate of what such a network needs (nodes_upscale_model.py).
        need = work_size * work_size * 3 * 4 * max(self.descriptor.scale, 1.0) * 384.0
        comfy.model_management.load_models_gpu([self.descriptor.patcher], memory_required=need, force_full_load=True)
        restored = []
        for done, crop in enumerate(crops):
            progress(done, len(crops))
            picture = crop.movedim(-1, 0)[None].to(self.descriptor.patcher.load_device)
            answer = self.descriptor(_resize(picture, work_size).float())
            restored.append(_resize(answer.clamp(0, 1), size)[0].movedim(0, -1).to(crops.device))
        progress(len(crops), len(crops))
        return torch.stack(restored)


def _resize(picture: torch.Tensor, size: int) -> torch.Tensor:
    if picture.shape[-1] == size:
        return picture
    return F.interpolate(picture, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
