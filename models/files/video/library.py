"""Opens clips with PyAV and turns its errors into sentences."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from ...errors import FaceLoomError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# A path, or a file in memory (ComfyUI hands over both).
ClipSource: TypeAlias = "str | os.PathLike | io.BytesIO"

_DISK_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


def require_av() -> ModuleType:
    """Return the package ``av``; FaceLoomError that says how to install it where it is missing."""
    try:
        import av
        import av.codec.codec
        import av.error
    except ImportError as error:
        raise FaceLoomError("Reading and writing clips needs PyAV: python -m pip install av.") from error
    return av


def name_of(source: ClipSource) -> str:
    """Return how error messages call a source: its path, or "The clip" for one in memory."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "The clip"


def reason_of(error: BaseException) -> str:
    """Return the message of an error on one line and without numbers that only FFmpeg knows, or its type where it has none."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()).rstrip(".") or type(error).__name__


@contextmanager
def open_binary(source: ClipSource) -> Iterator[BinaryIO]:
    """Open a source for reading bytes, from its beginning. FaceLoomError where there is no such file or it cannot be read."""
    if isinstance(source, io.BytesIO):
        # A view of its own: two readers of one buffer must not share a position.
        yield io.BytesIO(source.getvalue())  # shares the bytes until somebody writes
        return
    try:
        file = open(source, "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise FaceLoomError(f"There is no file {name_of(source)}.") from None
    except OSError as error:
        raise FaceLoomError(f"{name_of(source)} cannot be read ({reason_of(error)}).") from error
    with file:
        yield file


@contextmanager
def open_clip(source: ClipSource) -> Iterator[InputContainer]:
    """Open a clip for demuxing. FaceLoomError where it is missing, empty or no file that FFmpeg knows."""
    av = require_av()
    with open_binary(source) as file:
        if not file.seek(0, io.SEEK_END):
            raise FaceLoomError(f"{name_of(source)} is empty.")
        file.seek(0)
        try:
            # FFmpeg opens a path itself: it seeks faster than through Python. "file:" keeps names with a colon from being taken for a
            # protocol.
            container = av.open(file if isinstance(source, io.BytesIO) else "file:" + os.path.abspath(source), metadata_errors="replace")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise FaceLoomError(f"{name_of(source)} cannot be read as a clip ({reason_of(error)}).") from error
        with container:
            yield container


def video_stream(container: InputContainer, source: ClipSource) -> VideoStream:
    """Return the first video stream that is no cover picture and that can be decoded; FaceLoomError where there is none."""
    av = require_av()
    streams = [stream for stream in container.streams.video if not stream.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise FaceLoomError(f"{name_of(source)} has no video, only {_kinds(container)}.")
    stream = next((stream for stream in streams if stream.codec_context is not None), None)
    if stream is None:
        raise FaceLoomError(f"{name_of(source)} has video that this FFmpeg cannot decode; convert it to H.264 first.")
    if not stream.codec_context.width or not stream.codec_context.height:
        raise FaceLoomError(f"{name_of(source)} has a video stream without a size; the file is damaged or cut off.")
    return stream


def _kinds(container: InputContainer) -> str:
    """Return in words which kinds of streams a clip has."""
    kinds = sorted({"a cover picture" if stream.type == "video" else stream.type for stream in container.streams})
    return " and ".join(kinds) or "an empty container"


@contextmanager
def writing_to(path: str | os.PathLike) -> Iterator[None]:
    """Turn the errors of writing a clip into sentences about ``path``."""
    av = require_av()
    try:
        yield
    except FaceLoomError:
        raise
    except (av.error.FFmpegError, OSError) as error:
        folder = Path(path).parent
        if error.errno in _DISK_FULL:
            raise FaceLoomError(f"The disk is full: {path} could not be written to the end; make room in {folder}.") from error
        raise FaceLoomError(f"{path} cannot be written ({reason_of(error)}).") from error
