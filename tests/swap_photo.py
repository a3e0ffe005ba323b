"""A swap engine's whole photographs, for tests."""

from __future__ import annotations

import torch
from faceloom.models.faces import Faces, Identity
from faceloom.models.options.paste import PasteSettings
from faceloom.models.paste import paste
from faceloom.models.progress import silent
from faceloom.models.systems.engine import SystemEngine


def swap_photo(engine: SystemEngine, images: torch.Tensor, faces: Faces, identity: Identity, blend: str = "feather", progress=silent
               ) -> torch.Tensor:
    """The photographs ``[B, H, W, 3]`` with the identity on these faces, as the command line makes them."""
    aligned = engine.align(faces)
    crops, masks = engine.swap(images, aligned, engine.prepare(identity), progress=progress)
    return paste(images, aligned, crops, masks, PasteSettings(blend=blend))[0]
