"""Settings of pasting; ``paste/`` does it."""

from __future__ import annotations

from dataclasses import dataclass

from .ranges import check_choice, check_range

# How a crop's colours are matched to the photograph (paste/color.py), and how its edge is hidden (paste/blends.py).
COLORS = ("none", "mean-std", "mkl", "low-frequency")
BLENDS = ("feather", "multi-band", "poisson")


@dataclass(frozen=True)
class PasteSettings:
    """How crops are pasted.

    color: one of ``COLORS``; matches the crop's colours to the photograph. blend: one of ``BLENDS``. feather: softness added inside the
    mask, as a fraction of the crop's edge, 0..0.5. opacity: 0..1. keep_unchanged: where a crop still is what the photograph gave, the
    photograph's own pixels stay, so that an edit of the mouth does not resample the cheeks; off, every pixel of the mask comes from the
    crop. keep_gray: where the photograph is grey or of one tone around a face, the face is too.
    """

    color: str = "none"
    blend: str = "feather"
    feather: float = 0.0
    opacity: float = 1.0
    keep_unchanged: bool = True
    keep_gray: bool = True

    def check(self) -> None:
        """Raise where a value is none of the choices or out of its range."""
        check_choice("color", self.color, COLORS)
        check_choice("blend", self.blend, BLENDS)
        check_range("opacity", self.opacity)
        check_range("feather", self.feather)
