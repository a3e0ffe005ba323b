"""Transfers one file from the web: resumable, checked, and moved into place only when it is whole and has the right hash.

``inswapper_128.onnx`` is written as ``inswapper_128.onnx.part`` beside its target with a small ``.part.json`` that records which version
of the file the bytes belong to, so that a later run goes on where this one stopped. Only the standard library is used; proxies come from
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
from .web import AddressError, web_opener

PIECE_BYTES = 1 << 20  # read at a time
SPARE_DISK_BYTES = 64 << 20  # to leave free on the disk
DISK_CHECK_BYTES = 64 << 20  # after each of which the disk is looked at, where nobody states how many will come
# Errors of file systems that cannot lock files, such as some network drives.
LOCKS_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for an address and how often to try it.

    connect, read: seconds until a connection that is not made, or that brings no data, is given up. attempts: for each address, in a row
    without any new byte, and altogether that throw bytes away. pause: seconds before the second attempt, doubled for each further one.
    sleep: called to wait. requests: to one address at most, whatever they bring. slowest: bytes a second, over ``read`` seconds, below
    which a connection is given up. most: bytes of a file whose size the catalogue does not state. clock: tells the time, in seconds.
    """

    connect: float = 15.0
    read: float = 30.0
    attempts: int = 4
    pause: float = 1.0
    sleep: Callable[[float], None] = time.sleep
    requests: int = 100
    slowest: float = 1024.0
    most: int = 64 << 30
    clock: Callable[[], float] = time.monotonic


DEFAULT_POLICY = RetryPolicy()


@dataclass(frozen=True)
class DownloadJob:
    """One file to transfer. name: of the file, for messages. model: its name for ``models get``. urls: addresses to try, in order.
    sha256: None where any file will do. size: in bytes, None where unknown."""

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
        """The file that holds the bytes until all are there."""
        return self.target.with_name(self.target.name + ".part")

    @property
    def state(self) -> Path:
        """The JSON file that records address, version and total of the bytes in ``part``."""
        return self.target.with_name(self.target.name + ".part.json")


def run_job(job: DownloadJob) -> str:
    """Download a file, check it and move it into place. Returns its sha256. FaceLoomError where no address gives it or the disk is full."""
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(job):
            return _try_addresses(job)
    except OSError as error:
        raise FaceLoomError(f"{job.name} cannot be written to {job.target.parent} ({error.strerror or error}).") from error


def _try_addresses(job: DownloadJob) -> str:
    """Try the addresses, first the one that an earlier run began with. Returns the sha256."""
    begun_with = read_json(job.state).get("url")
    failures: list[tuple[str, AddressError]] = []
    for url in sorted(job.urls, key=lambda url: url != begun_with):
        try:
            digest = _try_address(job, url)
        except AddressError as error:
            failures.append((url, error))
            continue
        os.replace(job.part, job.target)
        job.state.unlink(missing_ok=True)
        return digest
    raise FaceLoomError(f"{job.name} could not be downloaded ({_list_reasons(failures)}); {_advise(job, failures)}.")


def _list_reasons(failures: list[tuple[str, AddressError]]) -> str:
    """Tell for each address why it did not give the file."""
    return "; ".join(f"{urllib.parse.urlsplit(url).hostname}: {error}" for url, error in failures)


def _advise(job: DownloadJob, failures: list[tuple[str, AddressError]]) -> str:
    """Tell the user what to do when no address gave the file."""
    if any(error.retry for _, error in failures):
        size = _size(job.part)
        return "run the command again" + (f" to go on after {size / 1e6:.1f} MB" if size else " later")
    sha256 = next((error.sha256 for _, error in failures if error.sha256), None)
    if sha256 and job.sha256:
        return f"if you trust that file, run `{command('models', 'get', job.model, '--sha256', sha256)}`"
    return f"name another web folder with --mirror, or put the file into {job.target.parent} by hand"


