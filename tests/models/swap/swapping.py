"""One swap by an engine that is asked once."""

from __future__ import annotations

import torch
from faceloom.models.faces import Faces, Identity
from faceloom.models.options.swap import SwapSettings
from faceloom.models.progress import Progress, silent
from faceloom.models.swap import SwapEngine


def swapped(engine: SwapEngine, images: torch.Tensor, faces: Faces, identity: Identity | None, size: int, *, strength: float = 1.0,
            pixel_boost: int = 1, progress: Progress = silent) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops and masks. identity: None for an engine that takes nothing of one."""
    source = None if identity is None else engine.prepare(identity)
    return engine.swap(images, faces, source, SwapSettings(strength, pixel_boost, size), progress)
