"""Several photos of one person, each with its own size and faces, as one batch; also the reference photos an identity keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import FaceLoomError
from ..faces import Faces, Identity


def join_photos(images: Sequence[torch.Tensor], faces: Sequence[Faces]) -> tuple[torch.Tensor, Faces]:
    """Join batches ``[B, H, W, 3]`` of any sizes, and the faces of each, to one batch of the largest height and width.

    Smaller photos are extended to the right and below by repeating their edge, so that no point moves. Crop size and framing are the
    first batch's. Lists of different lengths, or faces of other images, are a FaceLoomError.
    """
    if len(images) != len(faces):
        raise FaceLoomError(f"There are {len(images)} list(s) of photos but {len(faces)} of faces; connect the images that went into "
                            "Face Detect.")
    for batch, found in zip(images, faces, strict=True):
        found.check_image(batch.shape)
    if len(images) == 1:
        return images[0], faces[0]
    height, width = (max(batch.shape[axis] for batch in images) for axis in (1, 2))
    items, frames = [], 0
    for found in faces:
        items += [replace(face, frame=face.frame + frames) for face in found]
        frames += found.frames
    joined = torch.cat([_extend(batch, height, width).to(images[0].device) for batch in images])
    return joined, replace(faces[0], items=tuple(items), frames=frames, height=height, width=width)


def _extend(batch: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Extend ``[B, h, w, 3]`` to ``[B, height, width, 3]`` by repeating the right and the lower edge."""
    right, below = width - batch.shape[2], height - batch.shape[1]
    if not right and not below:
        return batch
    return F.pad(batch.movedim(-1, 1), (0, right, 0, below), mode="replicate").movedim(1, -1)


def check_photos(identity: Identity, reader: str) -> None:
    """Raise FaceLoomError where the identity has no reference photo. reader: what wants to look at one."""
    if not len(identity.crops):
        raise FaceLoomError(f"{reader} looks at a photo of the source, and this identity has none; make it with ArcFace Embed.")


def reference_photos(identity: Identity, reader: str, count: int | None = None) -> tuple[torch.Tensor, Faces]:
    """Return the identity's reference photos ``[K, S, S, 3]``, a copy on the CPU, and the faces in them, one in each.

    reader: what looks at the photos, for the error where the identity has none. count: how many of the best; None: all.
    """
    check_photos(identity, reader)
    photos = torch.from_numpy(np.array(identity.crops[:count]))
    items = tuple(replace(face, frame=number) for number, face in enumerate(identity.faces[:count]))
    count, height, width = photos.shape[:3]
    return photos, Faces(items, count, height, width)
