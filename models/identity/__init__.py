"""Faces to Identity: the ``Recognizer`` protocol and ``make_identity``; ``load.py`` opens recognizers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch

from ..errors import FaceLoomError
from ..faces import Faces, Identity
from ..options.ranges import check_choice
from ..pixels.tensors import check_images
from ..progress import Progress, silent
from .combine import COMBINE_METHODS, combine, outliers, same_person_cosine, similarity_report, unit_vectors
from .crops import reference_crops
from .dlib import DlibRecognizer
from .quality import photo_quality


@runtime_checkable
class Recognizer(Protocol):
    """Embeds faces as vectors whose cosine says how alike the faces are. space: a name for vectors that may be compared."""

    space: str

    def embed(self, images: torch.Tensor, faces: Faces, progress: Progress = silent) -> np.ndarray:
        """Embed the ``faces`` of ``images`` ``[B, H, W, 3]`` float32 0..1 as unit rows ``[N, D]`` float32."""
        ...


@runtime_checkable
class EmbedsRaw(Protocol):
    """A recognizer whose vectors have a length that means something: how sure it is. Some swap networks want it."""

    def embed_raw(self, images: torch.Tensor, faces: Faces, progress: Progress = silent) -> np.ndarray:
        """Embed the faces as rows ``[N, D]`` float32 of the length that the network gives them."""
        ...


def make_identity(images: torch.Tensor, faces: Faces, recognizer: Recognizer | None = None, *, how: str = "average", name: str = "",
                  progress: Progress = silent) -> tuple[Identity, str]:
    """Make one identity of all ``faces`` of ``images`` ``[B, H, W, 3]``, which are taken to show one person.

    recognizer: None is dlib's 128-d network. how: ``"average"`` of the unit vectors; ``"median"`` of every component;
    ``"quality-weighted"`` by resolution, sharpness, frontality and score, where photos that look like somebody else are left out.
    ``average`` and ``median`` use every photo; the report names those of somebody else in any case, and their crops come last (in
    ``quality-weighted`` not at all). name: what the user calls the person.

    Returns the identity and a report, as text, of how alike the photos are. No faces, or another ``how``, are a FaceLoomError.
    """
    check_images(images)
    faces.check_image(images.shape)
    check_choice("how", how, COMBINE_METHODS)
    if not len(faces):
        raise FaceLoomError("There is no face to make an identity of; connect a photo with a face that Face Detect finds.")
    recognizer = recognizer or DlibRecognizer()
    vectors, lengths = _embed_with_lengths(recognizer, images, faces, progress)
    strange = outliers(vectors, same_person_cosine(recognizer.space))
    qualities = photo_quality(images, faces)
    dropped = set(strange) if how == "quality-weighted" and len(strange) < len(faces) else set()
    weights = np.array([0.0 if i in dropped else w for i, w in enumerate(qualities)])
    spaces = {recognizer.space: vectors}
    for space in set.intersection(*(set(face.embeddings) for face in faces)) - {recognizer.space}:
        spaces[space] = np.stack([face.embeddings[space] for face in faces])
    order = sorted((i for i in range(len(faces)) if i not in dropped), key=lambda i: (i in strange, -qualities[i]))
    crops, crop_faces, framing = reference_crops(images, faces.take(order))
    norms = {} if lengths is None else {recognizer.space: float(lengths[[i for i in range(len(faces)) if i not in dropped]].mean())}
    embeddings = {space: combine(rows, how, weights) for space, rows in spaces.items()}
    identity = Identity(embeddings, crops, crop_faces, framing, name, len(faces), norms)
    return identity, similarity_report(vectors, faces.frame_indices, qualities, recognizer.space, strange, how)


def _embed_with_lengths(recognizer: Recognizer, images: torch.Tensor, faces: Faces,
                        progress: Progress) -> tuple[np.ndarray, np.ndarray | None]:
    """Embed faces as unit rows ``[N, D]``, and return the lengths ``[N]`` they had; None where the recognizer does not say."""
    if not isinstance(recognizer, EmbedsRaw):
        return recognizer.embed(images, faces, progress), None
    raw = recognizer.embed_raw(images, faces, progress)
    return unit_vectors(raw), np.linalg.norm(raw, axis=1)
