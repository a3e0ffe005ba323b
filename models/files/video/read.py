"""Reads the frames of a clip, or of a part of it, one after another and a few ahead."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from ...errors import FaceLoomError
from .color import check_matrix
from .frame import ClipFrame
from .info import ClipInfo, effective_matrix, probe, wants_alpha_decoder
from .library import ClipSource, name_of, open_clip, reason_of, require_av, video_stream
from .pages import is_paged, read_pages
from .pixel_formats import is_full_range
from .planes import upright_planar
from .threads import ReadAhead

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# What asks for RGB: every frame, none, or as the function says by their number: all of a frame, a part (rows and columns), or none.
Converts = bool | Callable[[int], "bool | tuple[slice, slice]"]

_SEEK_MARGINS = (0, 1, 5, 30)  # seconds before the start at which decoding begins, until one of them reaches back far enough
_MISSING_SECONDS = 0.5  # a clip whose frames end this much before its own headers say was cut off


class FrameReader:
    """The frames of a clip: an iterator, and a context that ends its thread. ``info`` says what the clip is."""

    def __init__(self, info: ClipInfo, frames: Iterator[ClipFrame], ahead: int):
        self.info = info
        self._frames = ReadAhead(frames, ahead)

    def __iter__(self) -> Iterator[ClipFrame]:
        return iter(self._frames)

    def __next__(self) -> ClipFrame:
        return next(self._frames)

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and close the file."""
        self._frames.close()


def read_frames(
    source: ClipSource,
    start: float | Fraction | None = None,
    end: float | Fraction | None = None,
    *,
    after: int | None = None,
    first_index: int = 0,
    convert: Converts = True,
    keep_damaged: bool = False,
    ahead: int = 4,
) -> FrameReader:
    """Read the frames of a clip, upright, with a thread that decodes (itself on all cores) and converts to RGB ahead of whoever uses them.

    source: path or BytesIO. start, end: seconds of the clip's own clock; frames shown at ``start`` or later and before ``end`` are read.
    after: only frames with a larger ``pts``; with first_index, the number that the first of them gets: so a broken-off run goes on.
    convert: what is converted to RGB on that thread (see ``Converts``); the rest is when it is asked for. keep_damaged: give what can be
    decoded of a damaged clip instead of an error. ahead: how many frames may wait. Where a clip's times do not rise, a frame is moved by
    one tick. FaceLoomError as of ``probe``, while reading where the clip is damaged, and where no frame lies in the section.
    """
    info = probe(source)
    if is_paged(source):
        frames = read_pages(source, info.alpha, keep_damaged)
    else:
        check_matrix(effective_matrix(info))
        frames = _decode(source, info, start, keep_damaged)
    section = _section(frames, name_of(source), (_floor_ticks(start, info), _floor_ticks(end, info)), after, keep_damaged)
    return FrameReader(info, _converted(section, first_index, convert), ahead)


def _floor_ticks(seconds: float | Fraction | None, info: ClipInfo) -> int | None:
    """Return seconds in whole ticks, where a float a hair below a tick counts as it."""
    return None if seconds is None else math.floor(Fraction(seconds) / info.time_base + Fraction(1, 1000))


def _section(
    frames: Iterator[ClipFrame], name: str, window: tuple[int | None, int | None], after: int | None, keep_damaged: bool
) -> Iterator[ClipFrame]:
    """Keep the frames within the window; FaceLoomError where there are none, and at a damaged one unless they are kept."""
    start, end = window
    found = False
    for frame in frames:
        if start is not None and frame.pts < start:
            continue
        if end is not None and frame.pts >= end:
            break
        found = True
        if after is not None and frame.pts <= after:
            continue
        if frame.damaged and not keep_damaged:
            raise FaceLoomError(f"{name} is damaged at {frame.time:.2f} s; ask for what can be read of it, or repair it.")
        yield frame
    if not found:
        raise FaceLoomError(f"{name} has no frame in the section that was asked for; choose another start or end.")


def _converted(frames: Iterator[ClipFrame], index: int, convert: Converts) -> Iterator[ClipFrame]:
    """Number the frames and convert those that somebody will ask."""
    for number, frame in enumerate(frames, index):
        frame.index = number
        wanted = convert(number) if callable(convert) else convert
        if wanted:
            frame.convert()
        if isinstance(wanted, tuple):
            frame.keep_part(wanted)
        yield frame


def _decode(source: ClipSource, info: ClipInfo, start: float | Fraction | None, keep_damaged: bool) -> Iterator[ClipFrame]:
    """Decode a video from a little before ``start``, and check at its end that all of it was there."""
    matrix, seconds = effective_matrix(info), Fraction(0)
    with open_clip(source) as container:
        stream = video_stream(container, source)
        reader = _Packets(container, stream, source, keep_damaged)
        held: ClipFrame | None = None
        for decoded in _from_start(reader, start, info):
            frame = _upright(decoded, info, matrix)
            if held is not None:
                frame.pts = held.pts + held.duration if decoded.pts is None else max(frame.pts, held.pts + 1)
                held.duration = frame.pts - held.pts  # shown until the next one
                yield held
            held = frame
        if held is not None:
            seconds = (held.pts + held.duration) * info.time_base
            yield held
        if not keep_damaged and (problem := reader.problem(seconds)):
            raise FaceLoomError(f"{name_of(source)} {problem}; ask for what can be read of it, or repair it.")


