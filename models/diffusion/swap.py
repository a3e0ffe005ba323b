"""What DiffusionInpaintSwap decides: which crops are sampled, and what guidance they get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import FaceLoomError
from ..faces import Faces, Identity
from ..geometry import TEMPLATES, crop_matrix, transform
from ..identity.differentiable import Embedder, alignment
from .guidance import Guidance, IdentityLoss, KeepLoss, ParserLoss

# Half the height of an eye with its lids, in distances between the eyes; it is twice as wide.
_EYE = 0.16
# Brings squared differences of pixels to the size of cosines.
_GAZE = 20.0


@dataclass(frozen=True)
class Pull:
    """The strengths of guidance (0 is off), how many views the identity is measured in, and the seed of those views."""

    identity: float = 0.0
    expression: float = 0.0
    gaze: float = 0.0
    views: int = 1
    seed: int = 0

    @property
    def acts(self) -> bool:
        return max(self.identity, self.expression, self.gaze) > 0

    def check(self, count: int, identity: Identity | None, recognizer: Any, parser: Any, faces: Faces | None) -> None:
        """Raise a sentence where something that a strength needs is missing, or the faces are not those of the ``count`` crops."""
        if faces is not None and len(faces) != count:
            raise FaceLoomError(f"There are {count} crops but {len(faces)} faces; connect the faces that these crops were cut from.")
        if self.identity > 0:
            if recognizer is None:
                raise FaceLoomError("Identity guidance needs an ArcFace recognizer; connect Load Face Recognizer or set "
                                    "identity_strength to 0.")
            if recognizer.space not in identity.embeddings:
                spaces = ", ".join(sorted(identity.embeddings))
                raise FaceLoomError(f"This identity has no embedding of {recognizer.space}, only of {spaces}; make it with ArcFaceEmbed "
                                    "and the same recognizer.")
        if self.expression > 0 and parser is None:
            raise FaceLoomError("expression_strength needs a parser; connect one from Load Face Parser or set it to 0.")


def sampled_rows(crops: Tensor, masks: Tensor) -> list[int]:
    """The crops ``[N, S, S, 3]`` whose mask ``[N, S, S]`` is not empty.

    None at all is an error, except for the one black picture that stands for "no face".
    """
    rows = [i for i, mask in enumerate(masks) if bool(mask.any())]
    if not rows and bool(crops.any()):
        raise FaceLoomError("The mask is empty, so there is nothing to repaint; connect FaceParseMask or ThreeDLandmarkMask.")
    return rows


def guidance_for(pull: Pull, decode: Callable[[Tensor], Tensor], crops: Tensor, faces: Faces | None = None,
                 embedder: Embedder | None = None, wanted: Tensor | None = None,
                 parse: Callable[[Tensor], Tensor] | None = None) -> Guidance:
    """The guidance of these crops ``[N, S, S, 3]``, at sampling size and on the device that samples.

    faces: those the crops show, for exact alignment. embedder and wanted (unit ``[D]``): for the identity. parse: pictures to logits,
    for the expression.
    """
    with torch.inference_mode(False):
        targets = crops.movedim(-1, 1).clone()
        count, size, losses = len(crops), crops.shape[1], []
        if pull.identity > 0:
            matrices = alignment(count, size, embedder.contract, None if faces is None else faces.items, faces.framing if faces else 1.0)
            embedder.net.to(crops.device)
            losses.append((pull.identity, IdentityLoss(embedder, wanted.clone().to(crops.device), matrices, pull.views, pull.seed)))
        if pull.expression > 0:
            losses.append((pull.expression, ParserLoss(parse, targets)))
        if pull.gaze > 0:
            losses.append((_GAZE * pull.gaze, KeepLoss(targets, eye_weights(count, size, faces).to(crops.device))))
    return Guidance(decode, tuple(losses), max(pull.identity, pull.expression, pull.gaze))


def eye_weights(count: int, size: int, faces: Faces | None = None) -> Tensor:
    """``[count, 1, size, size]``: 1 in the middle of each eye, falling off as a Gaussian."""
    ys, xs = torch.meshgrid(torch.arange(size, dtype=torch.float32), torch.arange(size, dtype=torch.float32), indexing="ij")
    out = torch.zeros(count, 1, size, size)
    for i in range(count):
        if faces is None:
            eyes = (TEMPLATES["ffhq_512"] * size - 0.5)[:2]
        else:
            eyes = transform(faces[i].keypoints, crop_matrix(faces[i], size, faces.framing))[:2]
        reach = _EYE * float(((eyes[1] - eyes[0]) ** 2).sum() ** 0.5)
        for x, y in eyes:
            out[i, 0] += torch.exp(-((xs - x) / (2 * reach)) ** 2 - ((ys - y) / reach) ** 2)
    return out.clamp(max=1)
