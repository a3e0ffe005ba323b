"""Fetching a model file when the user asks for it: resumable, checked, and moved into place only when it is whole and right.

``inswapper_128.onnx`` is written as ``inswapper_128.onnx.part`` beside its target with a small ``.part.json`` that remembers which version
of the file the bytes are of, so that a later run goes on where this one stopped. Only the standard library is used; proxies come from
the environment as usual (``HTTPS_PROXY`` ...), ``HF_ENDPOINT`` replaces Hugging Face, ``FACELOOM_MIRROR`` is asked first for every file.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .catalogue import Pack, Row, packs
from .errors import FaceLoomError
from .folders import Folders, file_hash, pinned_hash, read_json, record_hash, write_json
from .progress import Progress, silent

PIECE = 1 << 20
SPARE = 64 << 20  # bytes to leave free on the disk


@dataclass(frozen=True)
class Policy:
    """How patient to be. Seconds; ``attempts`` per address without any new byte."""

    connect: float = 15.0
    read: float = 30.0
    attempts: int = 4
    pause: float = 1.0
    sleep: Callable[[float], None] = time.sleep


PATIENT = Policy()


class _Failure(Exception):
    """Why one address did not give the file. ``again``: it is worth asking the same address once more."""

    def __init__(self, reason: str, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


@dataclass(frozen=True)
class _Job:
    """One file to fetch. sha256 None: unpinned. size None: unknown."""

    name: str
    target: Path
    urls: tuple[str, ...]
    sha256: str | None
    size: int | None
    policy: Policy
    progress: Progress

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    @property
    def state(self) -> Path:
        return self.target.with_name(self.target.name + ".part.json")


def get(row: Row, folders: Folders, *, mirror: str | None = None, sha256: str | None = None, force: bool = False,
        policy: Policy = PATIENT, progress: Progress = silent) -> Path:
    """Fetch one row's file into its folder, unless it is there and right. Returns its path.

    mirror: a web address whose ``/FILE`` is asked first. sha256: what the user says the file must be instead of what the catalogue says.
    force: replace a file of that name that is not the catalogue's. ``progress`` counts bytes. A file that is only in a zip archive is
    taken out of it, with the archive's other rows that are not on disk.
    """
    target = folders.target(row)
    if row.by_hand:
        raise FaceLoomError(f"{row.file} ({row.terms}) is only to be had by hand: get it from {row.page} and put it into {target.parent}.")
    wanted = sha256 or pinned_hash(row, target)
    if target.is_file() and not force:
        return _checked(target, row, wanted)
    if not row.urls:
        return _from_pack(packs()[row.packs[0]], row, folders, mirror, policy, progress)
    size = None if sha256 else row.bytes
    job = _Job(row.file, target, addresses(row.urls, row.file, mirror), wanted, size, policy, progress)
    digest = _fetch(job)
    if digest != row.sha256:
        record_hash(target, digest)
    return target


def get_pack(pack: Pack, folders: Folders, *, mirror: str | None = None, policy: Policy = PATIENT,
             progress: Progress = silent) -> list[Path]:
    """Fetch a zip archive and take out every row of it that is not on disk."""
    absent = [row for row in pack.rows if not folders.target(row).is_file()]
    if absent:
        _from_pack(pack, absent[0], folders, mirror, policy, progress)
    return [folders.target(row) for row in pack.rows]


def addresses(urls: Sequence[str], file: str, mirror: str | None = None) -> tuple[str, ...]:
    """The addresses to try, in order: the mirror's, then the catalogue's with ``HF_ENDPOINT`` in place of Hugging Face."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    if endpoint:
        urls = [url.replace("https://huggingface.co", endpoint, 1) if url.startswith("https://huggingface.co/") else url for url in urls]
    mirror = mirror or os.environ.get("FACELOOM_MIRROR")
    first = (f"{mirror.rstrip('/')}/{urllib.parse.quote(file)}",) if mirror else ()
    for url in (*first, *urls):
        if not url.startswith(("https://", "http://")):
            raise FaceLoomError(f"{url} is not a web address; check --mirror, FACELOOM_MIRROR and HF_ENDPOINT.")
    return tuple(dict.fromkeys((*first, *urls)))


def _checked(target: Path, row: Row, wanted: str | None) -> Path:
    if wanted and file_hash(target) not in {wanted, *row.also}:
        raise FaceLoomError(
            f"{target} is there but is not the file the catalogue knows as {row.name}; keep using it, or fetch the known one with --force."
        )
    return target


def _fetch(job: _Job) -> str:
    """Download, check and move into place; returns the sha256."""
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(job):
            return _from_any(job)
    except OSError as error:
        raise FaceLoomError(f"{job.name} cannot be written to {job.target.parent} ({error.strerror or error}).") from error


