"""The names of face regions."""

from __future__ import annotations

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
