"""Writes the command lines that messages name: they must work when they are pasted into a terminal."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

PACKAGE_FOLDER = Path(__file__).absolute().parents[2]


def command(*arguments: str | os.PathLike) -> str:
    """Return the line that runs FaceLoom with these arguments, such as ``python -m faceloom models get xseg_1``.

    Where this package does not go by that name, as in ComfyUI's custom_nodes, the line names this Python and this folder instead.
    """
    start = ("python", "-m", "faceloom") if __name__.startswith("faceloom.") else (sys.executable, PACKAGE_FOLDER)
    return " ".join(_quoted(os.fspath(word)) for word in (*start, *arguments))


def _quoted(word: str) -> str:
    if os.name == "nt":
        return f'"{word}"' if " " in word else word
    return shlex.quote(word)
