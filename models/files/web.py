"""Opens web addresses, http and https and nothing else, and waits for no server without end."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class AddressError(Exception):
    """Why one address did not give the file. retry: whether another attempt may succeed. sha256: of the file it gave instead, or None.
    slow: what it brought was too little to count. lost: whether bytes that were on the disk were thrown away for it."""

    def __init__(self, reason: str, retry: bool = False, sha256: str | None = None, slow: bool = False) -> None:
        super().__init__(reason)
        self.retry, self.sha256, self.slow, self.lost = retry, sha256, slow, False


@contextmanager
def _deadline(connection: socket.socket, seconds: float) -> Iterator[None]:
    """Break off a connection that is still waited for after some seconds, however slowly bytes come."""
    def break_off() -> None:
        with suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, break_off)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, to other hosts too, but never from https to http nor to anything but http and https."""

    def redirect_request(self, request, stream, code, message, headers, address):
        scheme = urllib.parse.urlsplit(address).scheme
        if scheme not in ("http", "https") or (scheme == "http" and request.full_url.startswith("https:")):
            raise AddressError(f"it redirects to {address}, which is not encrypted" if scheme == "http" else f"it redirects to {address}")
        return super().redirect_request(request, stream, code, message, headers, address)


def web_opener(connect: float, read: float) -> urllib.request.OpenerDirector:
    """Return an opener for http and https only (no file or ftp). It gives up a connection that brings no data for ``read`` seconds, or not
    the whole head of an answer in ``connect + read``."""

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(read)

        def getresponse(self) -> http.client.HTTPResponse:
            with _deadline(self.sock, connect + read):
                return super().getresponse()

    class Secure(Plain, http.client.HTTPSConnection):
        pass

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, request):
            return self.do_open(Plain, request)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, request):
            return self.do_open(Secure, request)

    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler, urllib.request.UnknownHandler, PlainHandler, SecureHandler, Redirects,
                    urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor):  # fmt: skip
        opener.add_handler(handler())
    return opener