def _from_any(job: _Job) -> str:
    reasons = []
    for url in job.urls:
        try:
            digest = _from_address(job, url)
        except _Failure as failure:
            reasons.append(f"{urllib.parse.urlsplit(url).hostname}: {failure}")
            continue
        os.replace(job.part, job.target)
        job.state.unlink(missing_ok=True)
        return digest
    raise FaceLoomError(f"{job.name} could not be downloaded ({'; '.join(reasons)}).")


def _from_address(job: _Job, url: str) -> str:
    """Everything from one address: as many attempts as bring bytes, then the check. Leaves a whole ``.part``."""
    left = job.policy.attempts
    while True:
        before = _size(job.part)
        try:
            resumed = _whole(job, url) or _transfer(job, url)
            return _verify(job, resumed)
        except _Failure as failure:
            left = job.policy.attempts if _size(job.part) > before else left - 1
            if not failure.again or left <= 0:
                raise
            job.policy.sleep(job.policy.pause * 2 ** (job.policy.attempts - left))


def _transfer(job: _Job, url: str) -> bool:
    """One request; appends to the ``.part`` where it can (returns True), starts anew where it must."""
    offset, headers = _resume_point(job, url)
    request = urllib.request.Request(url, headers={"User-Agent": "FaceLoom", "Accept-Encoding": "identity", **headers})
    try:
        with _opener(job.policy).open(request, timeout=job.policy.connect) as response:
            return _receive(job, url, response, offset)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            _discard(job)
            raise _Failure("the part on disk does not fit the file there", again=True) from error
        raise _Failure(f"{error.code} {error.reason}", again=error.code in (408, 425, 429, 500, 502, 503, 504)) from error
    except urllib.error.URLError as error:
        raise _Failure(f"no connection ({error.reason})", again=True) from error
    except TimeoutError as error:
        raise _Failure(f"no data for {job.policy.read:g} s {_so_far(job)}", again=True) from error
    except (http.client.HTTPException, ConnectionError, ssl.SSLError) as error:
        raise _Failure(f"the connection broke {_so_far(job)}", again=True) from error


def _receive(job: _Job, url: str, response, offset: int) -> bool:
    if response.headers.get_content_type() == "text/html":
        raise _Failure("it answered with a web page instead of the file")
    version = _version(response)
    if response.status == 206:
        start, total = _content_range(response)
        if start != offset or version != read_json(job.state).get("version"):
            _discard(job)
            raise _Failure("the file changed between two attempts", again=True)
    else:
        offset, total = 0, _length(response)
    if job.size is not None and total is not None and total != job.size:
        _discard(job)
        raise _Failure(f"it offers {total} bytes where the catalogue says {job.size}")
    _check_disk(job, (total or job.size or 0) - offset)
    write_json(job.state, {"url": url, "version": version, "total": total})
    done = offset
    with job.part.open("ab" if offset else "wb") as stream:
        while piece := response.read1(PIECE):
            stream.write(piece)
            done += len(piece)
            if done > (total or job.size or done):
                break
            job.progress(done, total or job.size or done)
    if total is not None and done < total:
        raise _Failure(f"the connection broke {_so_far(job)}", again=True)
    if done > (total or job.size or done):
        _discard(job)
        raise _Failure(f"it sent more than the {total or job.size} bytes it should have")
    return offset > 0


def _verify(job: _Job, resumed: bool = False) -> str:
    digest = hashlib.sha256()
    with job.part.open("rb") as stream:
        while piece := stream.read(PIECE):
            digest.update(piece)
    found = digest.hexdigest()
    if job.sha256 and found != job.sha256:
        size = _size(job.part)
        _discard(job)
        raise _Failure(f"it sent another file: {size} bytes with sha256 {found} instead of {job.sha256}", again=resumed)
    if job.size is not None and _size(job.part) != job.size:
        size = _size(job.part)
        _discard(job)
        raise _Failure(f"it sent {size} bytes instead of {job.size}", again=resumed)
    return found


def _whole(job: _Job, url: str) -> bool:
    """Whether an earlier run was stopped between the last byte and the check."""
    state = read_json(job.state)
    return state.get("url") == url and bool(state.get("total")) and state["total"] == _size(job.part)


def _resume_point(job: _Job, url: str) -> tuple[int, dict[str, str]]:
    """How many bytes are there already, and the headers that ask for the rest of the same version."""
    state, size = read_json(job.state), _size(job.part)
    version = state.get("version")
    if not size or state.get("url") != url or not version:
        _discard(job)
        return 0, {}
    return size, {"Range": f"bytes={size}-", "If-Range": version}


