"""Which models the whole path opens, by their names; ``pipeline.py`` does it."""

from __future__ import annotations

from dataclasses import dataclass

# Over which fraction of the crop's edge a mask of regions fades, inside the regions: Face Parse Mask's 16 of 512 pixels.
REGION_FEATHER = 16 / 512


@dataclass(frozen=True)
class ModelNames:
    """A file, a name in the models folders, or a built-in method for each stage, which is the default. occluder: "" for none."""

    engine: str = "mesh"
    detector: str = "dlib"
    recognizer: str = "dlib"
    parser: str = "landmarks"
    occluder: str = ""
    restorer: str = "match the photograph"


BUILT_IN = ModelNames()