def _upright(decoded: VideoFrame, info: ClipInfo, matrix: int) -> ClipFrame:
    """Return a decoded frame upright and planar, with its times in the clip's ticks; a missing time is left at the clip's start."""
    full_range = info.marks.full_range
    if decoded.color_range and not is_full_range(decoded.format.name):
        full_range = decoded.color_range == 2
    native = upright_planar(decoded, info.rotation, (info.width, info.height))
    pts = decoded.pts if decoded.pts is not None else round(info.start / info.time_base)
    duration = int(decoded.duration or max(1, round(1 / (info.rate * info.time_base))))
    return ClipFrame(0, pts, duration, info.time_base, native, matrix, full_range, damaged=bool(decoded.is_corrupt))


def _from_start(reader: _Packets, start: float | Fraction | None, info: ClipInfo) -> Iterator[VideoFrame]:
    """Seek so far back that every frame from ``start`` on is decoded, and decode. Where seeking fails, decoding begins at the beginning."""
    target = _floor_ticks(start, info)
    first_pts = info.start / info.time_base
    if target is None or target <= first_pts:
        yield from reader.frames()
        return
    first, frames = None, iter(())
    for margin in (*_SEEK_MARGINS, None):
        reader.seek(None if margin is None else max(math.floor(target - margin / info.time_base), math.floor(first_pts)))
        frames = reader.frames()
        first = next(frames, None)
        if margin is None or (first is not None and first.pts is not None and first.pts <= target):
            break
    if first is not None:
        yield first
    yield from frames


class _Packets:
    """Decodes the packets of one stream, and remembers what was wrong with them."""

    def __init__(self, container: InputContainer, stream: VideoStream, source: ClipSource, keep_damaged: bool):
        self._container, self._stream, self._source, self._keep_damaged = container, stream, source, keep_damaged
        self._decoder = stream.codec_context
        if wants_alpha_decoder(stream):
            self._decoder = _alpha_decoder(stream)
        self._decoder.thread_type = "AUTO"
        self._decoder.thread_count = 0
        self._count, self._whole, self._error = 0, True, ""

    def seek(self, pts: int | None) -> None:
        """Go to a key frame at or before ``pts``, or to the beginning."""
        av = require_av()
        self._whole = pts is None
        self._count = 0
        try:
            if pts is None:
                self._container.seek(0, backward=True)
            else:
                self._container.seek(pts, stream=self._stream, backward=True)
        except (av.error.FFmpegError, OSError):
            pass  # reading goes on from where it is; the frames before the start are left out anyway
        self._decoder.flush_buffers()

    def frames(self) -> Iterator[VideoFrame]:
        """Decode until the end, over damaged packets too if they are kept."""
        av = require_av()
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                self._count += packet.size > 0
                yield from self._decode(packet)
            except av.error.EOFError:
                return
            except (av.error.FFmpegError, OSError) as error:
                self._error = self._error or reason_of(error)
                if not self._keep_damaged:
                    raise FaceLoomError(
                        f"{name_of(self._source)} is damaged after {self._count} frames ({self._error}); ask for what can be read of "
                        "it, or repair it."
                    ) from error
                if not isinstance(error, av.error.InvalidDataError):
                    return

    def _decode(self, packet: Packet) -> list[VideoFrame]:
        """Return the frames that a packet completes; an empty packet drains the decoder."""
        if self._decoder is self._stream.codec_context:
            return packet.decode()  # type: ignore[return-value]
        frames = self._decoder.decode(packet if packet.size else None)
        for frame in frames:
            frame.time_base = frame.time_base or self._stream.time_base
        return frames

    def problem(self, seconds: Fraction) -> str:
        """Return what is missing of a clip that was read to its end at ``seconds``, or ""."""
        promised = self._stream.frames
        if self._whole and promised and self._count < promised:
            return f"holds {self._count} of its {promised} frames"
        tag = _tagged_duration(self._stream)
        if tag and float(seconds) < tag - _MISSING_SECONDS:
            return f"ends at {float(seconds):.2f} s of {tag:.2f} s"
        return ""


def _alpha_decoder(stream: VideoStream):
    """Return libvpx's decoder for a stream, or FFmpeg's own, without transparency, where libvpx is not built in."""
    av = require_av()
    name = f"libvpx-{stream.codec_context.codec.canonical_name}" if stream.codec_context.codec.canonical_name == "vp9" else "libvpx"
    try:
        decoder = av.CodecContext.create(name, "r")
    except (av.error.FFmpegError, ValueError):
        return stream.codec_context
    decoder.extradata = stream.codec_context.extradata
    return decoder


def _tagged_duration(stream: VideoStream) -> float:
    """Return the seconds that Matroska's tag gives a stream (the tag stands before the frames, so a cut-off file has it too), or 0."""
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0
