"""The user's own folders, also where there is no home: containers run under numbers that no account has."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..errors import FaceLoomError


def home_folder() -> Path | None:
    """Return the user's home folder; None where the system knows none."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def cache_folder() -> Path:
    """Return FaceLoom's cache folder: ``FACELOOM_CACHE``, else ``faceloom`` in the user's cache folder, else a folder of this user's among
    the system's temporary ones."""
    if os.environ.get("FACELOOM_CACHE"):
        return Path(os.environ["FACELOOM_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    if base:
        return Path(base) / "faceloom"
    home = home_folder()
    if home is not None:
        return home / ".cache" / "faceloom"
    own = os.getuid() if hasattr(os, "getuid") else os.getpid()
    folder = Path(tempfile.gettempdir()) / f"faceloom-{own}"
    if folder.exists() and hasattr(os, "getuid") and folder.stat().st_uid != own:  # what lies there is remembered, so it must be ours
        raise FaceLoomError(f"{folder} belongs to another user; set FACELOOM_CACHE to a folder of your own.")
    return folder


def expand_home(path: str | os.PathLike) -> Path:
    """Return a path whose leading ``~`` is the home folder; one that cannot be resolved stays as it is."""
    return Path(os.path.expanduser(path))
