"""Settings of swapping; ``swap/`` does it."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import FaceLoomError
from ..faces import Faces

MAX_BOOST = 8


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
        if not 1 <= self.pixel_boost <= MAX_BOOST or self.pixel_boost != int(self.pixel_boost):
            raise FaceLoomError(f"Pixel boost must be a whole number from 1 to {MAX_BOOST}, not {self.pixel_boost}.")
        if not 0 <= self.strength < float("inf") or (limit and self.strength > 1):
            raise FaceLoomError(limit or f"Strength must be 0 or more, not {self.strength}.")

    def edge(self, faces: Faces) -> int:
        """Returns the edge of the crops of ``faces``, pixels."""
        return self.size or faces.crop_size


USUAL = SwapSettings()
