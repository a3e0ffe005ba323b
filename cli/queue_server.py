"""Talks to a running ComfyUI: what it has, files up and down, and prompts."""

from __future__ import annotations

import http.client
import json
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..models.errors import FaceLoomError

_SECONDS = 60  # until an answer begins


class ServerGone(FaceLoomError):
    """The server does not answer: it is not there, or starts again."""


class Refused(FaceLoomError):
    """The server does not take a prompt."""


class Server:
    """A ComfyUI server. url: its address. headers: sent with every request, for what is behind a proxy."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise FaceLoomError(f"{url} is no address of a server; write it as http://127.0.0.1:8188.")
        self.url, self.headers = urllib.parse.urlunsplit(parts).rstrip("/"), dict(headers)
        self.client = secrets.token_hex(16)

    def _ask(self, path: str, data: bytes | None = None, kind: str = "application/json") -> bytes:
        headers = self.headers | ({"Content-Type": kind} if data is not None else {})
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=_SECONDS) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")
            if path == "/prompt" and error.code == 400:
                raise Refused(text) from error
            raise FaceLoomError(f"{self.url}{path} answered {error.code} {error.reason}.") from error
        except (OSError, http.client.HTTPException) as error:
            raise ServerGone(f"No ComfyUI answers at {self.url} ({getattr(error, 'reason', error)}); start it, or name it with --server."
                             ) from error

    def _json(self, path: str, value: Any = None) -> Any:
        answer = self._ask(path, None if value is None else json.dumps(value).encode())
        try:
            return json.loads(answer) if answer else {}
        except ValueError as error:
            raise FaceLoomError(f"{self.url} is no ComfyUI server: {path} did not answer JSON.") from error

    def object_info(self) -> dict:
        """Return what every node of the server takes."""
        return self._json("/object_info")

    def upload(self, path: Path, digest: str) -> str:
        """Upload a file into a folder of its own, named by its hash, and return its name there."""
        boundary, folder = secrets.token_hex(16), f"faceloom-queue/{digest[:16]}"
        name = path.name.replace('"', "_").replace("\r", "_").replace("\n", "_")
        fields = b"".join(f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
                          for key, value in (("subfolder", folder), ("overwrite", "true"), ("type", "input")))
        file = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n' \
               "Content-Type: application/octet-stream\r\n\r\n"
        answer = self._ask("/upload/image", fields + file.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode(),
                           f"multipart/form-data; boundary={boundary}")
        saved = json.loads(answer)
        return f"{saved['subfolder']}/{saved['name']}" if saved.get("subfolder") else saved["name"]

    def queue(self, graph: Mapping) -> str:
        """Queue a prompt and return its id. ``Refused`` with one line where the server does not take it."""
        try:
            return self._json("/prompt", {"prompt": graph, "client_id": self.client})["prompt_id"]
        except Refused as error:
            raise Refused(refusal(str(error), graph)) from None

    def history(self, prompt: str) -> dict | None:
        """Return what became of a prompt; None while it is not done."""
        return self._json(f"/history/{prompt}").get(prompt)

    def waiting(self) -> set[str]:
        """Return the ids of the prompts that run or wait, anybody's."""
        queue = self._json("/queue")
        return {item[1] for name in ("queue_running", "queue_pending") for item in queue.get(name, ())}

    def cancel(self, prompts: list[str]) -> None:
        """Take prompts out of the queue, and interrupt the one that runs if it is one of them."""
        self._json("/queue", {"delete": prompts})
        running = [item[1] for item in self._json("/queue").get("queue_running", ()) if item[1] in prompts]
        for prompt in running:
            self._json("/interrupt", {"prompt_id": prompt})

    def fetch(self, file: Mapping[str, str]) -> bytes:
        """Return the content of a file that a node saved."""
        return self._ask("/view?" + urllib.parse.urlencode({key: file.get(key, "") for key in ("filename", "subfolder", "type")}))


def refusal(answer: str, graph: Mapping) -> str:
    """Put the server's answer to a prompt that it does not take into one line."""
    try:
        told = json.loads(answer)
    except ValueError:
        return "The server does not take the workflow."
    errors = [f"{_title(graph, number)}: {each.get('message')} ({each.get('details')})"
              for number, node in (told.get("node_errors") or {}).items() for each in node.get("errors", ())]
    return " ".join("; ".join(errors or [str((told.get("error") or {}).get("message", "The server does not take the workflow."))]).split())


def failure(entry: Mapping, graph: Mapping) -> str | None:
    """Return one line about a prompt that failed, from its history; None where it was done."""
    status = entry.get("status") or {}
    for name, about in status.get("messages") or ():
        if name == "execution_error":
            return " ".join(f"{_title(graph, about.get('node_id'))}: {about.get('exception_message', '')}".split())
        if name == "execution_interrupted":
            return "It was interrupted on the server."
    return None if status.get("status_str", "success") == "success" else "It failed on the server."


def _title(graph: Mapping, number: Any) -> str:
    node = graph.get(str(number), {})
    return node.get("_meta", {}).get("title") or node.get("class_type") or f"node {number}"
