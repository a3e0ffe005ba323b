"""Downloads against a web server on this machine that does everything wrong that servers do."""

from __future__ import annotations

import errno
import hashlib
import http.client
import io
import os
import re
import shutil
import ssl
import struct
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from faceloom.models.errors import FaceLoomError
from faceloom.models.files import download, transfer, web
from faceloom.models.files.cache import HASH_RECORD, read_json
from faceloom.models.files.catalogue import Pack, Row, catalogue
from faceloom.models.files.download import download_file, download_pack, list_addresses
from faceloom.models.files.folders import Folders
from faceloom.models.files.transfer import RetryPolicy

DATA = bytes(range(256)) * 4096  # 1 MiB
OTHER = DATA[::-1]
SHA = hashlib.sha256(DATA).hexdigest()
QUICK = RetryPolicy(connect=2, read=0.3, attempts=3, sleep=lambda seconds: None)


class Server:
    """``answers[path]``: what the requests for it get, one after the other, the last one again and again; functions of the handler."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Callable]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
                left = outer.answers.get(self.path)
                if not left:
                    return self.send_error(404)
                return (left.pop(0) if len(left) > 1 else left[0])(self)

            def log_message(self, *_) -> None:
                pass

        self.web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.web.daemon_threads = True
        self.web.handle_error = lambda *_: None  # clients of these tests hang up all the time
        threading.Thread(target=self.web.serve_forever, args=(0.02,), daemon=True).start()
        self.root = f"http://127.0.0.1:{self.web.server_port}"

    def give(self, path: str, *answers: Callable) -> str:
        self.answers[path] = list(answers)
        return self.root + path

    def ranges(self) -> list[str | None]:
        return [headers.get("range") for _, headers in self.requests]


def whole(data: bytes = DATA, etag: str | None = '"one"', stop: int | None = None, ranges: bool = True, **headers) -> Callable:
    """The file, honouring Range and If-Range; ``stop``: the connection dies after that many bytes."""

    def answer(handler) -> None:
        offset = 0
        wanted = handler.headers.get("Range", "")
        if ranges and wanted and handler.headers.get("If-Range") in (None, etag, headers.get("Last_Modified")):
            offset = int(wanted.removeprefix("bytes=").rstrip("-"))
        handler.send_response(206 if offset else 200)
        handler.send_header("Content-Length", str(len(data) - offset))
        if offset:
            handler.send_header("Content-Range", f"bytes {offset}-{len(data) - 1}/{len(data)}")
        if etag:
            handler.send_header("ETag", etag)
        for key, value in headers.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data[offset:stop])
        if stop is not None:
            handler.close_connection = True

    return answer


def status(code: int) -> Callable:
    return lambda handler: handler.send_error(code)


def redirect(address: str) -> Callable:
    def answer(handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", address)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def stall(after: int) -> Callable:
    def answer(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DATA)))
        handler.send_header("ETag", '"one"')
        handler.end_headers()
        handler.wfile.write(DATA[:after])
        handler.wfile.flush()
        time.sleep(1)

    return answer


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("FACELOOM_CACHE", str(tmp_path / "cache"))
    for name in ("HF_ENDPOINT", "FACELOOM_MIRROR", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.web.shutdown()
    server.web.server_close()


@pytest.fixture
def folders(tmp_path) -> Folders:
    return Folders((tmp_path / "models",))


def row(*urls: str, **changes) -> Row:
    plain = {"name": "tiny", "file": "tiny.onnx", "folder": "faceloom/swap", "bytes": len(DATA), "sha256": SHA}
    return Row(kind="swap", licence="MIT", commercial=True, vendor="v", urls=urls, **(plain | changes))


def left_over(folders: Folders) -> list[str]:
    return sorted(path.name for path in folders.roots[0].rglob("*") if path.is_file())


def test_a_file_is_fetched_checked_and_moved_into_place(server, folders):
    seen = []
    url = server.give("/tiny.onnx", whole())
    path = download_file(row(url), folders, policy=QUICK, progress=lambda done, total: seen.append((done, total)))
    assert path == folders.roots[0] / "faceloom/swap/tiny.onnx" and path.read_bytes() == DATA
    assert left_over(folders) == ["tiny.onnx"]
    assert seen[-1] == (len(DATA), len(DATA)) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert server.requests[0][1]["user-agent"] == "FaceLoom"
    download_file(row(server.root + "/tiny.onnx"), folders, policy=QUICK)
    assert len(server.requests) == 1, "a file that is there and right is not fetched again"


def test_a_connection_that_dies_is_resumed_where_it_stopped(server, folders):
    url = server.give("/tiny.onnx", whole(stop=300_000), whole(stop=700_000), whole())
    assert download_file(row(url), folders, policy=QUICK).read_bytes() == DATA
    assert server.ranges() == [None, "bytes=300000-", "bytes=700000-"]
    assert server.requests[1][1]["if-range"] == '"one"'


def test_a_later_run_goes_on_from_the_part(server, folders):
    url = server.give("/tiny.onnx", whole(stop=400_000), whole(stop=400_000))
    with pytest.raises(FaceLoomError, match=r"\(127\.0\.0\.1: the connection broke\); run the command again to go on after 0\.4 MB\.$"):
        download_file(row(url), folders, policy=QUICK)
    assert left_over(folders) == ["tiny.onnx.part", "tiny.onnx.part.json"]
    server.give("/tiny.onnx", whole())
    server.requests.clear()
    assert download_file(row(url), folders, policy=QUICK).read_bytes() == DATA
    assert server.ranges() == ["bytes=400000-"] and left_over(folders) == ["tiny.onnx"]


def test_a_run_stopped_before_the_check_needs_no_download(server, folders, monkeypatch):
    url = server.give("/tiny.onnx", whole())
    monkeypatch.setattr(transfer, "verify_download", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        download_file(row(url), folders, policy=QUICK)
    monkeypatch.undo()
    monkeypatch.setenv("FACELOOM_CACHE", str(folders.roots[0] / "cache"))
    assert download_file(row(url), folders, policy=QUICK).read_bytes() == DATA and len(server.requests) == 1


def test_a_file_that_changed_on_the_server_is_fetched_anew(server, folders):
    url = server.give("/tiny.onnx", whole(OTHER, '"old"', stop=300_000), whole(DATA, '"new"'))
    assert download_file(row(url), folders, policy=QUICK).read_bytes() == DATA
    assert server.ranges() == [None, "bytes=300000-"], "If-Range makes the server send everything"


def test_a_server_that_resumes_another_version_is_not_believed(server, folders):
    def careless(handler) -> None:
        del handler.headers["If-Range"]
        whole(DATA, '"new"')(handler)

    url = server.give("/tiny.onnx", whole(OTHER, '"old"', stop=300_000), careless)
    assert download_file(row(url), folders, policy=QUICK).read_bytes() == DATA
    assert server.ranges() == [None, "bytes=300000-", None]


def test_a_resumed_file_with_the_wrong_hash_is_fetched_once_more_whole(server, folders):
    url = server.give("/tiny.onnx", whole(OTHER, stop=300_000), whole(DATA))  # the same ETag for other bytes
    assert download_file(row(url), folders, policy=QUICK).read_bytes() == DATA
    assert server.ranges() == [None, "bytes=300000-", None]


def test_a_server_that_ignores_range(server, folders):
    url = server.give("/tiny.onnx", whole(stop=300_000), whole(ranges=False))
    assert download_file(row(url), folders, policy=QUICK).read_bytes() == DATA


def test_the_date_of_change_serves_where_there_is_no_strong_etag(server, folders):
    date = "Wed, 21 Oct 2025 07:28:00 GMT"
    url = server.give("/tiny.onnx", whole(etag='W/"weak"', stop=300_000, Last_Modified=date), whole(etag='W/"weak"', Last_Modified=date))
    assert download_file(row(url), folders, policy=QUICK).read_bytes() == DATA
    assert server.requests[1][1]["if-range"] == date and server.ranges()[1] == "bytes=300000-"


def test_without_any_version_it_starts_anew(server, folders):
    url = server.give("/tiny.onnx", whole(etag=None, stop=300_000), whole(etag=None))
    assert download_file(row(url), folders, policy=QUICK).read_bytes() == DATA
    assert server.ranges() == [None, None]


def test_a_part_that_does_not_fit_is_thrown_away(server, folders):
    url = server.give("/tiny.onnx", whole(stop=300_000), status(416), whole())
    assert download_file(row(url), folders, policy=QUICK).read_bytes() == DATA
    assert server.ranges() == [None, "bytes=300000-", None]


def test_a_server_that_stalls(server, folders):
    url = server.give("/tiny.onnx", stall(100_000), whole())
    assert download_file(row(url), folders, policy=QUICK).read_bytes() == DATA
    assert server.ranges() == [None, "bytes=100000-"]
    server.give("/never", stall(0))
    with pytest.raises(FaceLoomError, match=r"no data for 0\.3 s\); run the command again later\.$"):
        download_file(row(server.root + "/never", file="never.onnx"), folders, policy=QUICK)


def test_wrong_bytes_are_never_moved_into_place(server, folders):
    found = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(FaceLoomError, match=rf"sent another file: 1048576 bytes with sha256 {found} instead of {SHA}\); "
                                               rf"if you trust that file, run `python -m faceloom models get tiny --sha256 {found}`\.$"):
        download_file(row(server.give("/tiny.onnx", whole(OTHER))), folders, policy=QUICK)
    assert left_over(folders) == []


def test_a_wrong_size_is_seen_before_the_download(server, folders):
    url = server.give("/tiny.onnx", whole(DATA + b"more"))
    with pytest.raises(FaceLoomError, match="offers 1048580 bytes where the catalogue says 1048576"):
        download_file(row(url), folders, policy=QUICK)
    assert left_over(folders) == []


def test_a_size_that_is_not_announced_is_checked_too(server, folders):
    def endless(count: int) -> Callable:
        def answer(handler) -> None:
            handler.send_response(200)
            handler.send_header("Connection", "close")
            handler.end_headers()
            handler.wfile.write((DATA * 3)[:count])
            handler.close_connection = True

        return answer

    assert download_file(row(server.give("/tiny.onnx", endless(len(DATA)))), folders, policy=QUICK).read_bytes() == DATA
    with pytest.raises(FaceLoomError, match="sent more than the 1048576 bytes"):
        download_file(row(server.give("/b", endless(2_000_000)), file="b.onnx"), folders, policy=QUICK)
    with pytest.raises(FaceLoomError, match="sent 1000 bytes instead of 1048576"):
        download_file(row(server.give("/c", endless(1000)), file="c.onnx", sha256=None), folders, policy=QUICK)
    assert left_over(folders) == ["tiny.onnx"]


def test_a_later_run_goes_on_with_the_address_it_began_with(server, folders):
    good = server.give("/good", whole(stop=400_000))
    for unpinned in ({}, {"sha256": None}):
        with pytest.raises(FaceLoomError):
            download_file(row(server.root + "/gone", good, **unpinned), folders, policy=QUICK)
        server.give("/good", whole())
        server.requests.clear()
        assert download_file(row(server.root + "/gone", good, **unpinned), folders, policy=QUICK).read_bytes() == DATA
        assert [(path, headers.get("range")) for path, headers in server.requests] == [("/good", "bytes=400000-")]
        folders.target(row()).unlink()
        server.give("/good", whole(stop=400_000))


def test_a_run_without_a_network_keeps_what_is_there(server, folders):
    good = server.give("/good", whole(stop=400_000))
    for unpinned in ({}, {"sha256": None}):
        for urls in ([good], [server.root + "/gone", "http://localhost:1/none"]):
            with pytest.raises(FaceLoomError, match=r"go on after 0\.4 MB"):
                download_file(row(*urls, **unpinned), folders, policy=QUICK)
        assert folders.target(row()).with_name("tiny.onnx.part").stat().st_size == 400_000


def test_another_address_goes_on_where_the_hash_is_known(server, folders):
    first, second = server.give("/first", whole(stop=400_000), status(404)), server.give("/second", whole(etag='"other"'))
    assert download_file(row(first, second), folders, policy=QUICK).read_bytes() == DATA
    assert server.ranges() == [None, "bytes=400000-", "bytes=400000-"]
    server.give("/first", whole(OTHER, stop=400_000), status(404))
    server.requests.clear()
    assert download_file(row(first, second, file="b"), folders, policy=QUICK).read_bytes() == DATA
    assert server.ranges() == [None, "bytes=400000-", "bytes=400000-", None], "what does not fit together is fetched anew"
    server.give("/first", whole(OTHER, stop=400_000), status(404))
    server.requests.clear()
    assert download_file(row(first, second, file="c", sha256=None), folders, policy=QUICK).read_bytes() == DATA
    assert server.ranges() == [None, "bytes=400000-", None], "without a hash there is no telling"


def test_a_network_that_fails_is_not_taken_for_the_disk(server, folders, monkeypatch):
    real, calls = http.client.HTTPResponse.read1, []

    def read1(response, count=-1):
        calls.append(count)
        if len(calls) == 2:
            raise OSError(errno.EHOSTUNREACH, "No route to host")
        return real(response, 300_000)

    monkeypatch.setattr(http.client.HTTPResponse, "read1", read1)
    assert download_file(row(server.give("/tiny.onnx", whole())), folders, policy=QUICK).read_bytes() == DATA
    assert len(server.ranges()) == 2 and server.ranges()[1].startswith("bytes=")


@pytest.mark.skipif(os.name == "nt", reason="limits of another kind")
def test_a_disk_that_fills_up_is_not_taken_for_the_network(server, folders):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(FaceLoomError, match=r"^tiny\.onnx cannot be written to .*swap \(File too large\)\.$"):
            download_file(row(server.give("/tiny.onnx", whole())), folders, policy=QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(server.requests) == 1


def bare(code: int, body: bytes = b"", **headers) -> Callable:
    def answer(handler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.mark.parametrize(("answer", "words"), [
    (bare(200), "it sent an empty file"), (bare(204), "it answered 204 No Content instead of the file"),
    (bare(206, b"x" * 100, Content_Range="bytes 0-99/100"), "it answered 206 Partial Content instead of the file"),
    (bare(200, b"packed", Content_Encoding="gzip"), r"it sent the file packed \(gzip\)"),
    (bare(302, Location="http://[::1/x"), "it leads to no web address"), (bare(302), "302 Found"),
])  # fmt: skip
def test_answers_that_are_no_file(server, folders, answer, words):
    """Nothing else would tell: neither hash nor size are known."""
    with pytest.raises(FaceLoomError, match=words):
        download_file(row(server.give("/tiny.onnx", answer), sha256=None, bytes=None), folders, policy=QUICK)
    assert left_over(folders) == []


def test_the_mirror_is_asked_when_the_first_address_fails(server, folders):
    good = server.give("/mirror/tiny.onnx", whole())
    assert download_file(row(server.root + "/gone", good), folders, policy=QUICK).read_bytes() == DATA
    assert [path for path, _ in server.requests] == ["/gone", "/mirror/tiny.onnx"], "404 is not asked twice"


def test_all_failures_are_in_one_sentence(server, folders):
    page = server.give("/page", whole(b"<html>log in</html>", Content_Type="text/html; charset=utf-8"))
    with pytest.raises(FaceLoomError) as raised:
        download_file(row(server.root + "/gone", server.give("/busy", status(503)), page, "http://localhost:1/none"), folders, policy=QUICK)
    text = str(raised.value)
    assert text.startswith("tiny.onnx could not be downloaded (127.0.0.1: 404 Not Found; 127.0.0.1: 503 Service Unavailable; ")
    assert "a web page instead of the file; localhost: no connection" in text and text.endswith("); run the command again later.")
    assert [path for path, _ in server.requests].count("/busy") == QUICK.attempts


def test_a_busy_server_is_asked_again_after_a_growing_pause(server, folders):
    pauses = []
    patient = replace(QUICK, attempts=4, pause=1, sleep=pauses.append)
    url = server.give("/tiny.onnx", status(503), status(429), status(500), whole())
    assert download_file(row(url), folders, policy=patient).read_bytes() == DATA
    assert pauses == [2, 4, 8]


def test_redirects_are_followed_to_other_hosts(server, folders):
    server.give("/cdn", whole())
    url = server.give("/tiny.onnx", redirect(server.root.replace("127.0.0.1", "localhost") + "/cdn"))
    assert download_file(row(url), folders, policy=QUICK).read_bytes() == DATA


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirects_off_the_web_are_refused(server, folders, address):
    with pytest.raises(FaceLoomError, match=re.escape(address)):
        download_file(row(server.give("/tiny.onnx", redirect(address))), folders, policy=QUICK)


def test_endless_redirects_end(server, folders):
    with pytest.raises(FaceLoomError, match=r"302 .*redirect"):
        download_file(row(server.give("/tiny.onnx", redirect("/tiny.onnx"))), folders, policy=QUICK)


def test_encryption_is_never_given_up():
    handler = web.Redirects()
    secure = transfer.urllib.request.Request("https://huggingface.co/x")
    with pytest.raises(transfer.AddressError, match=r"redirects to http://cdn.example/x, which is not encrypted"):
        handler.redirect_request(secure, io.BytesIO(), 302, "Found", {}, "http://cdn.example/x")
    assert handler.redirect_request(secure, io.BytesIO(), 302, "Found", {}, "https://cdn.example/x").full_url == "https://cdn.example/x"


@pytest.fixture
def secure(server, tmp_path) -> tuple[Server, Path]:
    """A second server that speaks TLS with a certificate nobody knows."""
    certificate = tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key.pem", "-out", certificate]
    try:
        subprocess.run(make, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")
    other = Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, tmp_path / "key.pem")
    other.web.socket = context.wrap_socket(other.web.socket, server_side=True)
    other.root = other.root.replace("http:", "https:")
    yield other, certificate
    other.web.shutdown()
    other.web.server_close()


def test_over_tls(server, secure, folders, monkeypatch):
    other, certificate = secure
    url = other.give("/tiny.onnx", whole())
    with pytest.raises(FaceLoomError, match=r"no connection \(.*certificate verify failed"):
        download_file(row(url), folders, policy=QUICK)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert download_file(row(url), folders, policy=QUICK).read_bytes() == DATA
    downgrade = other.give("/b", redirect(server.give("/tiny.onnx", whole())))
    with pytest.raises(FaceLoomError, match=r"redirects to http://127\.0\.0\.1:\d+/tiny\.onnx, which is not encrypted"):
        download_file(row(downgrade, file="b.onnx"), folders, policy=QUICK)
    assert not server.requests


def test_a_secure_address_is_spoken_to_securely(server, folders):
    """The plain server cannot shake hands, which a client that fell back to plain text would not notice."""
    with pytest.raises(FaceLoomError, match="no connection"):
        download_file(row(server.root.replace("http:", "https:") + "/tiny.onnx"), folders, policy=QUICK)
    assert not server.requests


def test_the_mirror_the_user_chose_comes_first(server, folders, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://hf-mirror.example/")
    assert list_addresses(("https://huggingface.co/a/b", "https://github.com/c"), "f.onnx") == ("https://hf-mirror.example/a/b", "https://github.com/c")
    monkeypatch.setenv("FACELOOM_MIRROR", server.root + "/lan/")
    assert list_addresses(("https://github.com/c",), "a b.onnx")[0] == server.root + "/lan/a%20b.onnx"
    assert list_addresses(("https://github.com/c",), "f", "https://given.example")[0] == "https://given.example/f"
    server.give("/lan/tiny.onnx", whole())
    assert download_file(row("https://localhost:1/none"), folders, policy=QUICK).read_bytes() == DATA
    for mirror in ("ftp://x", "models", "https://", "http://[x", "http://a b", "http://host:port"):
        with pytest.raises(FaceLoomError, match=rf"^{re.escape(mirror.rstrip('/'))}/b is not a web address; check --mirror"):
            download_file(row("https://localhost:1/none", file="b", sha256=None), folders, mirror=mirror)


def test_the_proxy_of_the_environment_is_used(server, folders, monkeypatch):
    monkeypatch.setenv("http_proxy", server.root)
    monkeypatch.setenv("no_proxy", "")
    server.give("http://models.example/tiny.onnx", whole())
    assert download_file(row("http://models.example/tiny.onnx"), folders, policy=QUICK).read_bytes() == DATA


def test_an_unpinned_file_is_remembered_and_must_stay_the_same(server, folders):
    unpinned = row(server.give("/tiny.onnx", whole()), sha256=None)
    path = download_file(unpinned, folders, policy=QUICK)
    assert read_json(path.parent / HASH_RECORD) == {"tiny.onnx": SHA}
    path.unlink()
    server.give("/tiny.onnx", whole(OTHER))
    with pytest.raises(FaceLoomError, match="sent another file"):
        download_file(unpinned, folders, policy=QUICK)


def test_a_hash_the_user_trusts_replaces_the_catalogue_s(server, folders):
    url = server.give("/tiny.onnx", whole(OTHER + b"longer"))
    trusted = hashlib.sha256(OTHER + b"longer").hexdigest()
    path = download_file(row(url), folders, policy=QUICK, sha256=trusted)
    assert path.read_bytes() == OTHER + b"longer"
    assert download_file(row(url), folders, policy=QUICK) == path, "and is remembered"


def test_another_file_in_its_place_is_kept_unless_forced(server, folders):
    mine = folders.target(row())
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"my own export")
    url = server.give("/tiny.onnx", whole())
    with pytest.raises(FaceLoomError, match=r"replace it with `python -m faceloom models get tiny --force`\.$"):
        download_file(row(url), folders, policy=QUICK)
    assert mine.read_bytes() == b"my own export"
    assert download_file(row(url, also=(hashlib.sha256(b"my own export").hexdigest(),)), folders, policy=QUICK) == mine
    assert not server.requests
    download_file(row(url), folders, policy=QUICK, force=True)
    assert mine.read_bytes() == DATA


def test_a_file_of_another_size_or_none_is_no_file_of_the_catalogue_s(server, folders):
    mine = folders.target(row())
    mine.parent.mkdir(parents=True)
    url = server.give("/tiny.onnx", whole())
    for data, size in ((b"cut short", len(DATA)), (b"", None)):
        mine.write_bytes(data)
        with pytest.raises(FaceLoomError, match="--force"):
            download_file(row(url, sha256=None, bytes=size), folders, policy=QUICK)
    mine.write_bytes(b"another export")
    assert download_file(row(url, sha256=None, bytes=None), folders, policy=QUICK) == mine


def test_what_was_trusted_once_does_not_stand_in_the_way(server, folders):
    trusted = hashlib.sha256(OTHER).hexdigest()
    url = server.give("/tiny.onnx", whole(OTHER))
    path = download_file(row(url), folders, policy=QUICK, sha256=trusted)
    path.write_bytes(DATA)
    assert download_file(row(url), folders, policy=QUICK) == path, "the catalogue's own file is right as well"
    server.give("/tiny.onnx", whole())
    download_file(row(url), folders, policy=QUICK, sha256=SHA, force=True)
    path.unlink()
    assert download_file(row(url), folders, policy=QUICK).read_bytes() == DATA


@pytest.mark.skipif(os.name == "nt", reason="locks of another kind")
def test_a_drive_that_cannot_lock(server, folders, monkeypatch):
    def refuse(stream):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(transfer, "_lock", refuse)
    assert download_file(row(server.give("/tiny.onnx", whole())), folders, policy=QUICK).read_bytes() == DATA
    assert left_over(folders) == ["tiny.onnx"]


def test_two_processes_do_not_clash(server, folders):
    url = server.give("/tiny.onnx", whole())
    job = transfer.DownloadJob("tiny.onnx", "tiny", folders.target(row()), (), None, None, QUICK, lambda *_: None)
    job.target.parent.mkdir(parents=True)
    with transfer._locked(job), pytest.raises(FaceLoomError, match=r"Another program is downloading tiny\.onnx"):
        download_file(row(url), folders, policy=QUICK)
    assert download_file(row(url), folders, policy=QUICK).read_bytes() == DATA and left_over(folders) == ["tiny.onnx"]


def test_a_lock_that_was_just_taken_away_counts_as_taken(folders, monkeypatch):
    job = transfer.DownloadJob("tiny.onnx", "tiny", folders.target(row()), (), None, None, QUICK, lambda *_: None)
    job.target.parent.mkdir(parents=True)
    real = transfer._lock
    monkeypatch.setattr(transfer, "_lock", lambda stream: (real(stream), Path(stream.name).unlink()))
    with pytest.raises(FaceLoomError, match="Another program"), transfer._locked(job):
        pass


def test_a_full_disk_is_seen_before(server, folders, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 2_000_000))
    with pytest.raises(FaceLoomError, match=r"tiny\.onnx needs 1 MB, but .* has only 2 MB free"):
        download_file(row(server.give("/tiny.onnx", whole())), folders, policy=QUICK)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "models").write_bytes(b"a file")
    with pytest.raises(FaceLoomError, match=r"tiny\.onnx cannot be written to"):
        download_file(row(server.give("/tiny.onnx", whole())), Folders((tmp_path / "models",)), policy=QUICK)


def test_the_listener_may_interrupt_and_the_part_stays(server, folders):
    def stop(done: int, total: int) -> None:
        raise InterruptedByUser

    class InterruptedByUser(Exception):
        pass

    with pytest.raises(InterruptedByUser):
        download_file(row(server.give("/tiny.onnx", whole())), folders, policy=QUICK, progress=stop)
    assert left_over(folders) == ["tiny.onnx.part", "tiny.onnx.part.json"]


def test_what_is_only_had_by_hand(folders):
    with pytest.raises(FaceLoomError, match=r"tiny\.onnx \(MIT, commercial use allowed\) is only to be had by hand: get it from https://authors"):
        download_file(row(page="https://authors.example"), folders)
    folders.target(row()).parent.mkdir(parents=True)
    folders.target(row()).write_bytes(DATA)
    assert download_file(row(page="https://authors.example"), folders) == folders.target(row())


# Zip archives


def archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return stream.getvalue()


def understated(data: bytes, size: int, stated: int) -> bytes:
    """An archive whose directory states another size of a member than it unpacks to."""
    return data.replace(struct.pack("<I", size), struct.pack("<I", stated))


@pytest.fixture
def pack(server, monkeypatch) -> Pack:
    one = row(name="one", file="one.onnx", folder="insightface/models/tiny", packs=("tiny",), aliases=("uno.onnx",))
    two = row(name="two", file="two.onnx", folder="insightface/models/tiny", packs=("tiny",), sha256=None, bytes=None)
    made = Pack("tiny", server.root + "/tiny.zip", None, (one, two))
    monkeypatch.setattr(download, "packs", lambda: {"tiny": made})
    return made


def test_a_pack_is_unpacked_to_our_own_places(server, folders, pack):
    members = {"../../evil.onnx": b"evil", "tiny/": b"", "tiny/uno.onnx": DATA, "__MACOSX/._two.onnx": b"?", "/abs/two.onnx": b"second"}
    server.give("/tiny.zip", whole(archive(members)))
    place = folders.roots[0] / "insightface/models/tiny"
    path = download_file(pack.rows[1], folders, policy=QUICK)
    assert path == place / "two.onnx" and path.read_bytes() == b"second"
    assert left_over(folders) == [HASH_RECORD, "two.onnx", "uno.onnx"], "the other row comes along; the archive and strangers do not stay"
    assert not list(folders.roots[0].parent.rglob("evil*"))
    ledger = read_json(path.parent / HASH_RECORD)
    assert ledger == {"two.onnx": hashlib.sha256(b"second").hexdigest()}
    assert download_pack(pack, folders, policy=QUICK) == [place / "uno.onnx", place / "two.onnx"]
    assert len(server.requests) == 1
    path.unlink()
    assert len(download_pack(pack, folders, policy=QUICK)) == 2 and len(server.requests) == 2


def test_a_pack_that_is_there_is_not_fetched_again(server, tmp_path, pack):
    home = tmp_path / "home/models/tiny/tiny"
    home.mkdir(parents=True)
    for name in ("one.onnx", "two.onnx"):
        (home / name).write_bytes(DATA)
    both = Folders((tmp_path / "models",), {"insightface": (tmp_path / "models/insightface", tmp_path / "home")})
    assert download_pack(pack, both, policy=QUICK) == [home / "one.onnx", home / "two.onnx"] and not server.requests


def test_a_file_of_a_pack_is_replaced_when_forced(server, folders, pack):
    server.give("/tiny.zip", whole(archive({"one.onnx": DATA, "two.onnx": b"second"})))
    two = folders.target(pack.rows[1])
    two.parent.mkdir(parents=True)
    two.write_bytes(b"")
    with pytest.raises(FaceLoomError, match="--force"):
        download_file(pack.rows[1], folders, policy=QUICK)
    assert download_file(pack.rows[1], folders, policy=QUICK, force=True) == two and two.read_bytes() == b"second"
    two.unlink()
    with pytest.raises(FaceLoomError, match="is not the file that is known"):
        download_file(pack.rows[1], folders, policy=QUICK, sha256=SHA)
    assert not two.exists() and sorted(left_over(folders)) == [HASH_RECORD, "one.onnx"]


def test_files_by_themselves_stay_out_of_insightface_s_packs():
    """InsightFace takes a folder of that name for the whole pack, and other nodes would find no detector in it."""
    for each in catalogue().values():
        assert each.folder.startswith("insightface/models") == (not each.urls and bool(each.packs)), each.name
        assert each.urls or not each.packs or each.folder == f"insightface/models/{each.packs[0]}"


@pytest.mark.parametrize(("content", "words"), [
    (archive({"one.onnx": OTHER, "two.onnx": b""}), r"one\.onnx in tiny\.zip is not the file that is known: it sent another file"),
    (archive({"two.onnx": b"2"}), r"tiny\.zip does not hold one\.onnx"),
    (archive({"one.onnx": DATA, "two.onnx": b""}), r"two\.onnx in tiny\.zip is not the file that is known: it sent an empty file"),
    (b"no zip at all", r"tiny\.zip from http://.* is damaged \(File is not a zip file\)"),
    (archive({"one.onnx": DATA})[:-30], "is damaged"),
    (archive({"one.onnx": DATA, "two.onnx": bytes(1 << 20)}), r"tiny\.zip declares at least 1\.05 MB but has only"),
    (archive({"one.onnx": DATA + b"0", "two.onnx": b"2"}), r"one\.onnx in tiny\.zip is not the file that is known: it has \d+ bytes inst"),
    (understated(archive({"one.onnx": DATA, "two.onnx": bytes(9 << 20)}), 9 << 20, 9), r"is damaged \(Bad CRC-32 for file 'two\.onnx'\)"),
])  # fmt: skip
def test_packs_that_are_not_right(server, folders, pack, content, words):
    server.give("/tiny.zip", whole(content))
    with pytest.raises(FaceLoomError, match=words):
        download_pack(pack, folders, policy=QUICK)
    assert not left_over(folders) and not (folders.roots[0] / "insightface/models/tiny").exists(), "it would count as the pack"


def test_nothing_in_the_catalogue_is_fetched_over_plain_http():
    assert all(url.startswith("https://") for each in catalogue().values() for url in each.urls)


def sends(data: bytes, stop: int | None = None, headers: dict | None = None, code: int = 200) -> Callable:
    """An answer of these bytes, cut after ``stop``."""

    def answer(handler) -> None:
        handler.send_response(code)
        for key, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            handler.send_header(key, value)
        handler.end_headers()
        handler.wfile.write(data[:stop])
        handler.wfile.flush()
        handler.close_connection = True

    return answer


@pytest.mark.parametrize("number", [1, 5])
def test_a_server_whose_file_changes_at_every_request_is_given_up(server, folders, number):
    """Each answer is a new version and breaks off; what came before is thrown away, so the same bytes again are no progress."""
    versions = iter(range(10**6))

    def changing(handler) -> None:
        sends(DATA, 300_000, {"ETag": f'"{next(versions)}"'})(handler)

    with pytest.raises(FaceLoomError, match=r"the connection broke|changed between"):
        download_file(row(server.give("/tiny.onnx", changing)), folders, policy=replace(QUICK, attempts=number))
    assert len(server.requests) <= number + 1


def test_a_content_range_that_lies_is_given_up(server, folders):
    def lying(handler) -> None:
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        where = {"ETag": '"one"', "Content-Range": f"bytes {start + 1}-{len(DATA) - 1}/{len(DATA)}"}
        (sends(DATA[start:], 1000, where, 206) if start else sends(DATA, 1000, {"ETag": '"one"'}))(handler)

    with pytest.raises(FaceLoomError, match=r"changed between two attempts|broke"):
        download_file(row(server.give("/tiny.onnx", lying)), folders, policy=QUICK)
    assert len(server.requests) <= 2 * QUICK.attempts + 1


def test_a_server_that_gives_a_little_each_time_is_asked_no_more_than_so_often(server, folders):
    def a_little(handler) -> None:
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        where = {"ETag": '"one"'} | ({"Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"} if start else {})
        sends(DATA[start:], 10, where, 206 if start else 200)(handler)

    with pytest.raises(FaceLoomError, match="broke"):
        download_file(row(server.give("/tiny.onnx", a_little)), folders, policy=replace(QUICK, requests=12))
    assert len(server.requests) == 12


def test_a_body_without_an_end_is_bounded(server, folders, monkeypatch):
    """Nobody states a size: neither the catalogue nor the server."""
    def endless(handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with pytest.raises(OSError):
            while True:
                handler.wfile.write(DATA)
        handler.close_connection = True

    unstated = row(server.give("/tiny.onnx", endless), sha256=None, bytes=None)
    with pytest.raises(FaceLoomError, match="it sent more than the 5000000 bytes it should have"):
        download_file(unstated, folders, policy=replace(QUICK, most=5_000_000))
    assert not left_over(folders)
    monkeypatch.setattr(transfer, "DISK_CHECK_BYTES", 1 << 20)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(100 << 20, 99 << 20, 1 << 20))
    with pytest.raises(FaceLoomError, match="has only 1 MB free"):
        download_file(unstated, folders, policy=QUICK)


def test_a_trickle_is_given_up(server, folders):
    """A few bytes come again and again, and no read ever times out."""
    now = iter(range(0, 10**6, 1))

    def trickle(handler) -> None:
        sends(DATA, 0, {"ETag": '"one"'})
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DATA)))
        handler.end_headers()
        with pytest.raises(OSError):
            for _ in range(1000):
                handler.wfile.write(b"x" * 100)
                handler.wfile.flush()
                time.sleep(.002)
        handler.close_connection = True

    with pytest.raises(FaceLoomError, match="fewer than 1024 bytes a second"):
        download_file(row(server.give("/tiny.onnx", trickle)), folders, policy=replace(QUICK, clock=lambda: float(next(now))))
    assert len(server.requests) <= QUICK.attempts


def test_a_hash_is_read_before_anything_is_asked_for(server, folders):
    url = server.give("/tiny.onnx", whole())
    assert download_file(row(url), folders, sha256=f" {SHA.upper()}", policy=QUICK).read_bytes() == DATA
    for wrong in ("abc", SHA[:-1], SHA + "0", "g" * 64):
        server.requests.clear()
        with pytest.raises(FaceLoomError, match="64 digits"):
            download_file(row(url, file="b.onnx"), folders, sha256=wrong, force=True, policy=QUICK)
        assert not server.requests


def send(*pieces: bytes, pause: float = 0, code: int = 200, **headers) -> Callable:
    """A body in pieces, with a pause after each; it ends with the connection."""

    def answer(handler) -> None:
        handler.send_response(code)
        for key, value in {"Connection": "close", **headers}.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.end_headers()
        for piece in pieces:
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(pause)
        handler.close_connection = True

    return answer


def changing(code: int, first: int = 200_000, growth: int = 0, **lies: str) -> Callable:
    """Another version at each request, of which ``first`` bytes come, and ``growth`` more at each request; as resumed where ``code`` is
    206, from a byte of ``lies``' choice."""
    count = iter(range(10_000))

    def answer(handler) -> None:
        number = next(count)
        start = int((handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        headers = {"ETag": f'"{number}"', "Content-Length": str(len(DATA))}
        if code == 206 and start:
            headers["Content-Range"] = lies.get("span", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
            return send(DATA[start : start + first], code=206, **headers)(handler)
        return send(DATA[: first + growth * number], **headers)(handler)

    return answer


@pytest.mark.parametrize("answer", [
    lambda: changing(200), lambda: changing(200, growth=70_000), lambda: changing(206), lambda: changing(200, first=10, growth=1),
    lambda: changing(206, span="bytes 0-99/1048576"), lambda: changing(206, span="bytes 200000-300000/200001"),
    lambda: changing(206, span="nonsense"), lambda: changing(206, span="bytes 200000-1048575/*"), lambda: whole(stop=0, etag=None),
], ids=["restarts", "longer restarts", "resumed", "a byte more", "from the start", "shorter", "no span", "no total", "nothing"])
@pytest.mark.parametrize("known", [{}, {"bytes": None, "sha256": None}], ids=["known", "unknown"])
def test_tries_that_get_nowhere_end(server, folders, answer, known):
    url = server.give("/tiny.onnx", answer())
    with pytest.raises(FaceLoomError, match=r"tiny\.onnx could not be downloaded"):
        download_file(row(url, **known), folders, policy=QUICK)
    assert len(server.requests) <= 3 * QUICK.attempts
    assert not folders.target(row()).exists()


def test_an_answer_that_does_not_begin_is_given_up(server, folders):
    def drip(handler) -> None:
        for letter in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 400:
            handler.wfile.write(bytes([letter]))
            handler.wfile.flush()
            time.sleep(0.02)

    began = time.monotonic()
    with pytest.raises(FaceLoomError, match="could not be downloaded"):
        download_file(row(server.give("/tiny.onnx", drip)), folders, policy=replace(QUICK, connect=0.2, read=0.2, attempts=2))
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("written", [str.upper, "sha256:{}".format, "  {}\n".format, lambda text: f"SHA256:{text.upper()}"])
def test_a_hash_may_be_written_in_other_ways(server, folders, written):
    url = server.give("/tiny.onnx", whole(OTHER))
    assert download_file(row(url), folders, policy=QUICK, sha256=written(hashlib.sha256(OTHER).hexdigest())).read_bytes() == OTHER


@pytest.mark.parametrize("word", ["", "yes", SHA[:-1], SHA + "0", "g" * 64, "md5:" + SHA])
def test_a_word_that_is_no_hash_is_found_before_anything_is_asked_for(server, folders, word):
    with pytest.raises(FaceLoomError, match="A sha256 has 64 digits"):
        download_file(row(server.give("/tiny.onnx", whole())), folders, policy=QUICK, sha256=word)
    assert server.requests == []


def test_a_size_that_no_model_has_is_refused(server, folders):
    url = server.give("/tiny.onnx", send(b"", Content_Length="5000001"))
    with pytest.raises(FaceLoomError, match="it offers 5000001 bytes, and no model has more than 5000000"):
        download_file(row(url, bytes=None, sha256=None), folders, policy=replace(QUICK, most=5_000_000))
    assert left_over(folders) == []


def test_a_trickle_after_a_part_is_given_up_too(server, folders):
    """What was there before does not count for the pace."""
    now = iter(range(10**6))
    url = server.give("/tiny.onnx", whole(stop=500_000), send(
        *[b"x"] * 60, pause=0.002, code=206, ETag='"one"', Content_Range=f"bytes 500000-{len(DATA) - 1}/{len(DATA)}"))
    with pytest.raises(FaceLoomError, match="fewer than 1024 bytes a second"):
        download_file(row(url), folders, policy=replace(QUICK, clock=lambda: float(next(now)), read=5, attempts=1))
