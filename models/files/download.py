"""Downloads model files when the user asks for them, by themselves or out of the zip archives they are published in.

``HF_ENDPOINT`` replaces Hugging Face's address, ``FACELOOM_MIRROR`` is tried first for every file. ``transfer`` does the transfer itself.
"""

from __future__ import annotations

import os
import re
import shutil
import urllib.parse
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ..errors import FaceLoomError
from ..progress import Progress, silent
from .cache import expected_hash, file_hash, record_hash
from .catalogue import Pack, Row, packs
from .declared import PACKED, Declared, named
from .folders import Folders
from .terminal import command
from .transfer import DEFAULT_POLICY, PIECE_BYTES, DownloadJob, RetryPolicy, check_disk_space, run_job, verify_download
from .web import AddressError


def check_sha256(text: str) -> str:
    """Return a sha256 that somebody wrote, in small letters and without ``sha256:`` before it; FaceLoomError where it cannot be one."""
    digest = text.strip().lower().removeprefix("sha256:").strip()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise FaceLoomError(f"A sha256 has 64 digits from 0 to 9 and a to f, not {len(digest)} characters such as {text[:20]!r}.")
    return digest


def download_file(row: Row, folders: Folders, *, mirror: str | None = None, sha256: str | None = None, force: bool = False,
                  policy: RetryPolicy = DEFAULT_POLICY, progress: Progress = silent) -> Path:
    """Download a row's file into its folder, unless it is there and has the right hash. Returns its path.

    mirror: a web address whose ``/FILE`` is tried first. sha256: the hash that the user states instead of the catalogue's. force: replace a
    file of that name that is not the catalogue's. ``progress`` counts bytes. A file that is published only in a zip archive is taken out
    of it, together with the archive's other rows that are not on disk. FaceLoomError where no address gives the file, where it has to be
    fetched by hand, and where another file of its name is there.
    """
    target = folders.target(row)
    expected = check_sha256(sha256) if sha256 is not None else expected_hash(row, target)
    if target.is_file() and not force:
        _check_present(target, row, expected)
        return target
    if row.by_hand:
        raise FaceLoomError(f"{row.file} ({row.terms}) is only to be had by hand: get it from {row.page} and put it into {target.parent}.")
    if not row.urls:
        _unpack(packs()[row.packs[0]], target.parent, mirror, policy, progress, {row.name: expected})
        return target
    size = None if sha256 else row.bytes
    digest = run_job(DownloadJob(row.file, row.name, target, list_addresses(row.urls, row.file, mirror), expected, size, policy, progress))
    _record_if_new(target, row, digest)
    return target


def download_pack(pack: Pack, folders: Folders, *, mirror: str | None = None, policy: RetryPolicy = DEFAULT_POLICY,
                  progress: Progress = silent) -> list[Path]:
    """Download a zip archive and take out every row of it that is not on disk. Returns the paths of all its rows.

    Parameters and errors are those of ``download_file``.
    """
    place = _pack_folder(pack, folders)
    if not all(_file_in(place, row) for row in pack.rows):
        _unpack(pack, place, mirror, policy, progress)
    paths = (_file_in(place, row) for row in pack.rows)
    return [path for path in paths if path]


def list_addresses(urls: Sequence[str], file: str, mirror: str | None = None) -> tuple[str, ...]:
    """List the addresses to try for a file, in order: the mirror's, then ``urls`` with ``HF_ENDPOINT`` in place of Hugging Face.

    FaceLoomError where one is no web address.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    if endpoint:
        urls = [url.replace("https://huggingface.co", endpoint, 1) if url.startswith("https://huggingface.co/") else url for url in urls]
    mirror = mirror or os.environ.get("FACELOOM_MIRROR")
    mirrored = (f"{mirror.rstrip('/')}/{urllib.parse.quote(file)}",) if mirror else ()
    for url in (*mirrored, *urls):
        if not _is_web_address(url):
            raise FaceLoomError(f"{url} is not a web address; check --mirror, FACELOOM_MIRROR and HF_ENDPOINT.")
    return tuple(dict.fromkeys((*mirrored, *urls)))


def _is_web_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0 and not any(map(str.isspace, url))
    except ValueError:
        return False


def _check_present(target: Path, row: Row, expected: str | None) -> None:
    """Raise FaceLoomError if the file that is there has not the size or hash of the row's."""
    size = target.stat().st_size
    wrong_size = not size or (row.bytes is not None and size != row.bytes and not row.also and expected == row.sha256)
    if wrong_size or (expected and file_hash(target) not in {expected, *row.hashes}):
        raise FaceLoomError(f"{target} is there but is not the file the catalogue knows as {row.name}; keep using it, or replace it with "
                            f"`{command('models', 'get', row.name, '--force')}`.")


