"""Which photographs and clips are swapped, and where the results go: planned and checked before any work starts."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..models.options.clip import CONTAINERS
from .folder import Found, is_video, pictures_in

if TYPE_CHECKING:
    from ..models.files.picture import Frames

# Pictures that a clip can be written as.
_ANIMATIONS = (".gif", ".webp", ".apng")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # two letters and more: C:/ is a drive


@dataclass(frozen=True)
class Job:
    """One photograph or clip to swap and where the result goes."""

    target: Path
    out: Path

    @property
    def is_clip(self) -> bool:
        """Whether frames are read and written one by one: a video file comes in or goes out."""
        return is_video(self.target) or is_video(self.out)


@dataclass(frozen=True)
class Plan:
    """All that is to be done. left_out: what of TARGET is not taken, and why."""

    jobs: list[Job]
    left_out: dict[Path, str]


def source_files(words: Iterable[str]) -> Found:
    """Returns the photos that the SOURCE words name: files, folders, comma-separated lists of either."""
    from ..models.errors import FaceLoomError

    files: list[Path] = []
    left_out: dict[Path, str] = {}
    for word in words:
        for part in [word] if os.path.exists(word) else [part.strip() for part in word.split(",")]:
            path = Path(part)
            if not part:
                continue
            if os.path.isdir(path):
                inside = pictures_in(path, recursive=False)
                if not inside.pictures:
                    raise FaceLoomError(_nothing_in(path, "source ", inside))
                files += inside.pictures
                left_out |= inside.left_out
            elif os.path.isfile(path):
                files.append(path)
            else:
                raise FaceLoomError(f"The source {_missing(part)}")
        if not word.strip(" ,"):
            raise FaceLoomError("SOURCE is empty; name at least one photo of the person.")
    return Found(files, left_out)


def _missing(word: str) -> str:
    if _ADDRESS.match(word):
        return f"{word} is an address; download it first."
    return f"{word} does not exist."


def _nothing_in(folder: Path, kind: str, found: Found) -> str:
    """Returns the sentence about a folder without a picture that can be read."""
    from ..models.files.picture_formats import written_suffixes
    from .folder import sentence

    left_out = f"; {sentence(found.left_out)}" if found.left_out else "."
    return f"The {kind}folder {folder} has no picture in it ({', '.join(written_suffixes())}){left_out}"


def plan(target: str, out: str, recursive: bool) -> Plan:
    """Returns what is to be done; FaceLoomError where TARGET and OUT do not fit together."""
    from ..models.errors import FaceLoomError
    from ..models.files.picture_formats import written_format

    for name, word in (("TARGET", target), ("OUT", out)):
        if not word.strip():
            raise FaceLoomError(f"{name} is empty; name a picture or a folder.")
    if _ADDRESS.match(out) and not os.path.exists(out):
        raise FaceLoomError(f"OUT must be a picture or a folder of this machine, not the address {out}.")
    source, destination = Path(target), Path(out)
    is_file = written_format(destination.suffix.lower()) is not None or is_video(destination)
    if os.path.isdir(source):
        if os.path.isfile(destination) or (is_file and not os.path.isdir(destination)):
            raise FaceLoomError(f"{source} is a folder, so OUT must be a folder too, not {destination}.")
        if os.path.realpath(destination) == os.path.realpath(source):
            raise FaceLoomError(f"OUT is TARGET itself ({source}); name another folder so that no photograph is lost.")
        found = pictures_in(source, recursive, but=destination, clips=True)
        if not found.pictures:
            raise FaceLoomError(_nothing_in(source, "", found))
        return Plan(_in_folder(found.pictures, source, destination), dict(found.left_out))
    if not os.path.isfile(source):
        raise FaceLoomError(f"The target {_missing(target)}")
    if os.path.isdir(destination) or out.endswith(("/", "\\")) or not destination.suffix:
        destination = destination / (source.name if _is_written(source) else f"{source.stem}{_written_suffix(source)}")
    elif is_video(source) and destination.suffix.lower() not in (*CONTAINERS, *_ANIMATIONS):
        raise FaceLoomError(f"{source} is a clip, so OUT must be one, {', '.join((*CONTAINERS, *_ANIMATIONS))}, not {destination}.")
    return Plan([Job(source, destination)], {})


def _is_written(path: Path) -> bool:
    """Returns whether files like this one are written under the same suffix."""
    from ..models.files.picture_formats import written_format

    return path.suffix.lower() in CONTAINERS or written_format(path.suffix.lower()) is not None


def _written_suffix(path: Path) -> str:
    """Returns the suffix under which a file that cannot be written in its own format is written."""
    return ".mp4" if is_video(path) else ".png"


def _in_folder(pictures: Sequence[Path], source: Path, destination: Path) -> list[Job]:
    """Returns the jobs of a folder. Names are kept; what cannot be written in its own format becomes ``name.png``, or ``name.suffix.png``
    where there is a ``name.png`` already; a clip in the same way ``.mp4``."""
    inside = {path: path.relative_to(source) for path in pictures}
    taken = {_same_name(name) for path, name in inside.items() if _is_written(path)}
    for path, name in inside.items():
        if not _is_written(path):
            suffix = _written_suffix(path)
            short = name.with_suffix(suffix)
            inside[path] = name.with_name(f"{name.name}{suffix}") if _same_name(short) in taken else short
            taken.add(_same_name(inside[path]))
    return [Job(path, destination / name) for path, name in inside.items()]


def _same_name(path: Path) -> str:
    """Returns what is equal for names that some file systems take for the same: in either case, composed or not."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def check(jobs: Sequence[Job], sources: Iterable[Path], overwrite: bool, provenance: bool) -> None:
    """Finds before the work starts what would spoil it at its end."""
    from ..models.errors import FaceLoomError
    from ..models.files.cache import check_writable
    from ..models.files.picture_formats import format_of

    inputs = {os.path.realpath(path) for path in sources} | {os.path.realpath(job.target) for job in jobs}
    there = []
    for job in jobs:
        if not is_video(job.out) and format_of(job.out) in ("BMP", "GIF") and provenance:
            raise FaceLoomError(f"{job.out}: a {job.out.suffix} file has no room for provenance; write .png, .jpg, .webp or .tif.")
        if os.path.realpath(job.out) in inputs:
            raise FaceLoomError(f"{job.out} is one of the files that are read; choose another OUT.")
        if os.path.isdir(job.out):
            raise FaceLoomError(f"{job.out} is a folder; choose another OUT.")
        if _is_there(job.out):
            there.append(job.out)
        if not is_video(job.target) and job.target.suffix.lower() != job.out.suffix.lower():
            check_frames(job)
    if there and not overwrite:
        more = f" and {len(there) - 1} more are" if len(there) > 1 else " is"
        raise FaceLoomError(f"{there[0]}{more} there already; pass --overwrite to replace, or choose another OUT.")
    for path in there:
        if not path.stat().st_mode & stat.S_IWUSR or not os.access(path, os.W_OK):
            raise FaceLoomError(f"{path} may not be written to; change its permissions, or choose another OUT.")
    for folder in sorted({os.path.dirname(os.path.realpath(job.out)) for job in jobs}):
        check_writable(folder)
    _check_names(jobs)


