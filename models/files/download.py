"""Fetching a model file when the user asks for it, by itself or out of the zip archive it is published in.

``HF_ENDPOINT`` replaces Hugging Face, ``FACELOOM_MIRROR`` is asked first for every file; ``transfer`` does the rest.
"""

from __future__ import annotations

import os
import shutil
import urllib.parse
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ..errors import FaceLoomError
from ..progress import Progress, silent
from .cache import expected_hash, file_hash, record_hash
from .catalogue import Pack, Row, packs
from .folders import Folders
from .terminal import command
from .transfer import DEFAULT_POLICY, PIECE_BYTES, AddressError, DownloadJob, RetryPolicy, check_disk_space, run_job, verify_download


def download_file(row: Row, folders: Folders, *, mirror: str | None = None, sha256: str | None = None, force: bool = False,
        policy: RetryPolicy = DEFAULT_POLICY, progress: Progress = silent) -> Path:
    """Fetch one row's file into its folder, unless it is there and right. Returns its path.

    mirror: a web address whose ``/FILE`` is asked first. sha256: what the user says the file must be instead of what the catalogue says.
    force: replace a file of that name that is not the catalogue's. ``progress`` counts bytes. A file that is only in a zip archive is
    taken out of it, with the archive's other rows that are not on disk.
    """
    target = folders.target(row)
    wanted = sha256 or expected_hash(row, target)
    if target.is_file() and not force:
        return _checked(target, row, wanted)
    if row.by_hand:
        raise FaceLoomError(f"{row.file} ({row.terms}) is only to be had by hand: get it from {row.page} and put it into {target.parent}.")
    if not row.urls:
        _from_pack(packs()[row.packs[0]], target.parent, mirror, policy, progress, {row.name: wanted})
        return target
    size = None if sha256 else row.bytes
    digest = run_job(DownloadJob(row.file, row.name, target, list_addresses(row.urls, row.file, mirror), wanted, size, policy, progress))
    _remember(target, row, digest)
    return target


def download_pack(pack: Pack, folders: Folders, *, mirror: str | None = None, policy: RetryPolicy = DEFAULT_POLICY,
             progress: Progress = silent) -> list[Path]:
    """Fetch a zip archive and take out every row of it that is not on disk."""
    place = _place(pack, folders)
    if not all(_held(row, place) for row in pack.rows):
        _from_pack(pack, place, mirror, policy, progress)
    return [_held(row, place) for row in pack.rows]


def list_addresses(urls: Sequence[str], file: str, mirror: str | None = None) -> tuple[str, ...]:
    """The addresses to try, in order: the mirror's, then the catalogue's with ``HF_ENDPOINT`` in place of Hugging Face."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    if endpoint:
        urls = [url.replace("https://huggingface.co", endpoint, 1) if url.startswith("https://huggingface.co/") else url for url in urls]
    mirror = mirror or os.environ.get("FACELOOM_MIRROR")
    first = (f"{mirror.rstrip('/')}/{urllib.parse.quote(file)}",) if mirror else ()
    for url in (*first, *urls):
        if not _is_address(url):
            raise FaceLoomError(f"{url} is not a web address; check --mirror, FACELOOM_MIRROR and HF_ENDPOINT.")
    return tuple(dict.fromkeys((*first, *urls)))


def _is_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0 and not any(map(str.isspace, url))
    except ValueError:
        return False


def _checked(target: Path, row: Row, wanted: str | None) -> Path:
    size = target.stat().st_size
    wrong_size = not size or (row.bytes is not None and size != row.bytes and not row.also and wanted == row.sha256)
    if wrong_size or (wanted and file_hash(target) not in {wanted, *row.hashes}):
        raise FaceLoomError(f"{target} is there but is not the file the catalogue knows as {row.name}; keep using it, or replace it with "
                            f"`{command('models', 'get', row.name, '--force')}`.")
    return target


def _remember(target: Path, row: Row, digest: str) -> None:
    """Write down what was fetched where the catalogue does not say it, or something else was fetched before."""
    if digest != expected_hash(row, target):
        record_hash(target, digest)


def _place(pack: Pack, folders: Folders) -> Path:
    """The pack's folder, ``insightface/models/NAME``: of the insightface folders that have one, else below the first.

    InsightFace takes such a folder for the whole pack and fetches nothing that lacks, so that only whole packs go there.
    """
    places = [base / "models" / pack.name for base in folders.bases("insightface")]
    nested = [place / pack.name for place in places]  # where unzipping antelopev2 by hand puts it
    return max((*places, *nested), key=lambda place: sum(_held(row, place) is not None for row in pack.rows))


def _held(row: Row, place: Path) -> Path | None:
    return next((place / name for name in row.names if (place / name).is_file()), None)


def _from_pack(pack: Pack, place: Path, mirror: str | None, policy: RetryPolicy, progress: Progress,
               wanted: Mapping[str, str | None] = MappingProxyType({})) -> None:
    """Fetch the archive, take out the rows in ``wanted`` (each with the sha256 it must have) and those that ``place`` lacks,
    and delete it."""
    archive = place.with_name(f"{pack.name}.zip")
    urls = list_addresses((pack.url,), archive.name, mirror)
    run_job(DownloadJob(archive.name, pack.name, archive, urls, pack.sha256, None, policy, progress))
    made: list[tuple[Path, Path, Row, str]] = []
    try:
        with zipfile.ZipFile(archive) as opened:
            for row in pack.rows:
                if row.name in wanted or not _held(row, place):
                    made.append(_extract(opened, row, place, wanted, policy))
        place.mkdir(parents=True, exist_ok=True)
        for part, target, row, digest in made:
            os.replace(part, target)
            _remember(target, row, digest)
    except zipfile.BadZipFile as error:
        raise FaceLoomError(f"{archive.name} from {pack.url} is damaged ({error}); run the command again.") from error
    except OSError as error:
        raise FaceLoomError(f"{pack.name} cannot be written to {place} ({error.strerror or error}).") from error
    finally:
        for path in (archive, *(part for part, *_ in made)):
            path.unlink(missing_ok=True)


def _extract(archive: zipfile.ZipFile, row: Row, place: Path, wanted: Mapping[str, str | None], policy: RetryPolicy
             ) -> tuple[Path, Path, Row, str]:
    """One file out of the archive, checked, beside the archive: its folder is only touched when all are there. Returns where it is, where
    it belongs, its row and its sha256. Names inside the archive are only compared, never used as paths."""
    entries = {info.filename.replace("\\", "/").split("/")[-1]: info for info in archive.infolist() if not info.is_dir()}
    name = next((name for name in row.names if name in entries), None)
    if name is None:
        raise FaceLoomError(f"{Path(archive.filename).name} does not hold {row.file}; it is not the archive that is known.")
    target, size = place / name, None if row.name in wanted else row.bytes
    sha256 = wanted.get(row.name) or expected_hash(row, target)
    job = DownloadJob(row.file, row.name, place.with_name(f"{place.name}-{name}"), (), sha256, size, policy, silent)
    check_disk_space(job, entries[name].file_size)
    try:
        with archive.open(entries[name]) as source, job.part.open("wb") as stream:
            shutil.copyfileobj(source, stream, PIECE_BYTES)
        return job.part, target, row, verify_download(job)
    except AddressError as failure:
        raise FaceLoomError(f"{row.file} in {Path(archive.filename).name} is not the file that is known: {failure}.") from failure
    except BaseException:
        job.part.unlink(missing_ok=True)
        raise
