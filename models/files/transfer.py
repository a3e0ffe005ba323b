"""One file from the web: resumable, checked, and moved into place only when it is whole and right.

``inswapper_128.onnx`` is written as ``inswapper_128.onnx.part`` beside its target with a small ``.part.json`` that remembers which version
of the file the bytes are of, so that a later run goes on where this one stopped. Only the standard library is used; proxies come from
the environment as usual (``HTTPS_PROXY`` ...).
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import FaceLoomError
from ..progress import Progress
from .cache import read_json, write_json
from .terminal import command

PIECE_BYTES = 1 << 20
SPARE_DISK_BYTES = 64 << 20  # bytes to leave free on the disk
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # of file systems that cannot lock, such as some network drives


@dataclass(frozen=True)
class RetryPolicy:
    """How patient to be. Seconds; ``attempts`` per address without any new byte."""

    connect: float = 15.0
    read: float = 30.0
    attempts: int = 4
    pause: float = 1.0
    sleep: Callable[[float], None] = time.sleep


DEFAULT_POLICY = RetryPolicy()


class AddressError(Exception):
    """Why one address did not give the file. again: it is worth asking the same address once more. found: the sha256 of what it gave."""

    def __init__(self, reason: str, again: bool = False, found: str | None = None) -> None:
        super().__init__(reason)
        self.again, self.found = again, found


@dataclass(frozen=True)
class DownloadJob:
    """One file to fetch. model: its name for ``models get``. sha256 None: unpinned. size None: unknown."""

    name: str
    model: str
    target: Path
    urls: tuple[str, ...]
    sha256: str | None
    size: int | None
    policy: RetryPolicy
    progress: Progress

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    @property
    def state(self) -> Path:
        return self.target.with_name(self.target.name + ".part.json")


def run_job(job: DownloadJob) -> str:
    """Download, check and move into place; returns the sha256."""
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(job):
            return _from_any(job)
    except OSError as error:
        raise FaceLoomError(f"{job.name} cannot be written to {job.target.parent} ({error.strerror or error}).") from error


def _from_any(job: DownloadJob) -> str:
    begun = read_json(job.state).get("url")
    failures: list[tuple[str, AddressError]] = []
    for url in sorted(job.urls, key=lambda url: url != begun):
        try:
            digest = _from_address(job, url)
        except AddressError as failure:
            failures.append((url, failure))
            continue
        os.replace(job.part, job.target)
        job.state.unlink(missing_ok=True)
        return digest
    raise FaceLoomError(f"{job.name} could not be downloaded ({_reasons(failures)}); {_way_out(job, failures)}.")


def _reasons(failures: list[tuple[str, AddressError]]) -> str:
    return "; ".join(f"{urllib.parse.urlsplit(url).hostname}: {failure}" for url, failure in failures)


def _way_out(job: DownloadJob, failures: list[tuple[str, AddressError]]) -> str:
    """What a user can do when no address gave the file."""
    if any(failure.again for _, failure in failures):
        size = _size(job.part)
        return "run the command again" + (f" to go on after {size / 1e6:.1f} MB" if size else " later")
    found = next((failure.found for _, failure in failures if failure.found), None)
    if found and job.sha256:
        return f"if you trust that file, run `{command('models', 'get', job.model, '--sha256', found)}`"
    return f"name another web folder with --mirror, or put the file into {job.target.parent} by hand"


def _from_address(job: DownloadJob, url: str) -> str:
    """Everything from one address: as many attempts as bring bytes, then the check. Leaves a whole ``.part``."""
    left = job.policy.attempts
    while True:
        before = _size(job.part)
        try:
            resumed = _whole(job) or _transfer(job, url)
            return verify_download(job, resumed)
        except AddressError as failure:
            left = job.policy.attempts if _size(job.part) > before else left - 1
            if not failure.again or left <= 0:
                raise
            job.policy.sleep(job.policy.pause * 2 ** (job.policy.attempts - left))


def _transfer(job: DownloadJob, url: str) -> bool:
    """One request; appends to the ``.part`` where it can (returns True), starts anew where it must."""
    offset, headers = _resume_point(job, url)
    request = urllib.request.Request(url, headers={"User-Agent": "FaceLoom", "Accept-Encoding": "identity", **headers})
    with _network(job):
        response = _opener(job.policy).open(request, timeout=job.policy.connect)
    with response:
        return _receive(job, url, response, offset)


@contextmanager
def _network(job: DownloadJob) -> Iterator[None]:
    """What goes wrong on the way, as a ``Failure``. The disk is none of its business."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            _discard(job)
            raise AddressError("the part on disk does not fit the file there", again=True) from error
        raise AddressError(f"{error.code} {error.reason}", again=error.code in (408, 425, 429, 500, 502, 503, 504)) from error
    except urllib.error.URLError as error:
        raise AddressError(f"no connection ({error.reason})", again=True) from error
    except TimeoutError as error:
        raise AddressError(f"no data for {job.policy.read:g} s", again=True) from error
    except (http.client.InvalidURL, ValueError) as error:
        raise AddressError(f"it leads to no web address ({error})") from error
    except (http.client.HTTPException, OSError) as error:
        raise AddressError("the connection broke", again=True) from error


