"""Choosing among the faces of a batch by a rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..detect import kept_positions
from ..detect.attributes import AgeAndSex
from ..errors import FaceLoomError
from ..faces import Face, Faces, Identity
from ..identity import Recognizer
from ..identity.combine import same_person_cosine
from ..identity.dlib import DlibRecognizer
from ..options.ranges import check_choice, check_fields
from ..pixels.masks import fit_shared_mask
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
RULES = ("index", "person", *RANKS, "size", "score", "sex", "age", "mask", "same-person", "first-person")
# GHOST's threshold for the cosine of one person in two frames, for vectors of ArcFace's kind, and where another space needs another:
# dlib's vectors lie closer together.
FIRST_PERSON_COSINE = .15
FIRST_PERSON_COSINES = {"dlib128": .91}
_MASK_SHARE = 0.25  # of the face's middle that a mask must cover

_LIMITS = {"count": (1, 65536, True), "minimum": (0, 65536, False), "maximum": (0, 65536, False), "similarity": (0, 1, False),
           "margin": (0, 2, False)}


@dataclass(frozen=True)
class SelectionRule:
    """A rule by which faces are chosen, with its settings; the others have no effect.

    ``index``: the positions ``index`` in each frame, such as ``"0,2,-1"`` or ``"0-3"``.
    ``person``: the people of a clip with the numbers ``person``, written in the same way, in all frames.
    A key of ``RANKS``: the first ``count`` faces of each frame in that ranking.
    ``size`` (edge of the box in pixels), ``score`` (0..1) or ``age`` (years): from ``minimum`` to ``maximum`` (0 = no upper limit).
    ``sex``: ``"female"`` or ``"male"``.
    ``mask``: faces whose middle the mask covers.
    ``same-person``: a cosine to the identity of at least ``similarity`` (0 = the usual one of that embedding). With ``one_per_frame``
    only the most similar face of a frame is chosen, and only if it leads the runner-up by ``margin``.
    ``first-person``: GHOST's rule for clips (Groshev et al. 2022): the first face of the first frame that has one; of every other frame
    the face most like it, if its cosine is over ``similarity`` (0 = GHOST's 0.15, for dlib's embedding 0.91). A frame's only face is
    chosen without a comparison.
    """

    rule: str
    index: str = "0"
    person: str = "0"
    count: int = 1
    minimum: float = 0.0
    maximum: float = 0.0
    sex: str = "female"
    similarity: float = 0.0
    margin: float = 0.0
    one_per_frame: bool = False

    def check(self) -> None:
        """Raise FaceLoomError where a word is unknown or a number out of its limits."""
        check_choice("rule", self.rule, RULES)
        check_fields(self, _LIMITS)
        if self.rule == "sex" and self.sex not in ("female", "male"):
            raise FaceLoomError(f"sex must be female or male, not {self.sex!r}.")


def select_faces(faces: Faces, rule: SelectionRule, *, images: torch.Tensor | None = None, mask: torch.Tensor | None = None,
                 identity: Identity | None = None, recognizer: Recognizer | None = None, attributes: AgeAndSex | None = None,
                 progress: Progress = silent) -> tuple[Faces, Faces]:
    """Split ``faces`` into chosen and rest; both keep the order the faces had.

    images: ``[B, H, W, 3]`` float32 0..1 in which the faces were found, for rules that compare faces or read their attributes.
    mask: ``[B, H, W]`` in image space for the rule ``mask``, any size, one for all frames or one each. identity: for the rule
    ``same-person``. recognizer: that compares faces; None takes embeddings that the faces carry, else dlib's. attributes: reads ``sex``
    or ``age`` where a face lacks it; the faces returned then have both. What a rule needs and does not have is a FaceLoomError.
    """
    rule.check()
    if rule.rule in ("sex", "age") and attributes is not None and any(getattr(face, rule.rule) is None for face in faces):
        if images is None:
            raise FaceLoomError(f"Reading the {rule.rule} of faces needs the image they were found in; connect it.")
        faces = attributes.read(images, faces, progress)
    if rule.rule == "mask":
        chosen = _under_mask(faces, mask)
    elif rule.rule == "same-person":
        chosen = _same_person(faces, rule, identity, images, recognizer, progress)
    elif rule.rule == "first-person":
        chosen = _first_person(faces, rule, images, recognizer, progress)
    else:
        chosen = _by_attributes(faces, rule)
    everyone = range(len(faces))
    return faces.take([i for i in everyone if i in chosen]), faces.take([i for i in everyone if i not in chosen])


def _by_attributes(faces: Faces, rule: SelectionRule) -> set[int]:
    """Choose faces by what they carry: place, size, score, sex or age."""
    if rule.rule == "index":
        return _per_frame(faces, lambda members: [members[i] for i in kept_positions(rule.index, len(members))])
    if rule.rule == "person":
        return _people(faces, rule.person)
    if rule.rule in RANKS:
        rank = RANKS[rule.rule]
        return _per_frame(faces, lambda members: sorted(members, key=lambda i: rank(faces[i], faces))[:rule.count])
    if rule.rule == "sex":
        return {i for i, face in enumerate(faces) if _required(face, "sex") == rule.sex}
    values = [_required(face, "age") if rule.rule == "age" else getattr(face, rule.rule) for face in faces]
    return {i for i, value in enumerate(values) if value >= rule.minimum and (rule.maximum <= 0 or value <= rule.maximum)}


def _people(faces: Faces, words: str) -> set[int]:
    """Choose the faces of the people that ``words`` name; FaceLoomError where faces are not numbered by person."""
    if any(face.track is None for face in faces):
        raise FaceLoomError("These faces are not numbered by person; take them from Face Detect (video) or through Face Smooth.")
    chosen = set(kept_positions(words, 1 + max((face.track or 0 for face in faces), default=-1)))
    return {i for i, face in enumerate(faces) if face.track in chosen}


def _per_frame(faces: Faces, pick: Callable[[list[int]], list[int]]) -> set[int]:
    """Call ``pick`` with the positions of the faces of each frame, and return all that it picks."""
    return {i for members in faces.positions_by_frame().values() for i in pick(members)}


def _required(face: Face, attribute: str):
    """Return a face's sex or age; FaceLoomError where it is not known."""
    value = getattr(face, attribute)
    if value is None:
        raise FaceLoomError(f"The {attribute} of these faces is not known; choose an age_and_sex network in Load Face Detector, "
                            "or connect the image and an InsightFace object here.")
    return value


