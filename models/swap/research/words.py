"""Words that options of several systems share."""

from __future__ import annotations

PUBLISHED, OUTLINE = "as published", "face outline"

MASK_HELP = ("Where the new face is shown, and how softly. The first choice is what was published; the help page tells of each. Face "
             "outline needs neither landmarks nor a face parser.")