def _try_address(job: DownloadJob, url: str) -> str:
    """Download from one address to ``job.part``, in as many attempts as bring new bytes, and check the file. Returns its sha256."""
    attempts_left, losses, most_had = job.policy.attempts, 0, _size(job.part)
    for request in range(1, job.policy.requests + 1):
        had = _size(job.part)
        try:
            resumed = _is_complete(job) or _request(job, url)
            return verify_download(job, resumed)
        except AddressError as error:
            # Bytes that are thrown away, because the file changes again and again, are no progress when they come once more.
            attempts_left = job.policy.attempts if _size(job.part) > most_had and not error.slow else attempts_left - 1
            most_had = max(most_had, _size(job.part))
            losses += error.lost or _size(job.part) < had
            if not error.retry or attempts_left <= 0 or losses >= job.policy.attempts or request == job.policy.requests:
                raise
            job.policy.sleep(job.policy.pause * 2 ** (job.policy.attempts - attempts_left))
    raise AssertionError("a policy allows one request at least")


def _request(job: DownloadJob, url: str) -> bool:
    """Make one request and write what comes to ``job.part``: appended where the address goes on with it, else from the start.

    Returns whether it was appended.
    """
    offset, headers = _resume_point(job, url)
    request = urllib.request.Request(url, headers={"User-Agent": "FaceLoom", "Accept-Encoding": "identity", **headers})
    with _network_errors(job):
        response = web_opener(job.policy.connect, job.policy.read).open(request, timeout=job.policy.connect)
    with response:
        return _receive(job, url, response, offset)


@contextmanager
def _network_errors(job: DownloadJob) -> Iterator[None]:
    """Turn what goes wrong in the network into ``AddressError``. Nothing that touches the disk belongs into the block."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            _discard(job)
            raise AddressError("the part on disk does not fit the file there", retry=True) from error
        raise AddressError(f"{error.code} {error.reason}", retry=error.code in (408, 425, 429, 500, 502, 503, 504)) from error
    except urllib.error.URLError as error:
        raise AddressError(f"no connection ({error.reason})", retry=True) from error
    except TimeoutError as error:
        raise AddressError(f"no data for {job.policy.read:g} s", retry=True) from error
    except (http.client.InvalidURL, ValueError) as error:
        raise AddressError(f"it leads to no web address ({error})") from error
    except (http.client.HTTPException, OSError) as error:
        raise AddressError("the connection broke", retry=True) from error


def _receive(job: DownloadJob, url: str, response, offset: int) -> bool:
    """Write the body of a response to ``job.part``. offset: the byte that was asked for. Returns whether it was appended."""
    offset, total, version = _check_response(job, url, response, offset)
    if job.size is not None and total is not None and total != job.size:
        _discard(job)
        raise AddressError(f"it offers {total} bytes where the catalogue says {job.size}")
    stated = total or job.size
    limit = stated or job.policy.most
    if job.size is None and limit > job.policy.most:
        _discard(job)
        raise AddressError(f"it offers {limit} bytes, and no model has more than {job.policy.most}")
    check_disk_space(job, (stated or 0) - offset)
    write_json(job.state, {"url": url, "version": version, "total": total})
    lost = offset == 0 < _size(job.part)  # an address that does not go on throws away what was there
    try:
        done = _write_body(job, response, offset, stated)
        if total is not None and done < total:
            raise AddressError("the connection broke", retry=True)
    except AddressError as error:
        error.lost = lost
        raise
    if done > limit:
        _discard(job)
        raise AddressError(f"it sent more than the {limit} bytes it should have")
    return offset > 0


def _write_body(job: DownloadJob, response, offset: int, stated: int | None) -> int:
    """Write what comes to ``job.part``, from the byte ``offset`` on, until it ends or is more than ``stated`` (None: than the policy's
    most). Returns the size of the file then."""
    done, pace = offset, _Pace(job.policy, offset)
    with job.part.open("ab" if offset else "wb") as stream:
        while piece := _read_piece(job, response):
            stream.write(piece)
            done += len(piece)
            if done > (stated or job.policy.most):
                break
            if stated is None and done // DISK_CHECK_BYTES != (done - len(piece)) // DISK_CHECK_BYTES:
                check_disk_space(job, 0)
            job.progress(done, stated or done)
            pace.check(done)
    return done


class _Pace:
    """Gives a connection up that brings less than the policy's slowest pace over as long as no data may take."""

    def __init__(self, policy: RetryPolicy, had: int) -> None:
        self.policy, self.since, self.had = policy, policy.clock(), had

    def check(self, done: int) -> None:
        """Note how many bytes there are; AddressError where they came too slowly."""
        now = self.policy.clock()
        if now - self.since < self.policy.read:
            return
        if done - self.had < self.policy.slowest * (now - self.since):
            raise AddressError(f"fewer than {self.policy.slowest:g} bytes a second", retry=True, slow=True)
        self.since, self.had = now, done