def _under_mask(faces: Faces, mask: torch.Tensor | None) -> set[int]:
    """Choose faces of whose keypoints' box the mask covers a quarter or more."""
    if mask is None:
        raise FaceLoomError("The rule mask needs a mask; connect one.")
    mask = fit_shared_mask(mask, faces.frames, None)
    zoom = np.array([mask.shape[2] / faces.width, mask.shape[1] / faces.height])
    limit = np.array([mask.shape[2], mask.shape[1]])
    chosen = set()
    for i, face in enumerate(faces):
        low, high = (face.keypoints.min(0) + 0.5) * zoom, (face.keypoints.max(0) + 0.5) * zoom
        low = np.clip(np.floor(low), 0, limit - 1).astype(int)
        high = np.maximum(np.clip(np.ceil(high), 0, limit).astype(int), low + 1)
        window = mask[face.frame if len(mask) > 1 else 0, low[1]:high[1], low[0]:high[0]]
        if float(window.float().mean()) >= _MASK_SHARE:
            chosen.add(i)
    return chosen


def _same_person(faces: Faces, rule: SelectionRule, identity: Identity | None, images: torch.Tensor | None,
                 recognizer: Recognizer | None, progress: Progress) -> set[int]:
    """Choose the faces that show the person of ``identity``."""
    if identity is None:
        raise FaceLoomError("The rule same-person needs an identity; connect one from ArcFace Embed or Identity Load.")
    cosines, space = cosines_to_identity(faces, identity, images, recognizer, progress)
    similarity = rule.similarity or same_person_cosine(space)
    similar = {i for i, cosine in enumerate(cosines) if cosine >= similarity}
    if not rule.one_per_frame:
        return similar

    def best(members: list[int]) -> list[int]:
        ranked = sorted(members, key=lambda i: -cosines[i])
        lead = cosines[ranked[0]] - cosines[ranked[1]] if len(ranked) > 1 else np.inf
        return [ranked[0]] if ranked[0] in similar and lead >= rule.margin else []

    return _per_frame(faces, best)