def _receive(job: DownloadJob, url: str, response, offset: int) -> bool:
    offset, total, version = _what_comes(job, url, response, offset)
    if job.size is not None and total is not None and total != job.size:
        _discard(job)
        raise AddressError(f"it offers {total} bytes where the catalogue says {job.size}")
    check_disk_space(job, (total or job.size or 0) - offset)
    write_json(job.state, {"url": url, "version": version, "total": total})
    done, limit = offset, total or job.size
    with job.part.open("ab" if offset else "wb") as stream:
        while piece := _piece(job, response):
            stream.write(piece)
            done += len(piece)
            if limit and done > limit:
                break
            job.progress(done, limit or done)
    if total is not None and done < total:
        raise AddressError("the connection broke", again=True)
    if limit and done > limit:
        _discard(job)
        raise AddressError(f"it sent more than the {limit} bytes it should have")
    return offset > 0


def _what_comes(job: DownloadJob, url: str, response, offset: int) -> tuple[int, int | None, str | None]:
    """Where in the file the answer begins, how long the whole file is, and its version. Raises ``Failure`` for other answers."""
    if response.headers.get_content_type() == "text/html":
        raise AddressError("it answered with a web page instead of the file")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise AddressError(f"it sent the file packed ({response.headers['Content-Encoding']})")
    version = _version(response)
    if response.status == 200:
        return 0, _length(response), version
    if response.status != 206 or not offset:
        raise AddressError(f"it answered {response.status} {response.reason} instead of the file")
    start, total = _content_range(response)
    known = read_json(job.state)
    if start != offset or (known.get("url") == url and known.get("version") != version):
        _discard(job)
        raise AddressError("the file changed between two attempts", again=True)
    return offset, total, version


def _piece(job: DownloadJob, response) -> bytes:
    with _network(job):
        return response.read1(PIECE_BYTES)


def verify_download(job: DownloadJob, resumed: bool = False) -> str:
    """The sha256 of the whole ``.part``, if it is what it should be; else it is deleted."""
    digest, size = hashlib.sha256(), _size(job.part)
    with job.part.open("rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            digest.update(piece)
    found = digest.hexdigest()
    if not size:
        reason, found = "it sent an empty file", None
    elif job.sha256 and found != job.sha256:
        reason = f"it sent another file: {size} bytes with sha256 {found} instead of {job.sha256}"
    elif job.size not in (None, size):
        reason = f"it sent {size} bytes instead of {job.size}"
    else:
        return found
    _discard(job)
    raise AddressError(reason, again=resumed, found=found)


def _whole(job: DownloadJob) -> bool:
    """Whether an earlier run was stopped between the last byte and the check."""
    total = read_json(job.state).get("total")
    return bool(total) and total == _size(job.part)


def _resume_point(job: DownloadJob, url: str) -> tuple[int, dict[str, str]]:
    """How many bytes are there already, and the headers that ask for the rest of the same version.

    Another address may go on with them only where the hash will tell whether it is the same file. What is there stays until something
    else arrives.
    """
    state, size = read_json(job.state), _size(job.part)
    if size and state.get("url") == url and state.get("version"):
        return size, {"Range": f"bytes={size}-", "If-Range": state["version"]}
    if size and job.sha256 and state.get("url") not in (None, url):
        return size, {"Range": f"bytes={size}-"}
    return 0, {}


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


def check_disk_space(job: DownloadJob, needed: int) -> None:
    free = shutil.disk_usage(job.target.parent).free
    if needed + SPARE_DISK_BYTES > free:
        raise FaceLoomError(f"{job.name} needs {needed / 1e6:.0f} MB, but {job.target.parent} has only {free / 1e6:.0f} MB free.")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _discard(job: DownloadJob) -> None:
    job.part.unlink(missing_ok=True)
    job.state.unlink(missing_ok=True)


@contextmanager
def _locked(job: DownloadJob) -> Iterator[None]:
    """One process per file. The system drops the lock when the process ends, however it ends."""
    path = job.target.with_name(job.target.name + ".lock")
    with path.open("wb") as stream:
        try:
            _lock(stream)
            current = os.path.samestat(os.fstat(stream.fileno()), path.stat())
        except OSError as error:
            current = error.errno in NO_LOCKS
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
            raise AddressError(f"it redirects to {address}, which is not encrypted" if scheme == "http" else f"it redirects to {address}")
        return super().redirect_request(request, stream, code, message, headers, address)


def _opener(policy: RetryPolicy) -> urllib.request.OpenerDirector:
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


