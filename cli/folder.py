"""The pictures of a folder, and what in it is not taken: every file that is a picture or a clip is either read or named."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Video files that are read.
_VIDEO = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv", ".vob"}
# How files begin that are pictures whatever they are called.
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class Found:
    """What a folder holds. pictures: in name order. left_out: what is not taken, and why."""

    pictures: list[Path]
    left_out: Mapping[Path, str] = field(default_factory=dict)


def is_video(path: Path) -> bool:
    """Returns whether a file is a video file, by its suffix."""
    return path.suffix.lower() in _VIDEO


def pictures_in(folder: Path, recursive: bool, but: Path | None = None, clips: bool = False) -> Found:
    """Returns the picture files of a folder; hidden ones and those in or under ``but`` are passed over.

    recursive: take subfolders too, linked ones as well, but none inside itself. clips: take video files too.
    """
    from ..models.files.picture_formats import is_read

    pictures, left_out = [], {}
    for path, problem in _walk(folder, recursive, but and os.path.realpath(but), (os.path.realpath(folder),)):
        if problem is None and (is_read(path.suffix.lower()) or (clips and is_video(path))):
            pictures.append(path)
        elif reason := problem or _why_not(path):
            left_out[path] = reason
    return Found(sorted(pictures), left_out)


def _walk(folder: Path, recursive: bool, but: str | None, above: tuple[str, ...]) -> Iterator[tuple[Path, str | None]]:
    """Yields the files of a folder, and what cannot be read with the reason. above: the real folders that this one lies in, and its own."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        yield folder, error.strerror or str(error)
        return
    for path in (folder / name for name in names):
        real = os.path.realpath(path)
        if but and (real + os.sep).startswith(but.rstrip(os.sep) + os.sep):
            continue
        if os.path.isdir(path):
            if recursive and real in above:
                yield path, "a link to a folder that it lies in"
            elif recursive:
                yield from _walk(path, recursive, but, (*above, real))
        elif os.path.isfile(path):
            yield path, None
        else:
            yield path, "a link to nothing" if os.path.islink(path) else "no file but a device or a pipe"


def _why_not(path: Path) -> str | None:
    """Returns why a file that has no suffix of a picture that is read is left out; None where it is no picture anyway."""
    from ..models.files.picture_formats import why_not_read

    reason = why_not_read(path.suffix.lower())
    if reason or path.suffix.lower() in (".txt", ".json", ".xmp", ".safetensors"):
        return reason
    try:
        with open(path, "rb") as file:
            start = file.read(12)
    except OSError:
        return None
    is_picture = start.startswith(_STARTS) or start[4:8] == b"ftyp" or (start[:4] == b"RIFF" and start[8:] == b"WEBP")
    return "its name does not end as a picture's does, such as in .jpg" if is_picture else None


def sentence(left_out: Mapping[Path, str]) -> str:
    """Returns one sentence about all that is left out, by reason; "" where nothing is."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in left_out.items():
        by_reason.setdefault(reason, []).append(str(path))
    parts = [f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''} ({reason})"
             for reason, names in by_reason.items()]
    return f"left out: {'; '.join(parts)}." if parts else ""
