"""Decides for DiffusionInpaintSwap which crops are sampled, and with what guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..crops.crop import check_crop_count
from ..errors import FaceLoomError, given
from ..faces import Faces, Identity
from ..identity.differentiable import DifferentiableRecognizer, alignment_matrices
from ..networks.eyenet import EyeNet
from ..options.ranges import MOST_SEED, check_fields
from .gaze import GazeLoss, eye_boxes
from .guidance import Guidance, IdentityLoss, ParserLoss

# What to do where something is missing that a strength above 0 needs.
_NO_RECOGNIZER = "Identity guidance needs an ArcFace recognizer; connect Load Face Recognizer or set identity_strength to 0."
_NO_IDENTITY = "Identity guidance needs an identity; connect ArcFace Embed or set identity_strength to 0."
_NO_PARSER = "expression_strength needs a parser; connect one from Load Face Parser or set it to 0."
_NO_GAZE = "gaze_strength needs a gaze estimator; connect one from Load Gaze Estimator or set it to 0."


_LIMITS = dict.fromkeys(("identity", "expression", "gaze"), (0, 100, False)) | {"views": (1, 64, True), "seed": (0, MOST_SEED, True)}


@dataclass(frozen=True)
class GuidanceStrengths:
    """How strongly guidance acts (0 is off), in how many views the identity is measured, and the seed of those views."""

    identity: float = 0.0
    expression: float = 0.0
    gaze: float = 0.0
    views: int = 1
    seed: int = 0

    @property
    def enabled(self) -> bool:
        """Whether any guidance acts."""
        return max(self.identity, self.expression, self.gaze) > 0

    def check(self, count: int, identity: Identity | None, recognizer: Any, parser: Any, faces: Faces | None, gaze: Any = None) -> None:
        """Raise where something that a strength needs is missing, or where the faces are not those of the ``count`` crops. identity: whom
        the faces become that have none of their own."""
        if faces is not None:
            check_crop_count(count, faces)
        check_fields(self, _LIMITS)
        if self.identity > 0:
            wanted_embeddings(count, identity, faces, given(recognizer, _NO_RECOGNIZER).space)
        if self.expression > 0:
            given(parser, _NO_PARSER)
        if self.gaze > 0:
            given(gaze, _NO_GAZE)


def wanted_embeddings(count: int, identity: Identity | None, faces: Faces | None, space: str) -> Tensor:
    """Return whom each of ``count`` crops becomes, unit vectors ``[count, D]`` of a space: the face's own ``identity``, else ``identity``.
    FaceLoomError where a face has neither, or an identity no embedding of that space."""
    people = [identity if face is None or face.identity is None else face.identity for face in (faces or [None] * count)]
    for person in people:
        embeddings = given(person, _NO_IDENTITY).embeddings
        if space not in embeddings:
            raise FaceLoomError(f"This identity has no embedding of {space}, only of {', '.join(sorted(embeddings))}; make it with "
                                "ArcFace Embed and the same recognizer.")
    return torch.stack([torch.tensor(given(person, _NO_IDENTITY).embeddings[space]) for person in people])


def rows_to_sample(crops: Tensor, masks: Tensor) -> list[int]:
    """Return the indices of the crops ``[N, S, S, 3]`` whose mask ``[N, S, S]`` is not empty.

    Crops that are all black stand for "no face" and give no index; masks that are all empty are an error.
    """
    if not bool(crops.any()):
        return []
    rows = [i for i, mask in enumerate(masks) if bool(mask.any())]
    if not rows:
        raise FaceLoomError("The mask is empty, so there is nothing to repaint; connect Face Parse Mask or 3-D Landmark Mask.")
    return rows


def make_guidance(strengths: GuidanceStrengths, decode: Callable[[Tensor], Tensor], crops: Tensor, faces: Faces | None = None,
                  embedder: DifferentiableRecognizer | None = None, embedding: Tensor | None = None,
                  parse: Callable[[Tensor], Tensor] | None = None, eyes: EyeNet | None = None) -> Guidance:
    """Return the guidance of crops ``[N, S, S, 3]`` 0..1, which are at sampling size and on the device that samples.

    decode: as in ``Guidance``. faces: those that the crops show, for exact alignment. embedder and embedding (unit ``[D]``, or ``[N, D]``,
    one for each crop): for the identity. parse: crops ``[N, 3, S, S]`` to scores, for the expression. eyes: for the gaze. FaceLoomError
    where one is missing whose strength is above 0.
    """
    with torch.inference_mode(False):
        targets = crops.movedim(-1, 1).clone()
        count, size, losses = len(crops), crops.shape[1], []
        if strengths.identity > 0:
            embedder, wanted = given(embedder, _NO_RECOGNIZER), given(embedding, _NO_IDENTITY).clone().to(crops.device)
            matrices = alignment_matrices(count, size, embedder.contract, None if faces is None else faces.items,
                                          faces.framing if faces else 1.0)
            embedder.net.to(crops.device)
            losses.append((strengths.identity, IdentityLoss(embedder, wanted, matrices, strengths.views, strengths.seed)))
        if strengths.expression > 0:
            losses.append((strengths.expression, ParserLoss(given(parse, _NO_PARSER), targets)))
        if strengths.gaze > 0:
            net = given(eyes, _NO_GAZE).to(crops.device)
            losses.append((strengths.gaze, GazeLoss(net, targets, eye_boxes(count, size, faces))))
    return Guidance(decode, tuple(losses))
