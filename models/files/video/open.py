"""Opens the writer that fits a file's suffix."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from .animation import AnimationWriter
from .info import ClipInfo
from .library import ClipSource
from .settings import ANIMATIONS, EncodeSettings
from .write import ClipWriter


def open_writer(
    path: str | Path,
    source: ClipSource | None,
    info: ClipInfo,
    settings: EncodeSettings | None = None,
    *,
    window: tuple[float | Fraction | None, float | Fraction | None] = (None, None),
    key: str | None = None,
    resume: bool = True,
) -> ClipWriter | AnimationWriter:
    """Open a writer for a video file, or for a GIF, APNG, WebP or TIFF; ``ClipWriter`` says what the arguments are. Animations have no
    sound, and a run that writes one begins anew."""
    if Path(path).suffix.lower() in ANIMATIONS:
        return AnimationWriter(path, info, settings)
    return ClipWriter(path, source, info, settings, window=window, key=key, resume=resume)