def _version(response) -> str | None:
    """A strong ETag or the date of change: what ``If-Range`` may carry."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _length(response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _content_range(response) -> tuple[int, int | None]:
    """Start and total of ``bytes 100-199/200``."""
    text = response.headers.get("Content-Range", "").removeprefix("bytes ")
    span, _, total = text.partition("/")
    start = span.partition("-")[0]
    return (int(start) if start.isdigit() else -1), (int(total) if total.isdigit() else None)


def _check_disk(job: _Job, needed: int) -> None:
    free = shutil.disk_usage(job.target.parent).free
    if needed + SPARE > free:
        raise FaceLoomError(f"{job.name} needs {needed / 1e6:.0f} MB, but {job.target.parent} has only {free / 1e6:.0f} MB free.")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _so_far(job: _Job) -> str:
    return f"after {_size(job.part) / 1e6:.1f} MB, run the command again to go on from there"


def _discard(job: _Job) -> None:
    job.part.unlink(missing_ok=True)
    job.state.unlink(missing_ok=True)


@contextmanager
def _locked(job: _Job) -> Iterator[None]:
    """One process per file. The system drops the lock when the process ends, however it ends."""
    path = job.target.with_name(job.target.name + ".lock")
    with path.open("wb") as stream:
        try:
            _lock(stream)
            current = os.path.samestat(os.fstat(stream.fileno()), path.stat())
        except OSError:
            current = False
        if not current:
            raise FaceLoomError(f"Another program is downloading {job.name} at this moment; wait for it to finish.")
        try:
            yield
        finally:
            with suppress(PermissionError):  # Windows deletes no open file
                path.unlink()
    if os.name == "nt":
        with suppress(PermissionError):
            path.unlink(missing_ok=True)


def _lock(stream) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, also to other hosts, but never from https to http, and to nothing but the web."""

    def redirect_request(self, request, stream, code, message, headers, address):
        scheme = urllib.parse.urlsplit(address).scheme
        if scheme not in ("http", "https") or (scheme == "http" and request.full_url.startswith("https:")):
            raise _Failure(f"it redirects to {address}, which is not encrypted" if scheme == "http" else f"it redirects to {address}")
        return super().redirect_request(request, stream, code, message, headers, address)


def _opener(policy: Policy) -> urllib.request.OpenerDirector:
    """Web only (no file or ftp), with separate patience for connecting and for reading."""

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(policy.read)

    class Secure(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(policy.read)

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, request):
            return self.do_open(Plain, request)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, request):
            return self.do_open(Secure, request)

    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler, urllib.request.UnknownHandler, PlainHandler, SecureHandler, _Redirects,
                    urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor):  # fmt: skip
        opener.add_handler(handler())
    return opener


def _from_pack(pack: Pack, row: Row, folders: Folders, mirror: str | None, policy: Policy, progress: Progress) -> Path:
    """Fetch the archive, take its rows out, delete it."""
    archive = folders.target(row).with_name(f"{pack.name}.zip")
    job = _Job(archive.name, archive, addresses((pack.url,), archive.name, mirror), pack.sha256, None, policy, progress)
    _fetch(job)
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in pack.rows:
                if not folders.target(member).is_file():
                    _extract(opened, member, folders.target(member), policy)
    except zipfile.BadZipFile as error:
        raise FaceLoomError(f"{archive.name} from {pack.url} is damaged ({error}); run the command again.") from error
    finally:
        archive.unlink(missing_ok=True)
    return folders.target(row)


def _extract(archive: zipfile.ZipFile, row: Row, target: Path, policy: Policy) -> None:
    """One file out of the archive, to a place of our choosing: names inside it are only compared, never used as paths."""
    entries = {info.filename.replace("\\", "/").split("/")[-1]: info for info in archive.infolist() if not info.is_dir()}
    entry = next((entries[name] for name in row.names if name in entries), None)
    if entry is None:
        raise FaceLoomError(f"{Path(archive.filename).name} does not hold {row.file}; it is not the archive that is known.")
    target.parent.mkdir(parents=True, exist_ok=True)
    job = _Job(row.file, target, (), pinned_hash(row, target), row.bytes, policy, silent)
    _check_disk(job, entry.file_size)
    try:
        with archive.open(entry) as source, job.part.open("wb") as stream:
            shutil.copyfileobj(source, stream, PIECE)
        digest = _verify(job)
        os.replace(job.part, target)
    except _Failure as failure:
        raise FaceLoomError(f"{row.file} in {Path(archive.filename).name} is not the file that is known: {failure}.") from failure
    finally:
        job.part.unlink(missing_ok=True)
    if digest != row.sha256:
        record_hash(target, digest)