def _first_person(faces: Faces, rule: SelectionRule, images: torch.Tensor | None, recognizer: Recognizer | None,
                  progress: Progress) -> set[int]:
    """Choose the first face of a clip and, in every other frame, the face most like it."""
    if not len(faces):
        return set()
    first = min(range(len(faces)), key=lambda i: (faces[i].frame, i))
    single = {frame for frame in set(faces.frame_indices.tolist()) if (faces.frame_indices == frame).sum() == 1}
    compared = [i for i, face in enumerate(faces) if i == first or face.frame not in single]
    vectors, space = np.zeros((len(faces), 0)), ""
    if len(compared) > 1:
        vectors, space = _embed_some(faces, compared, images, recognizer, progress)
    similarity = rule.similarity or FIRST_PERSON_COSINES.get(space, FIRST_PERSON_COSINE)

    def best(members: list[int]) -> list[int]:
        if first in members or len(members) == 1:
            return [first] if first in members else members
        (match,) = match_people(vectors[[first]], vectors[members], similarity)
        return [] if match is None else [members[match]]

    return _per_frame(faces, best)


def _embed_some(faces: Faces, positions: list[int], images: torch.Tensor | None, recognizer: Recognizer | None,
                progress: Progress) -> tuple[np.ndarray, str]:
    """Embed the faces at these positions: ``[N, D]``, in which the rows of all others are 0, and the embedding space."""
    chosen = faces.take(positions)
    shared = set.intersection(*(set(face.embeddings) for face in chosen)) if recognizer is None else set()
    if shared:
        space = min(shared)
        rows = np.stack([face.embeddings[space] for face in chosen])
    elif images is None:
        raise FaceLoomError("Comparing faces with each other needs the image they were found in; connect it.")
    else:
        recognizer = recognizer or DlibRecognizer()
        space, rows = recognizer.space, recognizer.embed(images, chosen, progress)
    vectors = np.zeros((len(faces), rows.shape[1]))
    vectors[positions] = rows
    return vectors, space


def match_people(people: np.ndarray, faces: np.ndarray, least: float = FIRST_PERSON_COSINE) -> list[int | None]:
    """Find for every person ``[P, D]`` the face ``[N, D]`` of a frame that is most like them by cosine; None where no cosine is over
    ``least``. GHOST's rule for clips (Groshev et al. 2022) and its threshold."""
    if not len(faces):
        return [None] * len(people)
    people, faces = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (people, faces))
    cosines = people @ faces.T
    return [int(row.argmax()) if row.max() > least else None for row in cosines]


def cosines_to_identity(faces: Faces, identity: Identity, images: torch.Tensor | None = None, recognizer: Recognizer | None = None,
                        progress: Progress = silent) -> tuple[np.ndarray, str]:
    """Return the cosine ``[N]`` of every face to ``identity``, and the embedding space in which they were compared.

    Embeddings that the faces carry are used where they fit; otherwise the recognizer (None: dlib's) embeds the faces of ``images``
    ``[B, H, W, 3]``. FaceLoomError where the identity has no embedding of that space, or there are no images.
    """
    if not len(faces):
        return np.zeros(0), ""
    if recognizer is None:
        for space in sorted(set(identity.embeddings).intersection(*(set(face.embeddings) for face in faces))):
            return np.stack([face.embeddings[space] for face in faces]) @ identity.embeddings[space], space
        recognizer = DlibRecognizer()
    if recognizer.space not in identity.embeddings:
        raise FaceLoomError(
            f"The identity has no {recognizer.space} embedding (it has {', '.join(sorted(identity.embeddings)) or 'none'}); "
            "connect the recognizer it was made with."
        )
    if images is None:
        raise FaceLoomError("Comparing faces with an identity needs the image they were found in; connect it.")
    return recognizer.embed(images, faces, progress) @ identity.embeddings[recognizer.space], recognizer.space
