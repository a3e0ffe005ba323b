"""Names the colour marks of a clip (the codes of ITU-T H.273)."""

from __future__ import annotations

from dataclasses import dataclass

UNSPECIFIED = 2
RGB, BT709, BT470BG, SMPTE170M, BT2020 = 0, 1, 5, 6, 9  # matrices; 1 and 9 are primaries too
SRGB, PQ, HLG = 13, 16, 18  # transfers


@dataclass(frozen=True)
class ColorMarks:
    """A clip's colour marks, as numbers of ITU-T H.273; 2 is "unspecified". full_range: black is 0 and white is all ones."""

    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED
    full_range: bool = False
