"""The names of face regions; ``parse/`` makes masks of them."""

from __future__ import annotations

from ..errors import FaceLoomError, brief

# A parser's labels are indices into this table. Left and right are the viewer's; "mouth" is what lies between the lips.
REGIONS: tuple[str, ...] = (
    "background", "skin", "left_brow", "right_brow", "left_eye", "right_eye", "glasses", "nose", "mouth", "upper_lip", "lower_lip",
    "left_ear", "right_ear", "hair", "hat", "neck", "cloth", "necklace", "earring", "face",
)  # fmt: skip
# The labels that make up "face", the whole face with the forehead and what is worn on it, which has no label of its own.
FACE_PARTS: tuple[str, ...] = REGIONS[1:11]
# What landmarks can show: parts with a name of their own, and "skin", the face without them.
LANDMARK_PARTS: tuple[str, ...] = ("left_brow", "right_brow", "left_eye", "right_eye", "nose", "upper_lip", "lower_lip", "mouth")
LANDMARK_REGIONS: tuple[str, ...] = ("face", "skin", "background", *LANDMARK_PARTS)
# Regions by one word for several.
PRESETS: dict[str, tuple[str, ...]] = {
    "face": ("face",),
    "skin": ("skin",),
    "brows": ("left_brow", "right_brow"),
    "eyes": ("left_eye", "right_eye"),
    "nose": ("nose",),
    "lips": ("upper_lip", "lower_lip"),
    "mouth": ("mouth", "upper_lip", "lower_lip"),
    "hair": ("hair",),
}


def read_regions(words: str, parser: bool) -> tuple[str, ...]:
    """Reads comma-separated names of ``PRESETS`` or ``REGIONS``, each region once.

    parser: whether a network labels the regions; landmarks can show only some. FaceLoomError for another word, and for none.
    """
    names = [word.strip() for word in words.split(",") if word.strip()]
    unknown = [name for name in names if name not in PRESETS and name not in REGIONS]
    if unknown or not names:
        which = f"no face region {brief(', '.join(unknown))}" if unknown else "no face region named"
        raise FaceLoomError(f"There is {which}; choose among {', '.join(dict.fromkeys([*PRESETS, *REGIONS]))}.")
    regions = tuple(dict.fromkeys(region for name in names for region in PRESETS.get(name, (name,))))
    network_only = [region for region in regions if region not in LANDMARK_REGIONS]
    if network_only and not parser:
        raise FaceLoomError(f"Landmarks cannot show {', '.join(network_only)}; name a face parser, or leave them out.")
    return regions
