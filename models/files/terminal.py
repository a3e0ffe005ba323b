"""What to type in a terminal, for messages: it must work when it is pasted."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

FOLDER = Path(__file__).absolute().parents[2]


def command(*words: str | os.PathLike) -> str:
    """The line that runs FaceLoom with these words, such as ``python -m faceloom models get xseg_1``.

    Where this package does not go by that name, as in ComfyUI's custom_nodes, the line names this Python and this folder instead.
    """
    start = ("python", "-m", "faceloom") if __name__.startswith("faceloom.") else (sys.executable, FOLDER)
    return " ".join(_quoted(os.fspath(word)) for word in (*start, *words))


def _quoted(word: str) -> str:
    if os.name == "nt":
        return f'"{word}"' if " " in word else word
    return shlex.quote(word)
