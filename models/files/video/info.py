"""Says what a clip is: size, times, pixel format, colour marks and streams."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from ...errors import FaceLoomError
from .library import ClipSource, name_of, open_clip, reason_of, require_av, video_stream
from .pages import is_paged, probe_pages
from .pixel_formats import bits_of, has_alpha, is_full_range, is_rgb

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

from .marks import BT709, BT2020, HLG, PQ, UNSPECIFIED, ColorMarks

__all__ = ["ClipInfo", "ColorMarks", "StreamInfo", "count_frames", "probe"]

_UNMARKED = ColorMarks()


@dataclass(frozen=True)
class StreamInfo:
    """A stream that is copied: its number in the file, "audio" or "subtitle", codec, language (or ""), and its bits per second if known."""

    index: int
    kind: str
    codec: str
    language: str = ""
    bit_rate: int = 0


@dataclass(frozen=True)
class ClipInfo:
    """What a clip is.

    frames: their number where the file says it, else None (``count_frames`` counts). width, height: pixels, upright (rotation honoured).
    time_base: seconds a tick of ``pts``. rate: frames per second on average. start, duration: seconds; duration is None where unknown.
    pixel_format: FFmpeg's name. bits: per channel. marks: colour marks. alpha: there is transparency. rotation: degrees (counter-clockwise)
    by which the decoded frames are turned to be upright. interlaced: a frame holds two fields. codec, container: FFmpeg's names. loop: how
    often an animation plays (0: without end), None for video. sample_aspect: width of a pixel by its height, upright. mastering: HDR
    mastering data as encoders take them ("" where there are none). light: content light levels "max,average", or "".
    """

    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    frames: int | None = None
    start: Fraction = Fraction(0)
    duration: Fraction | None = None
    pixel_format: str = "gbrp"
    bits: int = 8
    marks: ColorMarks = _UNMARKED
    alpha: bool = False
    rotation: int = 0
    interlaced: bool = False
    codec: str = ""
    container: str = ""
    loop: int | None = None
    sample_aspect: Fraction = Fraction(1)
    mastering: str = ""
    light: str = ""
    streams: tuple[StreamInfo, ...] = ()

    @property
    def is_animation(self) -> bool:
        """True for GIF, APNG, WebP and TIFF, which Pillow reads."""
        return self.loop is not None

    @property
    def hdr(self) -> str:
        """ "PQ" or "HLG" for high dynamic range, else ""."""
        return {PQ: "PQ", HLG: "HLG"}.get(self.marks.transfer, "")


def probe(source: ClipSource) -> ClipInfo:
    """Read what a clip is, by its headers and its first frame.

    source: path, or BytesIO. FaceLoomError where it is missing, empty, no clip, or without a frame that can be decoded.
    """
    if is_paged(source):
        return ClipInfo(**probe_pages(source))
    with open_clip(source) as container:
        return describe(container, source)


def describe(container: InputContainer, source: ClipSource) -> ClipInfo:
    """Return what an opened clip is. Its first frame is decoded; the container is left behind it."""
    from .frame import mastering_of

    stream = video_stream(container, source)
    frame = _first_frame(container, stream, source)
    rotation = int(frame.rotation) % 360
    width, height = (frame.height, frame.width) if rotation in (90, 270) else (frame.width, frame.height)
    time_base = stream.time_base or Fraction(1, 1000)
    rate = Fraction(stream.average_rate or stream.guessed_rate or stream.base_rate or 25)
    name, aspect = frame.format.name, Fraction(stream.sample_aspect_ratio or 1)
    mastering, light = mastering_of(frame)
    return ClipInfo(
        width=width,
        height=height,
        time_base=time_base,
        rate=rate,
        frames=stream.frames or None,
        start=(stream.start_time or 0) * time_base,
        duration=_duration(container, stream),
        pixel_format=name,
        bits=bits_of(name),
        marks=marks_of(frame, stream),
        rotation=rotation,
        interlaced=bool(frame.interlaced_frame),
        alpha=has_alpha(name) or wants_alpha_decoder(stream),
        sample_aspect=1 / aspect if rotation in (90, 270) else aspect,
        codec=stream.codec_context.codec.canonical_name,
        container=container.format.name,
        mastering=mastering,
        light=light,
        streams=tuple(_describe_stream(each) for each in container.streams if each.type in ("audio", "subtitle")),
    )


def wants_alpha_decoder(stream: VideoStream) -> bool:
    """True for VP8 and VP9 with transparency, which FFmpeg's own decoders leave out and libvpx does not."""
    return stream.metadata.get("alpha_mode", stream.metadata.get("ALPHA_MODE")) == "1" and stream.codec_context.codec.canonical_name in (
        "vp8",
        "vp9",
    )


def _first_frame(container: InputContainer, stream: VideoStream, source: ClipSource) -> VideoFrame:
    """Decode one frame; FaceLoomError where the clip has none."""
    av = require_av()
    reason = "there are none"
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as error:  # a damaged beginning: a later frame will do
                reason = reason_of(error)
                continue
            if frames:
                return frames[0]
    except (av.error.FFmpegError, OSError) as error:
        reason = reason_of(error)
    raise FaceLoomError(f"{name_of(source)} has no frame that can be decoded ({reason}).")


def marks_of(frame: VideoFrame, stream: VideoStream) -> ColorMarks:
    """Return the colour marks of a clip, from its first frame, and from its headers where the frame has none. Range is always known: what
    is not marked is limited, but for RGB and the "yuvj" formats."""
    name = frame.format.name
    context = stream.codec_context
    marked = frame.color_range or context.color_range
    full = is_full_range(name) if not marked else marked == 2
    matrix = _either(frame.colorspace, context.colorspace)
    return ColorMarks(
        primaries=_either(frame.color_primaries, context.color_primaries),
        transfer=_either(frame.color_trc, context.color_trc),
        matrix=0 if is_rgb(name) else UNSPECIFIED if matrix == 0 else matrix,
        full_range=full,
    )


def _either(first: int, second: int) -> int:
    """Return the first mark that says something; 0 (reserved) and 2 say nothing, but a matrix of 0 is RGB's."""
    return int(second) if int(first) == UNSPECIFIED else int(first)


def _duration(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Return the seconds a video stream lasts, or those of the whole file, or None."""
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    return Fraction(container.duration, 1_000_000) if container.duration else None


def _describe_stream(stream) -> StreamInfo:
    """Return what a sound or subtitle stream is. Streams without a decoder are copied all the same."""
    context = stream.codec_context
    codec = context.name if context is not None else "unknown"
    return StreamInfo(stream.index, stream.type, codec, stream.language or "", int(getattr(stream, "bit_rate", 0) or 0))


def count_frames(source: ClipSource) -> int:
    """Count a clip's frames without decoding them."""
    if is_paged(source):
        return probe_pages(source)["frames"]
    av = require_av()
    with open_clip(source) as container:
        stream = video_stream(container, source)
        try:
            return sum(packet.size > 0 and not packet.is_discard for packet in container.demux(stream))
        except (av.error.FFmpegError, OSError) as error:
            raise FaceLoomError(f"{name_of(source)} is damaged ({reason_of(error)}).") from error


def effective_matrix(info: ClipInfo) -> int:
    """Return the matrix by which a clip's YUV is read: the marked one; unmarked, that of HDR or, by the size, of HD or of standard
    definition, as players do."""
    if info.marks.matrix != UNSPECIFIED:
        return info.marks.matrix
    if info.hdr or info.marks.primaries == BT2020:
        return BT2020
    return BT709 if max(info.width, info.height) >= 1280 or min(info.width, info.height) > 576 else 6
