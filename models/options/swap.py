"""Settings of swapping; ``swap/`` does it."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import FaceLoomError, check_number
from ..faces import Faces
from .ranges import LARGEST_EDGE, check_range


@dataclass(frozen=True)
class SwapSettings:
    """How faces are swapped.

    strength: 0 leaves the target's face as it is, 1 is the full swap, more exaggerates the identity where the engine can. pixel_boost: at
    how many times its own resolution a network works, 1 to 8. size: edge of the crops in pixels; None: the faces' own crop size.
    """

    strength: float = 1.0
    pixel_boost: int = 1
    size: int | None = None

    def check(self, limit: str = "") -> None:
        """Raises FaceLoomError where a value is out of range. limit: what to say of a strength above 1; "": the engine can do that."""
        check_range("pixel_boost", self.pixel_boost, whole=True)
        check_range("strength", self.strength)
        if limit and self.strength > 1:
            raise FaceLoomError(limit)
        if self.size is not None:
            check_number("The crop's edge", self.size, 1, LARGEST_EDGE, whole=True)

    def edge(self, faces: Faces) -> int:
        """Returns the edge of the crops of ``faces``, pixels."""
        return self.size or faces.crop_size


USUAL = SwapSettings()