def _check_response(job: DownloadJob, url: str, response, offset: int) -> tuple[int, int | None, str | None]:
    """Check that a response brings the file, from its start or from ``offset``.

    Returns the byte it begins with, the size of the whole file (None: not stated) and the file's version. ``AddressError`` for any other
    response.
    """
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
        raise AddressError("the file changed between two attempts", retry=True)
    return offset, total, version


def _read_piece(job: DownloadJob, response) -> bytes:
    """Read the next bytes of a response, none at its end."""
    with _network_errors(job):
        return response.read1(PIECE_BYTES)


def verify_download(job: DownloadJob, resumed: bool = False) -> str:
    """Check size and hash of ``job.part`` and return its sha256. A wrong file is deleted, and AddressError raised.

    resumed: the file was put together in several attempts, so that another one may succeed.
    """
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
    raise AddressError(reason, retry=resumed, sha256=found)


def _is_complete(job: DownloadJob) -> bool:
    """Whether all bytes are there: an earlier run was stopped between the last byte and the check."""
    total = read_json(job.state).get("total")
    return bool(total) and total == _size(job.part)


def _resume_point(job: DownloadJob, url: str) -> tuple[int, dict[str, str]]:
    """Return how many bytes of ``job.part`` to keep, and the headers that ask for the rest of the same version.

    Bytes from another address are kept only where the hash will tell whether it is the same file. The bytes on disk stay until others
    arrive.
    """
    state, size = read_json(job.state), _size(job.part)
    if size and state.get("url") == url and state.get("version"):
        return size, {"Range": f"bytes={size}-", "If-Range": state["version"]}
    if size and job.sha256 and state.get("url") not in (None, url):
        return size, {"Range": f"bytes={size}-"}
    return 0, {}


def _version(response) -> str | None:
    """Return a response's strong ETag, else its date of change: what ``If-Range`` may carry."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _length(response) -> int | None:
    """Return the length that a response states, None if it states none."""
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _content_range(response) -> tuple[int, int | None]:
    """Read start and total of a header such as ``bytes 100-199/200``; -1 and None where they are not stated."""
    text = response.headers.get("Content-Range", "").removeprefix("bytes ")
    span, _, total = text.partition("/")
    start = span.partition("-")[0]
    return (int(start) if start.isdigit() else -1), (int(total) if total.isdigit() else None)


def check_disk_space(job: DownloadJob, needed: int) -> None:
    """Raise FaceLoomError unless the target's disk has room for ``needed`` bytes and ``SPARE_DISK_BYTES`` more."""
    free = shutil.disk_usage(job.target.parent).free
    if needed + SPARE_DISK_BYTES > free:
        raise FaceLoomError(f"{job.name} needs {needed / 1e6:.0f} MB, but {job.target.parent} has only {free / 1e6:.0f} MB free.")


def _size(path: Path) -> int:
    """Return the size of a file in bytes, 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def _discard(job: DownloadJob) -> None:
    """Delete the bytes on disk and what is recorded of them."""
    job.part.unlink(missing_ok=True)
    job.state.unlink(missing_ok=True)


@contextmanager
def _locked(job: DownloadJob) -> Iterator[None]:
    """Hold the lock that lets one process at a time download a file. The system drops it when the process ends, however it ends."""
    path = job.target.with_name(job.target.name + ".lock")
    with path.open("wb") as stream:
        try:
            _lock(stream)
            held = os.path.samestat(os.fstat(stream.fileno()), path.stat())
        except OSError as error:
            held = error.errno in LOCKS_UNSUPPORTED
        if not held:
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
    """Lock an open file; OSError where another process holds the lock or the file system has no locks."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
