"""Who a face is: the recognizer protocol and ``make_identity``; ``load.py`` opens recognizers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch

from ..errors import FaceLoomError
from ..faces import Faces, Identity
from ..pixels.tensors import as_images
from ..progress import Progress, silent
from .combine import HOW, combine, outliers, report, same_person_cosine, unit
from .crops import reference_crops
from .dlib import DlibRecognizer
from .quality import quality


@runtime_checkable
class Recognizer(Protocol):
    """Anything that turns faces into vectors whose cosine says how alike they are."""

    space: str

    def embed(self, images: torch.Tensor, faces: Faces, progress: Progress = silent) -> np.ndarray:
        """``[N, D]`` float32 unit rows, one per face of ``images`` ``[B, H, W, 3]``."""


@runtime_checkable
class EmbedsRaw(Protocol):
    """A recognizer whose vectors have a length that means something (how sure it is; some swap networks want it)."""

    def embed_raw(self, images: torch.Tensor, faces: Faces, progress: Progress = silent) -> np.ndarray:
        """``[N, D]`` float32 rows as the network gives them."""


def make_identity(images: torch.Tensor, faces: Faces, recognizer: Recognizer | None = None, *, how: str = "average", name: str = "",
                  progress: Progress = silent) -> tuple[Identity, str]:
    """One identity from all ``faces``, which are taken as photos of one person, and a report of how alike they are.

    recognizer: None is dlib's 128-d network. how: ``"average"`` of the unit vectors; ``"median"`` of every component;
    ``"quality-weighted"`` by resolution, sharpness, frontality and score, where photos that look like somebody else are left out.
    ``average`` and ``median`` use every photo; the report names the strange ones in any case, and their crops come last (in
    ``quality-weighted`` not at all).
    """
    images = as_images(images)
    faces.check_image(images.shape)
    if how not in HOW:
        raise FaceLoomError(f"how must be one of {', '.join(HOW)}, not {how!r}.")
    if not len(faces):
        raise FaceLoomError("There is no face to make an identity of; connect a photo with a face that Face Detect finds.")
    recognizer = recognizer or DlibRecognizer()
    vectors, lengths = _embed(recognizer, images, faces, progress)
    strange = outliers(vectors, same_person_cosine(recognizer.space))
    worth = quality(images, faces)
    dropped = set(strange) if how == "quality-weighted" and len(strange) < len(faces) else set()
    weights = np.array([0.0 if i in dropped else w for i, w in enumerate(worth)])
    spaces = {recognizer.space: vectors}
    for space in set.intersection(*(set(face.embeddings) for face in faces)) - {recognizer.space}:
        spaces[space] = np.stack([face.embeddings[space] for face in faces])
    order = sorted((i for i in range(len(faces)) if i not in dropped), key=lambda i: (i in strange, -worth[i]))
    crops, shown, framing = reference_crops(images, faces.take(order))
    norms = {} if lengths is None else {recognizer.space: float(lengths[[i for i in range(len(faces)) if i not in dropped]].mean())}
    embeddings = {space: combine(rows, how, weights) for space, rows in spaces.items()}
    identity = Identity(embeddings, crops, shown, framing, name, len(faces), norms)
    return identity, report(vectors, faces.frame_indices, worth, recognizer.space, strange, how)


def _embed(recognizer: Recognizer, images: torch.Tensor, faces: Faces, progress: Progress) -> tuple[np.ndarray, np.ndarray | None]:
    """Unit rows ``[N, D]``, and the lengths ``[N]`` they had where the recognizer says."""
    if not isinstance(recognizer, EmbedsRaw):
        return recognizer.embed(images, faces, progress), None
    raw = recognizer.embed_raw(images, faces, progress)
    return unit(raw), np.linalg.norm(raw, axis=1)
