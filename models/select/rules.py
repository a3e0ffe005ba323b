"""Choosing among faces that were found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..detect import kept_positions
from ..errors import FaceLoomError
from ..faces import Face, Faces, Identity
from ..progress import Progress, silent

# Rules that rank the faces of one frame; the first ``count`` of each frame are chosen.
RANKS: dict[str, Callable[[Face, Faces], float]] = {
    "largest": lambda face, faces: -face.size,
    "smallest": lambda face, faces: face.size,
    "leftmost": lambda face, faces: face.center[0],
    "rightmost": lambda face, faces: -face.center[0],
    "topmost": lambda face, faces: face.center[1],
    "bottommost": lambda face, faces: -face.center[1],
    "center-most": lambda face, faces: float(np.hypot(*(face.center - (np.array([faces.width, faces.height]) - 1) / 2))),
    "best-score": lambda face, faces: -face.score,
}
RULES = ("index", *RANKS, "size", "score", "sex", "age", "mask", "same-person", "first-person")
GHOST_LIKENESS = {"dlib128": .91}  # its threshold of 0.15 is for vectors of ArcFace's kind; dlib's lie closer together
_COVERED = 0.25  # share of the face's middle that a mask must cover


def select_faces(faces: Faces, rule: str, *, index: str = "0", count: int = 1, minimum: float = 0.0, maximum: float = 0.0,
                 sex: str = "female", mask: torch.Tensor | None = None, identity: Identity | None = None,
                 images: torch.Tensor | None = None, recognizer=None, similarity: float = 0.0, margin: float = 0.0,
                 one_per_frame: bool = False, attributes=None, progress: Progress = silent) -> tuple[Faces, Faces]:
    """Split ``faces`` into (chosen, rest); both keep the order the faces had.

    rule: ``index`` (positions in each frame, such as ``"0,2,-1"`` or ``"0-3"``); a key of ``RANKS`` (the first ``count`` of each frame);
    ``size`` (edge of the box in pixels), ``score`` or ``age`` from ``minimum`` to ``maximum`` (0 = no upper limit); ``sex``;
    ``mask`` (``[B, H, W]`` image space, any size, one for all frames or one each, covering the middle of the face);
    ``same-person``: cosine to ``identity`` of at least ``similarity`` (0 = the usual one of that embedding). With ``one_per_frame``
    only the most similar face of a frame is chosen, and only if it leads the runner-up by ``margin``.
    ``first-person``: GHOST's rule for clips (Groshev et al. 2022): whoever is the first face of the first frame that has one; of every
    other frame the face most like them, if its cosine is over ``similarity`` (0 = GHOST's 0.15, for dlib's embedding 0.91), a frame's only
    face without a question.
    attributes: the ``AgeAndSex`` that looks at ``images`` for ``sex`` or ``age`` where a face lacks it; the faces returned then have both.
    """
    if rule in ("sex", "age") and attributes is not None and any(getattr(face, rule) is None for face in faces):
        if images is None:
            raise FaceLoomError(f"Reading the {rule} of faces needs the image they were found in; connect it.")
        faces = attributes.read(images, faces, progress)
    if rule == "index":
        chosen = _per_frame(faces, lambda members: [members[i] for i in kept_positions(index, len(members))])
    elif rule in RANKS:
        chosen = _per_frame(faces, lambda members: sorted(members, key=lambda i: RANKS[rule](faces[i], faces))[:count])
    elif rule in ("size", "score", "age"):
        values = [_known(face, "age") if rule == "age" else getattr(face, rule) for face in faces]
        chosen = {i for i, value in enumerate(values) if value >= minimum and (maximum <= 0 or value <= maximum)}
    elif rule == "sex":
        if sex not in ("female", "male"):
            raise FaceLoomError(f"sex must be female or male, not {sex!r}.")
        chosen = {i for i, face in enumerate(faces) if _known(face, "sex") == sex}
    elif rule == "mask":
        chosen = _inside(faces, mask)
    elif rule == "same-person":
        chosen = _same_person(faces, identity, images, recognizer, similarity, margin, one_per_frame, progress)
    elif rule == "first-person":
        chosen = _first_person(faces, images, recognizer, similarity, progress)
    else:
        raise FaceLoomError(f"rule must be one of {', '.join(RULES)}, not {rule!r}.")
    everyone = range(len(faces))
    return faces.take([i for i in everyone if i in chosen]), faces.take([i for i in everyone if i not in chosen])


def _per_frame(faces: Faces, pick: Callable[[list[int]], list[int]]) -> set[int]:
    members: dict[int, list[int]] = {}
    for i, face in enumerate(faces):
        members.setdefault(face.frame, []).append(i)
    return {i for indices in members.values() for i in pick(indices)}


def _known(face: Face, attribute: str):
    value = getattr(face, attribute)
    if value is None:
        raise FaceLoomError(f"The {attribute} of these faces is not known; choose an age_and_sex network in Load Face Detector, "
                            "or connect the image and an InsightFace object here.")
    return value


def _inside(faces: Faces, mask: torch.Tensor | None) -> set[int]:
    if mask is None:
        raise FaceLoomError("The rule mask needs a mask; connect one.")
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or len(mask) not in (1, faces.frames):
        raise FaceLoomError(f"The mask must be one picture or one for each of the {faces.frames} image(s), not {tuple(mask.shape)}.")
    zoom = np.array([mask.shape[2] / faces.width, mask.shape[1] / faces.height])
    limit = np.array([mask.shape[2], mask.shape[1]])
    chosen = set()
    for i, face in enumerate(faces):
        low, high = (face.keypoints.min(0) + 0.5) * zoom, (face.keypoints.max(0) + 0.5) * zoom
        low = np.clip(np.floor(low), 0, limit - 1).astype(int)
        high = np.maximum(np.clip(np.ceil(high), 0, limit).astype(int), low + 1)
        plane = mask[face.frame if len(mask) > 1 else 0, low[1]:high[1], low[0]:high[0]]
        if float(plane.float().mean()) >= _COVERED:
            chosen.add(i)
    return chosen


def _same_person(faces, identity, images, recognizer, similarity, margin, one_per_frame, progress) -> set[int]:
    if identity is None:
        raise FaceLoomError("The rule same-person needs an identity; connect one from ArcFace Embed or Identity Load.")
    cosines, space = likeness(faces, identity, images, recognizer, progress)
    if not similarity:
        from ..identity.combine import same_person_cosine

        similarity = same_person_cosine(space)
    alike = {i for i, cosine in enumerate(cosines) if cosine >= similarity}
    if not one_per_frame:
        return alike

    def best(members: list[int]) -> list[int]:
        ranked = sorted(members, key=lambda i: -cosines[i])
        lead = cosines[ranked[0]] - cosines[ranked[1]] if len(ranked) > 1 else np.inf
        return [ranked[0]] if ranked[0] in alike and lead >= margin else []

    return _per_frame(faces, best)


def _first_person(faces: Faces, images: torch.Tensor | None, recognizer, least: float, progress: Progress) -> set[int]:
    if not len(faces):
        return set()
    first = min(range(len(faces)), key=lambda i: (faces[i].frame, i))
    alone = {frame for frame in set(faces.frame_indices.tolist()) if (faces.frame_indices == frame).sum() == 1}
    asked = [i for i, face in enumerate(faces) if i == first or face.frame not in alone]
    vectors, space = (np.zeros((len(faces), 0)), "") if len(asked) == 1 else _embedded(faces, asked, images, recognizer, progress)
    least = least or GHOST_LIKENESS.get(space, .15)

    def best(members: list[int]) -> list[int]:
        if first in members or len(members) == 1:
            return [first] if first in members else members
        (match,) = match_targets(vectors[[first]], vectors[members], least)
        return [] if match is None else [members[match]]

    return _per_frame(faces, best)


def _embedded(faces: Faces, wanted: list[int], images: torch.Tensor | None, recognizer, progress: Progress) -> tuple[np.ndarray, str]:
    """``[N, D]`` embeddings of the faces ``wanted``, by their own positions (the others' rows are 0), and their space."""
    chosen = faces.take(wanted)
    shared = set.intersection(*(set(face.embeddings) for face in chosen)) if recognizer is None else set()
    if shared:
        space = min(shared)
        rows = np.stack([face.embeddings[space] for face in chosen])
    elif images is None:
        raise FaceLoomError("Comparing faces with each other needs the image they were found in; connect it.")
    else:
        from ..identity.dlib import DlibRecognizer

        recognizer = recognizer or DlibRecognizer()
        space, rows = recognizer.space, recognizer.embed(images, chosen, progress)
    vectors = np.zeros((len(faces), rows.shape[1]))
    vectors[wanted] = rows
    return vectors, space


def match_targets(wanted: np.ndarray, found: np.ndarray, least: float = .15) -> list[int | None]:
    """For every wanted person ``[P, D]`` the face of a frame ``[N, D]`` that is most like them (cosine), None where none is by more than
    ``least``: GHOST's rule for clips (Groshev et al. 2022) and its threshold."""
    if not len(found):
        return [None] * len(wanted)
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (wanted, found)]
    likeness = unit[0] @ unit[1].T
    return [int(row.argmax()) if row.max() > least else None for row in likeness]


def likeness(faces: Faces, identity: Identity, images: torch.Tensor | None = None, recognizer=None,
             progress: Progress = silent) -> tuple[np.ndarray, str]:
    """Cosine ``[N]`` of every face to ``identity`` and the embedding space they were compared in.

    Embeddings that the faces carry are used where they fit; otherwise the recognizer (None: dlib's) looks at ``images``.
    """
    if not len(faces):
        return np.zeros(0), ""
    if recognizer is None:
        for space in sorted(set(identity.embeddings).intersection(*(set(face.embeddings) for face in faces))):
            return np.stack([face.embeddings[space] for face in faces]) @ identity.embeddings[space], space
        from ..identity.dlib import DlibRecognizer

        recognizer = DlibRecognizer()
    if recognizer.space not in identity.embeddings:
        raise FaceLoomError(
            f"The identity has no {recognizer.space} embedding (it has {', '.join(sorted(identity.embeddings)) or 'none'}); "
            "connect the recognizer it was made with."
        )
    if images is None:
        raise FaceLoomError("Comparing faces with an identity needs the image they were found in; connect it.")
    return recognizer.embed(images, faces, progress) @ identity.embeddings[recognizer.space], recognizer.space