def _record_if_new(target: Path, row: Row, digest: str) -> None:
    """Record the hash of a fetched file where the catalogue states none, or where another was recorded before."""
    if digest != expected_hash(row, target):
        record_hash(target, digest)


def _pack_folder(pack: Pack, folders: Folders) -> Path:
    """Return the pack's folder, ``insightface/models/NAME``: of all insightface folders the one that holds most of its files.

    InsightFace takes such a folder for the whole pack and fetches nothing that is missing in it, so only whole packs go there.
    """
    places = [base / "models" / pack.name for base in folders.bases("insightface")]
    nested = [place / pack.name for place in places]  # where unzipping antelopev2 by hand puts it
    return max((*places, *nested), key=lambda place: sum(_file_in(place, row) is not None for row in pack.rows))


def _file_in(place: Path, row: Row) -> Path | None:
    """Return the row's file in a folder, under any of its names; None if there is none."""
    return next((place / name for name in row.names if (place / name).is_file()), None)


def _unpack(pack: Pack, place: Path, mirror: str | None, policy: RetryPolicy, progress: Progress,
            expected: Mapping[str, str | None] = MappingProxyType({})) -> None:
    """Download the archive, take out the rows named in ``expected`` and those that the folder ``place`` lacks, and delete the archive.

    expected: by row name the sha256 that the file must have, None for any.
    """
    archive = place.with_name(f"{pack.name}.zip")
    urls = list_addresses((pack.url,), archive.name, mirror)
    run_job(DownloadJob(archive.name, pack.name, archive, urls, pack.sha256, None, policy, progress))
    extracted: list[tuple[Path, Path, Row, str]] = []
    try:
        with zipfile.ZipFile(archive) as opened:
            for row in pack.rows:
                if row.name in expected or not _file_in(place, row):
                    extracted.append(_extract(opened, row, place, expected, policy))
        place.mkdir(parents=True, exist_ok=True)
        for part, target, row, digest in extracted:
            os.replace(part, target)
            _record_if_new(target, row, digest)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:  # the last: a member with a password
        raise FaceLoomError(f"{archive.name} from {pack.url} is damaged ({error}); run the command again.") from error
    except OSError as error:
        raise FaceLoomError(f"{pack.name} cannot be written to {place} ({error.strerror or error}).") from error
    finally:
        for path in (archive, *(part for part, *_ in extracted)):
            path.unlink(missing_ok=True)


def _extract(archive: zipfile.ZipFile, row: Row, place: Path, expected: Mapping[str, str | None], policy: RetryPolicy
             ) -> tuple[Path, Path, Row, str]:
    """Extract one file and check it. Returns the path of the extracted file, the path it belongs to, its row and its sha256.

    It is extracted beside the archive: the folder ``place`` is only touched when all files are there. Names inside the archive are only
    compared, never used as paths.
    """
    called = Path(archive.filename or "The archive").name
    entries = {info.filename.replace("\\", "/").split("/")[-1]: info for info in archive.infolist() if not info.is_dir()}
    name = next((name for name in row.names if name in entries), None)
    if name is None:
        raise FaceLoomError(f"{called} does not hold {row.file}; it is not the archive that is known.")
    target, size = place / name, None if row.name in expected else row.bytes
    sha256 = expected.get(row.name) or expected_hash(row, target)
    job = DownloadJob(row.file, row.name, place.with_name(f"{place.name}-{name}"), (), sha256, size, policy, silent)
    declared = entries[name].file_size  # no more than this is unpacked
    if row.bytes and declared > (size or PACKED * row.bytes):
        raise FaceLoomError(f"{row.file} in {called} is not the file that is known: it has {declared} bytes instead of {row.bytes}.")
    if not row.bytes:
        with named(called):
            Declared(archive.filename or "").add(declared)
    check_disk_space(job, declared)
    try:
        with archive.open(entries[name]) as source, job.part.open("wb") as stream:
            shutil.copyfileobj(source, stream, PIECE_BYTES)
        return job.part, target, row, verify_download(job)
    except AddressError as error:
        raise FaceLoomError(f"{row.file} in {called} is not the file that is known: {error}.") from error
    except BaseException:
        job.part.unlink(missing_ok=True)
        raise
