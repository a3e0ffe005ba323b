"""Which photographs are swapped, and where the results go: planned and checked before any work starts."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """One photograph to swap and where the result goes."""

    target: Path
    out: Path


def source_files(words: Iterable[str]) -> list[Path]:
    """The photos that the SOURCE words name: files, folders, comma-separated lists of either."""
    from ..models.errors import FaceLoomError
    from ..models.files.picture import IMAGE_SUFFIXES

    files: list[Path] = []
    for word in words:
        for path in [Path(word)] if Path(word).exists() else [Path(part.strip()) for part in word.split(",") if part.strip()]:
            if path.is_dir():
                inside = pictures_in(path, recursive=False)
                if not inside:
                    raise FaceLoomError(f"The source folder {path} has no picture in it ({', '.join(IMAGE_SUFFIXES)}).")
                files += inside
            elif path.is_file():
                files.append(path)
            else:
                raise FaceLoomError(f"The source {path} does not exist.")
    if not files:
        raise FaceLoomError("SOURCE is empty; name at least one photo of the person.")
    return files


def pictures_in(folder: Path, recursive: bool, but: Path | None = None) -> list[Path]:
    """Picture files of a folder in name order, hidden ones and those in or under ``but`` left out."""
    from ..models.files.picture import IMAGE_SUFFIXES

    found = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(
        path for path in found
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not (but and but in path.resolve().parents)
    )


def plan(target: Path, out: str, recursive: bool) -> list[Job]:
    """What is to be done, or FaceLoomError where TARGET and OUT do not fit together."""
    from ..models.errors import FaceLoomError
    from ..models.files.picture import IMAGE_SUFFIXES

    destination = Path(out)
    if target.is_dir():
        if destination.is_file() or (destination.suffix.lower() in IMAGE_SUFFIXES and not destination.is_dir()):
            raise FaceLoomError(f"{target} is a folder, so OUT must be a folder too, not {destination}.")
        if destination.resolve() == target.resolve():
            raise FaceLoomError(f"OUT is TARGET itself ({target}); name another folder so that no photograph is lost.")
        pictures = pictures_in(target, recursive, but=destination.resolve())
        if not pictures:
            raise FaceLoomError(f"The folder {target} has no picture in it ({', '.join(IMAGE_SUFFIXES)}).")
        return [Job(path, destination / path.relative_to(target)) for path in pictures]
    if not target.is_file():
        raise FaceLoomError(f"The target {target} does not exist.")
    if destination.is_dir() or out.endswith(("/", "\\")) or not destination.suffix:
        name = target.name if target.suffix.lower() in IMAGE_SUFFIXES else f"{target.stem}.png"
        destination = destination / name
    return [Job(target, destination)]


def check(jobs: Iterable[Job], sources: Iterable[Path], overwrite: bool, provenance: bool) -> None:
    """Find before the work starts what would spoil it at its end."""
    from ..models.errors import FaceLoomError
    from ..models.files.cache import check_writable
    from ..models.files.picture import format_of

    inputs = {path.resolve() for path in sources} | {job.target.resolve() for job in jobs}
    there = []
    for job in jobs:
        if format_of(job.out) == "BMP" and provenance:
            raise FaceLoomError(f"{job.out}: a .bmp file has no room for provenance; write .png, .jpg, .webp or .tif.")
        if job.out.resolve() in inputs:
            raise FaceLoomError(f"{job.out} is one of the pictures that are read; choose another OUT.")
        if job.out.is_dir():
            raise FaceLoomError(f"{job.out} is a folder; choose another OUT.")
        if job.out.exists():
            there.append(job.out)
    if there and not overwrite:
        more = f" and {len(there) - 1} more are" if len(there) > 1 else " is"
        raise FaceLoomError(f"{there[0]}{more} there already; pass --overwrite to replace, or choose another OUT.")
    for folder in sorted({job.out.parent for job in jobs}):
        check_writable(folder)


def copy_file(source: Path, destination: Path) -> None:
    """The same bytes under another name, in one move."""
    from ..models.files.cache import replace_file

    with open(source, "rb") as original, replace_file(destination) as copy:
        shutil.copyfileobj(original, copy)
