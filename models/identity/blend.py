"""Blending: several identities to one between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..crops.crop import crop_matrix
from ..crops.transformed import transform_face
from ..errors import FaceLoomError
from ..faces import Face, Identity
from ..pixels.sampling import warp
from .combine import unit_vectors
from .crops import MAX_CROPS, round_to_8_bits


def spherical_mean(vectors: np.ndarray, weights: np.ndarray, rounds: int = 64) -> np.ndarray:
    """Return the weighted mean ``[D]`` of unit rows ``[N, D]`` on the sphere (Buss and Fillmore 2001, algorithm A1); of two rows that is
    slerp. weights: ``[N]``. rounds: at most so many iterations. Opposite rows have no mean: FaceLoomError."""
    vectors, weights = np.asarray(vectors, np.float64), np.asarray(weights, np.float64) / np.sum(weights)
    mean = weights @ vectors
    if np.linalg.norm(mean) < 1e-6:
        raise FaceLoomError("These identities are exactly opposite and have no mean; change the weights.")
    mean /= np.linalg.norm(mean)
    for _ in range(rounds):
        cosine = np.clip(vectors @ mean, -1, 1)
        angle = np.arccos(cosine)
        step = weights @ ((vectors - cosine[:, None] * mean) / np.sinc(angle / np.pi)[:, None])
        length = np.linalg.norm(step)
        if length < 1e-12:
            break
        mean = np.cos(length) * mean + np.sin(length) * step / length
    return unit_vectors(mean)


def blend_identities(identities: Sequence[Identity], weights: Sequence[float] | np.ndarray | None = None) -> Identity:
    """Blend identities to one: its embeddings are their weighted spherical mean in every space that all of them have.

    weights: one per identity, relative and not negative; None is all alike. Crops come from the heaviest first (ties: the first
    connected), at its framing and size. Wrong weights, or no common space, are a FaceLoomError.
    """
    identities = list(identities)
    weights = np.ones(len(identities)) if weights is None else np.asarray(weights, np.float64)
    if len(weights) != len(identities):
        raise FaceLoomError(f"There are {len(identities)} identities but {len(weights)} weights; give one weight each.")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise FaceLoomError("Blend weights must not be negative, and at least one must be above zero.")
    parts = sorted(((w, i) for i, w in enumerate(weights) if w > 0), key=lambda part: (-part[0], part[1]))
    order = [identities[i] for _, i in parts]
    if len(order) == 1:
        return order[0]
    shares = np.array([w for w, _ in parts])
    spaces = set.intersection(*(set(identity.embeddings) for identity in order))
    if not spaces:
        raise FaceLoomError("These identities have no embedding in common; make them with the same recognizer.")
    embeddings = {space: spherical_mean(np.stack([identity.embeddings[space] for identity in order]), shares) for space in sorted(spaces)}
    crops, faces, framing = _joined_crops(order)
    name = " + ".join(identity.name for identity in order if identity.name)
    lengths = {space: [identity.norms[space] for identity in order if space in identity.norms] for space in embeddings}
    norms = {space: float(np.average(each, weights=shares)) for space, each in lengths.items() if len(each) == len(order)}
    return Identity(embeddings, crops, faces, framing, name, sum(identity.photos for identity in order), norms)


def _joined_crops(order: list[Identity]) -> tuple[np.ndarray, tuple[Face, ...], float]:
    """Collect up to 8 crops ``[K, S, S, 3]`` in this order, at the framing and size of the first identity that has any, with their faces
    and that framing."""
    lead = next((identity for identity in order if len(identity.crops)), order[0])
    size, framing = lead.crops.shape[1], lead.framing
    crops: list[np.ndarray] = []
    faces: list[Face] = []
    for identity in order:
        for crop, face in zip(identity.crops, identity.faces, strict=True):
            if (identity.crops.shape[1], identity.framing) != (size, framing):
                matrix = crop_matrix(face, size, framing)
                crop = round_to_8_bits(warp(torch.from_numpy(np.array(crop)), matrix, size, size).clamp(0, 1)).numpy()
                face = transform_face(face, matrix)
            crops.append(crop)
            faces.append(face)
    stacked = np.stack(crops[:MAX_CROPS]) if crops else np.zeros((0, size, size, 3), np.float32)
    return stacked, tuple(faces[:MAX_CROPS]), framing
