"""Settings of pasting; ``paste/`` does it."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import FaceLoomError

# How a crop's colours are matched to the photograph (paste/color.py), and how its edge is hidden (paste/blends.py).
COLORS = ("none", "mean-std", "mkl", "low-frequency")
BLENDS = ("feather", "multi-band", "poisson")


@dataclass(frozen=True)
class PasteSettings:
    """How crops are pasted.

    color: one of ``COLORS``; matches the crop's colours to the photograph. blend: one of ``BLENDS``. feather: softness added inside the
    mask, as a fraction of the crop's edge, 0..0.5. opacity: 0..1. keep_unchanged: where a crop still is what the photograph gave, the
    photograph's own pixels stay, so that an edit of the mouth does not resample the cheeks; off, every pixel of the mask comes from the
    crop.
    """

    color: str = "none"
    blend: str = "feather"
    feather: float = 0.0
    opacity: float = 1.0
    keep_unchanged: bool = True

    def check(self) -> None:
        """Raise where a value is none of the choices or out of its range."""
        if self.color not in COLORS:
            raise FaceLoomError(f"color must be one of {', '.join(COLORS)}, not {self.color!r}.")
        if self.blend not in BLENDS:
            raise FaceLoomError(f"blend must be one of {', '.join(BLENDS)}, not {self.blend!r}.")
        if not 0 <= self.opacity <= 1:
            raise FaceLoomError(f"opacity must lie between 0 and 1, not {self.opacity}.")
        if not 0 <= self.feather <= 0.5:
            raise FaceLoomError(f"feather is a fraction of the crop's edge between 0 and 0.5, not {self.feather}.")
