"""Writes GIF, APNG, animated WebP and TIFF files of a clip's frames, with their times."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from ...errors import FaceLoomError
from ...pixels.tensors import to_uint8
from ..cache import replacement_path
from .animation_files import AnimationFile, GifFile, PngFile, TiffFile, WebpFile
from .frame import ClipFrame
from .info import ClipInfo
from .library import writing_to
from .patch import Part
from .settings import EncodeSettings, check_output


class AnimationWriter:
    """Writes the frames of a clip to a .gif, .png, .apng, .webp or .tif file, one after another; a context as ``ClipWriter`` is.

    The file plays as often as the source, a video without end. ``settings.quality`` counts for WebP: 0 to 100, None without loss. GIF takes
    the 256 best colours of each frame, and times in hundredths of a second.
    """

    frames_done = 0
    last_pts = None

    def __init__(self, path: str | Path, info: ClipInfo, settings: EncodeSettings | None = None):
        """Check that the file can be written, and begin. FaceLoomError as of ``check_output``."""
        self.path, self._info, self._settings = Path(path), info, settings or EncodeSettings()
        check_output(self.path, None, info, self._settings)
        self._suffix = self.path.suffix.lower()
        self._replacement: AbstractContextManager[Path] | None = None
        self._file: AnimationFile | None = None
        self._handle = None
        self._size = (0, 0)
        self._began: Fraction | None = None

    def write(
        self, frame: ClipFrame, image: torch.Tensor | None = None, alpha: torch.Tensor | None = None, part: Part | None = None
    ) -> None:
        """Add a frame; as of ``ClipWriter``."""
        pixels = self._pixels(frame, None if image is None else frame.with_part(image, part), alpha)
        start = frame.pts * frame.time_base
        self._began = start if self._began is None else self._began
        ends = start - self._began + frame.duration * frame.time_base
        tick = 10 if self._suffix == ".gif" else 1
        ms = max(tick, (_round_to(ends, tick) - _round_to(start - self._began, tick)))
        with writing_to(self.path):
            if self._file is None:
                self._begin(pixels)
            assert self._file is not None
            if self._suffix not in (".tif", ".tiff") and pixels.shape[1::-1] != self._size:
                raise FaceLoomError(f"Frame {frame.index} has another size than the first; only TIFF can hold both.")
            self._file.add(pixels, ms)

    def _pixels(self, frame: ClipFrame, image: torch.Tensor | None, alpha: torch.Tensor | None) -> np.ndarray:
        """Return ``[H, W, 3|4]`` uint8: the frame's own values where it has 8 bits and nothing was changed."""
        own = frame.convert()
        colors = own[..., :3] if image is None and own.dtype == np.uint8 else to_uint8(frame.image() if image is None else image)
        alpha = frame.alpha() if alpha is None else alpha
        if not self._info.alpha and alpha is None:
            return np.ascontiguousarray(colors)
        opaque = np.full(colors.shape[:2], 255, np.uint8) if alpha is None else to_uint8(alpha)
        return np.concatenate([colors, opaque[..., None]], -1)

    def _begin(self, pixels: np.ndarray) -> None:
        """Open the file under a temporary name."""
        self._size = pixels.shape[1], pixels.shape[0]
        plays = self._info.loop or 0
        self._replacement = replacement_path(self.path)
        path = self._replacement.__enter__()
        if self._suffix in (".tif", ".tiff"):
            self._file = TiffFile(str(path))
            return
        self._handle = open(path, "x+b")  # noqa: SIM115
        if self._suffix == ".gif":
            self._file = GifFile(self._handle, self._size, plays)
        elif self._suffix == ".webp":
            self._file = WebpFile(self._handle, self._size, plays, pixels.shape[-1] == 4, self._settings.quality)
        else:
            self._file = PngFile(self._handle, self._size, plays)

    def finish(self) -> None:
        """Close the file and give it its name."""
        if self._file is None or self._replacement is None:
            raise FaceLoomError(f"{self.path} was not written: no frame was given.")
        with writing_to(self.path):
            self._file.close()
            if self._handle is not None:
                self._handle.close()
            replacement, self._replacement = self._replacement, None
            replacement.__exit__(None, None, None)

    def abort(self) -> None:
        """Throw away what was written."""
        if self._handle is not None:
            self._handle.close()
        replacement, self._replacement = self._replacement, None
        if replacement is not None:
            with suppress(KeyboardInterrupt):
                replacement.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)

    discard = abort

    def __enter__(self) -> AnimationWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._replacement is not None:
                self.finish()
        except BaseException:
            self.abort()
            raise
        if kind is not None:
            self.abort()


def _round_to(seconds: Fraction, tick: int) -> int:
    """Return milliseconds rounded to whole ticks of as many."""
    return round(seconds * 1000 / tick) * tick