def _is_there(path: Path) -> bool:
    """Returns whether a file is there; FaceLoomError where its name or its folder's is too long, or a link leads in circles."""
    from ..models.errors import FaceLoomError

    try:
        return path.stat() is not None
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise FaceLoomError(f"{path} cannot be written ({getattr(error, 'strerror', None) or error}); choose another name.") from None


def _check_names(jobs: Sequence[Job]) -> None:
    """Raises FaceLoomError where the file system does not take a name, or takes two of them for the same."""
    from ..models.errors import FaceLoomError

    alike = defaultdict(list)
    for job in jobs:
        alike[_same_name(Path(os.path.realpath(job.out)))].append(job)
    for first, *others in alike.values():
        with _empty_file(first.out):
            for other in others:
                if os.path.exists(other.out) and os.path.samefile(first.out, other.out):
                    raise FaceLoomError(f"{first.target} and {other.target} would both become {first.out}; rename one of them.")
        for other in others:
            with _empty_file(other.out):
                pass


@contextmanager
def _empty_file(path: Path) -> Iterator[None]:
    """Has a file of this name for as long as the block lasts, where there is none."""
    from ..models.errors import FaceLoomError

    real = os.path.realpath(path)
    try:
        if os.path.lexists(real):
            real = ""
        else:
            with open(real, "xb"):
                pass
    except (OSError, ValueError) as error:
        raise FaceLoomError(f"{path} cannot be written ({getattr(error, 'strerror', None) or error}); choose another name.") from None
    try:
        yield
    finally:
        if real:
            os.unlink(real)


def check_frames(job: Job) -> Frames:
    """Returns which frames or pages a photograph has; FaceLoomError where the result's format cannot hold them as they are."""
    from ..models.errors import FaceLoomError
    from ..models.files.picture import Frames, frames_in
    from ..models.files.picture_formats import SEVERAL, TIMED, format_of

    try:
        frames = frames_in(job.target)
    except FaceLoomError:
        return Frames()  # reading it will say why
    if is_video(job.out):
        if not is_animated(job.target):
            raise FaceLoomError(f"{job.target} is a photograph, so OUT must be a picture, not {job.out}.")
        return frames
    out = format_of(job.out)
    if frames.count > 1 and (out not in SEVERAL or frames.timed != (out in TIMED)):
        kind, fitting = ("frames", ".webp, .png or .gif") if frames.timed else ("pages", ".tif")
        raise FaceLoomError(f"{job.target} has {frames.count} {kind}, which a {job.out.suffix} file cannot hold; write {fitting}.")
    return frames


def is_animated(path: Path) -> bool:
    """Returns whether a file is an animated picture: one of several frames that have times."""
    from ..models.errors import FaceLoomError
    from ..models.files.picture import frames_in

    if is_video(path):
        return False
    try:
        frames = frames_in(path)
    except FaceLoomError:
        return False
    return frames.count > 1 and frames.timed


def copy_file(source: Path, destination: Path) -> None:
    """Writes the same bytes under another name, in one move."""
    from ..models.errors import FaceLoomError
    from ..models.files.cache import write_file

    try:
        data = source.read_bytes()
    except OSError as error:
        raise FaceLoomError(f"{source} cannot be read ({error.strerror or error}).") from error
    write_file(destination, data)
