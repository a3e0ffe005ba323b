"""Turns recognizer vectors into the vector that a one-shot network's generator takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import FaceLoomError
from ..faces import Face, Faces, Identity
from ..files.catalogue import SwapContract
from ..identity import EmbedsRaw, Recognizer
from ..identity.photos import reference_photos
from ..progress import Progress, silent
from ..runtime.onnx import OnnxModel

RecognizerOf = Callable[[str], Recognizer]


@dataclass(frozen=True)
class Latents:
    """Makes latents of one network: embedding, converter, identity map, length.

    contract: says which steps are taken. recognizer_of: returns the recognizer of a space. converter, emap: None where the contract has no
    such step. adapter: the space of the second recognizer whose unit vector is added.
    """

    contract: SwapContract
    recognizer_of: RecognizerOf
    converter: OnnxModel | None = None
    emap: np.ndarray | None = None
    adapter: str | None = None

    def of_identity(self, identity: Identity) -> np.ndarray:
        """Returns the identity's latent ``[1, L]``."""
        vector = self._identity_vector(identity, self.contract.embedding_space, self.contract.unit)
        if self.adapter:
            vector = vector + self._identity_vector(identity, self.adapter, True)
        return self._convert(vector[None])

    def of_faces(self, images: torch.Tensor, faces: Faces, progress: Progress = silent) -> np.ndarray:
        """Returns the faces' own latents ``[N, L]``."""
        vectors = self._face_vectors(images, faces, self.contract.embedding_space, self.contract.unit, progress)
        if self.adapter:
            vectors = vectors + self._face_vectors(images, faces, self.adapter, True, silent)
        return self._convert(vectors)

    def _convert(self, vectors: np.ndarray) -> np.ndarray:
        vectors = vectors.astype(np.float32)
        if self.converter:
            vectors = self.converter.run({self.converter.inputs[0].name: vectors})[0]
        if self.emap is not None:
            vectors = vectors @ self.emap
        return to_unit(vectors) if self.contract.latent_unit else vectors

    def _identity_vector(self, identity: Identity, space: str, unit: bool) -> np.ndarray:
        """Returns the identity's vector ``[D]``: of length 1 if ``unit``, else of the length that the recognizer gave it. What the identity
        lacks is computed from its photos."""
        known = identity.embeddings.get(space)
        length = 1.0 if unit else identity.norms.get(space)
        if known is None or length is None:
            vectors = self._photo_vectors(identity, space, unit)
            known = to_unit(vectors).mean(0) if known is None else known
            length = np.linalg.norm(vectors, axis=1).mean() if length is None else length
        return to_unit(np.asarray(known, np.float32)) * length

    def _photo_vectors(self, identity: Identity, space: str, unit: bool) -> np.ndarray:
        """Embeds the identity's photos. Returns ``[K, D]``."""
        if not len(identity.crops):
            raise FaceLoomError(
                f"This identity has no {space} embedding and no photos to take one from; make it again from photos with ArcFace Embed "
                f"and a {space} recognizer."
            )
        return self._face_vectors(*reference_photos(identity, self.contract.embedding_space), space, unit, silent)

    def _face_vectors(self, images: torch.Tensor, faces: Faces, space: str, unit: bool, progress: Progress) -> np.ndarray:
        if unit and all(space in face.embeddings for face in faces):
            return np.stack([to_unit(np.asarray(face.embeddings[space], np.float32)) for face in faces])
        recognizer = self.recognizer_of(space)
        if unit:
            return recognizer.embed(images, faces, progress)
        if not isinstance(recognizer, EmbedsRaw):
            raise FaceLoomError(f"This swap model needs {space} vectors at their own lengths, which the connected recognizer does not "
                                "give; leave it unconnected.")
        return recognizer.embed_raw(images, faces, progress)


def to_unit(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors ``[..., D]`` at length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def mix(target: np.ndarray, source: np.ndarray, strength: float) -> np.ndarray:
    """Mixes each target ``[N, L]`` (strength 0) with the source ``[1, L]`` (1), and goes on beyond it; ``[N, L]``.

    The direction turns at an even rate along the great circle through both (slerp), so unit vectors stay unit vectors; the length
    changes evenly. Beyond 1 the turn goes on away from the target, at most to its opposite, at the source's length: a length is no
    trait of a person, and networks do not know other lengths than photos have.
    """
    lengths = [np.linalg.norm(vectors, axis=-1, keepdims=True) for vectors in (target, source)]
    start, end = to_unit(target), to_unit(source)
    cosine = np.clip((start * end).sum(-1, keepdims=True), -1, 1)
    angle = np.arccos(cosine)
    side = end - cosine * start
    side = side / np.maximum(np.linalg.norm(side, axis=-1, keepdims=True), 1e-6)
    turned = np.minimum(angle * strength, np.pi)
    length = lengths[0] + min(strength, 1.0) * (lengths[1] - lengths[0])
    return (length * (np.cos(turned) * start + np.sin(turned) * side)).astype(np.float32)


def best_photo(identity: Identity) -> tuple[torch.Tensor, Face]:
    """Returns the best reference photo ``[1, S, S, 3]`` and its face, for networks that look at the source itself."""
    photo, faces = reference_photos(identity, "This swap model", 1)
    return photo, faces[0]
