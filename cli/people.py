"""The people of a clip: found and numbered, and the picture of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..models.clip.find import ClipSearch, FoundFaces
from ..models.clip.follow import number_people
from ..models.clip.run import find_in_clip
from ..models.clip.who import Person, who_is_there
from ..models.detect import Detector
from ..models.errors import FaceLoomError
from ..models.files.cache import check_writable
from ..models.files.picture import write_image
from ..models.files.picture_formats import format_of
from ..models.files.video import ClipInfo
from ..models.identity import Recognizer
from ..models.options.detect import DetectSettings
from ..models.progress import Progress
from .clip_arguments import ClipOptions

SEARCH_EVERY = 8  # frames, between which faces are looked for only where they are expected


def search_of(detect: DetectSettings) -> ClipSearch:
    """Returns how the faces of a clip are searched: everybody's, for whose are swapped is chosen among the people of the whole clip."""
    return ClipSearch(replace(detect, keep="all"), SEARCH_EVERY)


def find_people(target: Path, info: ClipInfo, options: ClipOptions, detect: DetectSettings, models: tuple[Detector | None,
                Recognizer | None], progress: Progress) -> FoundFaces:
    """Returns the faces of a clip, its people numbered in the order of ``detect``, with times from its beginning. FaceLoomError where it
    cannot be read."""
    found = find_in_clip(target, search_of(detect), *models, section=options.section(info), progress=progress)
    return replace(number_people(found, detect.order), times=tuple(at - float(info.start) for at in found.times))


def expected_frames(info: ClipInfo, options: ClipOptions) -> int | None:
    """Returns about how many frames will be read of a clip; None where its length is not known."""
    if options.start is None and options.end is None and info.frames:
        return info.frames
    if info.duration is None:
        return None
    length = min(float(info.duration), options.end or float(info.duration)) - (options.start or 0)
    return max(1, round(length * float(info.rate)))


def check_sheet(path: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    """Raises FaceLoomError where the picture of who is there could not be written."""
    format_of(path)
    if os.path.realpath(path) in {os.path.realpath(file) for file in inputs}:
        raise FaceLoomError(f"{path} is one of the other files; choose another name for --who.")
    if path.is_dir():
        raise FaceLoomError(f"{path} is a folder; name a picture for --who.")
    if path.exists() and not overwrite:
        raise FaceLoomError(f"{path} is there already; pass --overwrite to replace it, or choose another name for --who.")
    check_writable(path.parent)


def write_sheet(path: Path, found: FoundFaces) -> None:
    """Writes the picture of who is there."""
    write_image(path, who_is_there(found, found.times))


def described(person: Person) -> dict:
    """Returns a person for the JSON document."""
    return {"number": person.track, "first": round(person.first, 3), "last": round(person.last, 3), "frames": person.frames,
            "share": round(person.share, 4)}
