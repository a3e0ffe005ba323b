"""Settings of finding faces; ``detect/`` does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..faces import Face
from .ranges import check_choice

# How the faces of one image are ordered: by the smallest of these keys first.
ORDERS: dict[str, Callable[[Face], float]] = {
    "large-small": lambda face: -face.size,
    "small-large": lambda face: face.size,
    "left-right": lambda face: face.center[0],
    "right-left": lambda face: -face.center[0],
    "top-bottom": lambda face: face.center[1],
    "bottom-top": lambda face: -face.center[1],
    "best-score": lambda face: -face.score,
}
# What becomes of an image without a face.
NO_FACE = ("pass", "error")


@dataclass(frozen=True)
class DetectSettings:
    """Which faces are kept, and how their crops are to be cut.

    threshold: the least score of a face, 0..1; 0.5 is the detector's own. order: a key of ``ORDERS``, within each image. keep: ``"all"``,
    ``"first"``, or positions in that order such as ``"0,2,-1"`` or ``"0-3"``. min_size: the smallest edge of the face's box, pixels.
    crop_size: edge of the crops, pixels. framing: how much the crops take in, 1.0 is FFHQ's. no_face: one of ``NO_FACE``.
    """

    threshold: float = 0.5
    order: str = "large-small"
    keep: str = "all"
    min_size: float = 0
    crop_size: int = 512
    framing: float = 1.0
    no_face: str = "pass"

    def check(self) -> None:
        """Raise where a value is none of the choices."""
        check_choice("order", self.order, ORDERS)
        check_choice("no_face", self.no_face, NO_FACE)
