"""Chooses how a clip is encoded: codec, container, pixel format and the encoder's options; and tells before the work whether it can be
done."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import FaceLoomError
from ...options.clip import CODECS, CONTAINERS
from ..cache import check_writable
from .info import ClipInfo, effective_matrix
from .library import ClipSource, open_clip, reason_of, require_av
from .marks import BT709, RGB, UNSPECIFIED, ColorMarks
from .pixel_formats import Layout, choose, nearest_planar

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.codeccontext import VideoCodecContext


@dataclass(frozen=True)
class _Encoder:
    """An encoder: FFmpeg's name, the range and default of its quality, options, whether sides must fit its subsampling, containers it goes
    into."""

    name: str
    quality: tuple[float, float, float] | None
    options: Mapping[str, str] = field(default_factory=dict)
    even: bool = False
    suffixes: tuple[str, ...] = (".mp4", ".mov", ".mkv")


# What is offered, in the order of the choices. Quality is the encoder's constant rate factor: (smallest, largest, default); lower is
# better.
_ENCODERS = {
    "h264": _Encoder("libx264", (0, 51, 17), {"preset": "medium"}, even=True),
    "hevc": _Encoder("libx265", (0, 51, 19), {"preset": "medium"}, even=True),
    "av1": _Encoder("libsvtav1", (1, 63, 22), {"preset": "7"}, suffixes=(".mp4", ".mkv", ".webm")),
    "vp9": _Encoder(
        "libvpx-vp9", (0, 63, 20), {"b": "0", "row-mt": "1", "cpu-used": "3", "auto-alt-ref": "0"}, suffixes=(".webm", ".mkv", ".mp4")
    ),
    "prores": _Encoder("prores_ks", None, {"vendor": "apl0"}, even=True, suffixes=(".mov", ".mkv")),
    "ffv1": _Encoder("ffv1", None, {"level": "3", "g": "1", "slicecrc": "1"}, suffixes=(".mkv",)),
}
ANIMATIONS = (".gif", ".png", ".apng", ".webp", ".tif", ".tiff")

# FFV1 takes RGB of 8 bits packed only.
_PACKED = {"gbrp": "bgr0", "gbrap": "bgra"}

_SOON = 1000  # packets of sound and subtitles
_LEAST_FREE = 32 << 20  # bytes; with less room on the disk no clip is begun


@dataclass(frozen=True)
class EncodeSettings:
    """How a clip is encoded.

    codec: one of ``CODECS``; "auto" takes the source's own, or H.264 where that cannot be written. quality: the encoder's constant rate
    factor (lower is better; None for its default; ProRes and FFV1 have none). streams: "copy" the sound and subtitles, or "none". options:
    further options of the encoder by FFmpeg's names. segment_frames: after how many frames a new segment begins; what a broken-off run
    keeps is whole segments, so that it goes on at a multiple of this. keep_tags: what the source says about itself (title, date, place and
    the like) is copied with its sound; the languages of its streams always are. tags: what is said about the new file besides.
    """

    codec: str = "auto"
    quality: float | None = None
    streams: str = "copy"
    options: Mapping[str, str] = field(default_factory=dict)
    segment_frames: int = 256
    keep_tags: bool = True
    tags: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise FaceLoomError where a value is out of range."""
        if self.codec not in CODECS:
            raise FaceLoomError(f"There is no codec {self.codec!r}; choose {', '.join(CODECS)}.")
        if self.streams not in ("copy", "none"):
            raise FaceLoomError(f"Sound and subtitles can be 'copy' or 'none', not {self.streams!r}.")
        if self.segment_frames < 1:
            raise FaceLoomError("A segment has at least one frame.")
        if self.quality is None or self.codec == "auto":
            return
        limits = _ENCODERS[self.codec].quality
        if limits is None:
            raise FaceLoomError(f"{self.codec} has no quality to choose; leave it out, or choose another codec.")
        if not limits[0] <= self.quality <= limits[1]:
            raise FaceLoomError(
                f"The quality of {self.codec} lies between {limits[0]:g} and {limits[1]:g} (lower is better), not at {self.quality:g}."
            )


@dataclass(frozen=True)
class EncodePlan:
    """What was chosen: container format, encoder, planar layout and the encoder's name for it (or for its packed twin), colour marks and
    the encoder's options, for frames of this size and rate. keep_tags, tags: see ``EncodeSettings``."""

    format: str
    codec: str
    encoder: str
    layout: Layout
    pixel_format: str
    marks: ColorMarks
    matrix: int
    options: dict[str, str]
    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    sample_aspect: Fraction
    keep_tags: bool = True
    tags: Mapping[str, str] = field(default_factory=dict)

    def open_encoder(self) -> VideoCodecContext:
        """Open the encoder; FaceLoomError where it cannot encode frames like these."""
        av = require_av()
        context = av.CodecContext.create(self.encoder, "w")
        self.configure(context)
        try:
            context.open()
        except (av.error.FFmpegError, ValueError) as error:
            raise FaceLoomError(
                f"{self.codec} cannot encode {self.width}x{self.height} in {self.layout.name} ({reason_of(error)}); choose another codec."
            ) from error
        return context

    def configure(self, context: VideoCodecContext) -> None:
        """Give an encoder that is not yet open everything it has to know."""
        if self.encoder == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # the library prints its settings to the terminal unless told otherwise
        context.width, context.height, context.pix_fmt = self.width, self.height, self.pixel_format
        context.time_base, context.framerate = self.time_base, self.rate
        context.sample_aspect_ratio = self.sample_aspect
        context.color_range = 2 if self.marks.full_range else 1
        context.color_primaries, context.color_trc = self.marks.primaries, self.marks.transfer
        context.colorspace = self.marks.matrix
        context.options = dict(self.options)
        if self.encoder == "libx265" and self.format in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # the only one that Apple's players take
        if self.format in ("mp4", "mov", "matroska", "webm"):
            context.flags |= 1 << 22  # headers go into the container: AV_CODEC_FLAG_GLOBAL_HEADER


def make_plan(path: str | Path, info: ClipInfo, settings: EncodeSettings) -> EncodePlan:
    """Choose container, encoder, pixel format and options. FaceLoomError where the suffix is unknown, the encoder is missing or cannot do
    it."""
    settings.check()
    suffix = Path(path).suffix.lower()
    if suffix not in CONTAINERS:
        raise FaceLoomError(f"{path} cannot be written: clips are written as {', '.join((*CONTAINERS, *ANIMATIONS))}.")
    codec = settings.codec if settings.codec != "auto" else _auto_codec(info, suffix)
    replace(settings, codec=codec).check()
    encoder = _ENCODERS[codec]
    if (".mp4" if suffix == ".m4v" else suffix) not in encoder.suffixes:
        raise FaceLoomError(
            f"{codec} cannot be written to a {suffix} file; name the output {' or '.join(encoder.suffixes)}, or choose another codec."
        )
    layout = _layout(encoder, info, suffix)
    marks, matrix = _marks(info, layout)
    options = _options(codec, encoder, info, settings, layout)
    return EncodePlan(
        CONTAINERS[suffix],
        codec,
        encoder.name,
        layout,
        _PACKED.get(layout.name, layout.name),
        marks,
        matrix,
        options,
        info.width,
        info.height,
        info.time_base,
        info.rate,
        info.sample_aspect,
        settings.keep_tags,
        settings.tags,
    )


def suffix_for(info: ClipInfo, codec: str) -> str:
    """Return the suffix of a file that holds the clip encoded by ``codec`` (of ``CODECS``): the source's own kind where that can."""
    if "matroska" in info.container:
        codecs = {info.codec, *(stream.codec for stream in info.streams)}
        own = ".webm" if codecs <= {"vp8", "vp9", "av1", "opus", "vorbis", "webvtt"} else ".mkv"
    else:
        own = ".mp4"
    if codec == "auto":
        return own
    offered = _ENCODERS[codec].suffixes
    return own if own in offered else ".mkv" if own == ".webm" and ".mkv" in offered else offered[0]


def quality_of(codec: str) -> tuple[float, float, float] | None:
    """Return the range and the default of a codec's quality (smallest, largest, default; lower is better); None where it has none."""
    return _ENCODERS[codec].quality


def _auto_codec(info: ClipInfo, suffix: str) -> str:
    """Return the source's own codec where it can be written into such a file, else one that everybody plays."""
    own = {"h265": "hevc"}.get(info.codec, info.codec)
    if own in _ENCODERS and suffix in _ENCODERS[own].suffixes:
        return own
    if suffix == ".webm":
        return "vp9" if info.bits == 8 else "av1"
    return "h264"


def _layout(encoder: _Encoder, info: ClipInfo, suffix: str) -> Layout:
    """Return the pixel format to encode in; FaceLoomError where this FFmpeg has no such encoder."""
    av = require_av()
    try:
        offered = [str(pixel.name) for pixel in av.Codec(encoder.name, "w").video_formats or ()]
    except ValueError as error:  # UnknownCodecError
        raise FaceLoomError(
            f"The installed PyAV has no encoder {encoder.name}; choose another codec, or python -m pip install -U av."
        ) from error
    wanted = nearest_planar(info.pixel_format)
    if encoder.name == "ffv1":
        offered = [{packed: planar for planar, packed in _PACKED.items()}.get(name, name) for name in offered]
    wanted = replace(wanted, alpha=wanted.alpha or info.alpha)  # VP9's own pixel format does not tell
    if encoder.name == "libvpx-vp9":  # it lists more formats with alpha than it opens, and MP4 has no place for them
        offered = [name for name in offered if "yuva" not in name or (name == "yuva420p" and suffix != ".mp4")]
    if wanted.family == "gbr" and encoder.name not in (
        "ffv1",
    ):  # RGB in other codecs is played by few: full chroma for pictures would be too
        wanted = Layout("yuv", wanted.bits, wanted.alpha, 1, 1) if encoder.name != "prores_ks" else Layout("yuv", wanted.bits, wanted.alpha)
    if encoder.name in ("libx265", "libx264"):  # alpha in HEVC is a second layer that only Apple's players show
        offered = [name for name in offered if "yuva" not in name and "gbr" not in name]
    layout = choose(wanted, offered, info.width, info.height, encoder.even)
    if layout is not None and layout.bits < min(wanted.bits, 10):
        raise FaceLoomError(
            f"The installed {encoder.name} encodes {layout.bits} bits only and the clip has {wanted.bits}; choose another codec."
        )
    if layout is None:
        raise FaceLoomError(f"{encoder.name} offers no pixel format for {info.width}x{info.height}; choose another codec.")
    return layout


def _marks(info: ClipInfo, layout: Layout) -> tuple[ColorMarks, int]:
    """Return the marks to write and the matrix to convert by. The source's marks stay; RGB that becomes YUV is marked BT.709, limited."""
    marks = info.marks
    if layout.family == "gbr":
        return ColorMarks(marks.primaries, marks.transfer, RGB, True), RGB
    if marks.matrix == RGB:
        primaries = marks.primaries if marks.primaries != UNSPECIFIED else BT709
        return ColorMarks(primaries, marks.transfer, BT709, False), BT709
    return marks, effective_matrix(info)


def _options(codec: str, encoder: _Encoder, info: ClipInfo, settings: EncodeSettings, layout: Layout) -> dict[str, str]:
    """Return the encoder's options: quality, HDR data, and what the user adds."""
    options = dict(encoder.options)
    if encoder.quality:
        options["crf"] = f"{encoder.quality[2] if settings.quality is None else settings.quality:g}"
    if codec == "prores":
        options["profile"] = "4444" if not layout.sub_x else "hq"
        options["alpha_bits"] = "16" if layout.alpha else "0"
    if codec == "hevc":
        options["x265-params"] = ":".join(["log-level=error", *_hdr_options(info, "master-display", "max-cll")])
    elif codec == "h264":
        # With its macroblock tree x264 gives another file each time (3 of 6 runs at 360x202 differed), and a run that goes on has to give
        # the same.
        options["x264-params"] = ":".join(["mbtree=0", *_hdr_options(info, "mastering-display", "cll")])
    elif codec == "av1" and info.mastering:
        options["svtav1-params"] = ":".join(_av1_hdr(info))
    return {**options, **settings.options}


def _hdr_options(info: ClipInfo, display: str, light: str) -> list[str]:
    """Return x264's and x265's way to say the mastering display and the light levels."""
    found = [f"{display}={info.mastering}"] if info.mastering else []
    return [*found, f"{light}={info.light}"] if info.light else found


def _av1_hdr(info: ClipInfo) -> list[str]:
    """Return SVT-AV1's way to say the same: decimal fractions."""
    numbers = list(map(int, re.findall(r"\d+", info.mastering)))
    points = "".join(
        f"{name}({numbers[at] / 50_000:.5f},{numbers[at + 1] / 50_000:.5f})" for name, at in (("G", 0), ("B", 2), ("R", 4), ("WP", 6))
    )
    found = [f"mastering-display={points}L({numbers[8] / 10_000:.4f},{numbers[9] / 10_000:.4f})"]
    return [*found, f"content-light={info.light}"] if info.light else found


def check_output(path: str | Path, source: ClipSource | None, info: ClipInfo, settings: EncodeSettings) -> None:
    """Raise FaceLoomError where the clip could not be written in the end, before any work: suffix, encoder, folder, room on the disk, and
    sound or subtitles that such a file cannot hold. source: whose sound and subtitles are copied, or None."""
    path = Path(path)
    check_writable(path.parent)
    copied = sum(stream.bit_rate for stream in info.streams) * float(info.duration or 0) / 8 if settings.streams == "copy" else 0
    check_room(path.parent, int(_LEAST_FREE + copied))
    if path.suffix.lower() in ANIMATIONS:
        settings.check()
        return
    plan = make_plan(path, info, settings)
    plan.open_encoder()
    if source is not None and settings.streams == "copy" and not info.is_animation:
        _check_streams(path, source, plan.format)


def check_room(folder: Path, needed: int) -> None:
    """Raise FaceLoomError where the disk of a folder has less than ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise FaceLoomError(
            f"The disk of {folder} has {free >> 20} MB free and {(needed >> 20) + 1} MB are needed; make room or write elsewhere."
        )


def _check_streams(path: Path, source: ClipSource, format_name: str) -> None:
    """Try to write a file with the first packet of each of the streams that are copied."""
    av = require_av()
    with open_clip(source) as container:
        copied = [stream for stream in container.streams if stream.type in ("audio", "subtitle")]
        for stream, packet in _first_packets(container, copied):
            try:
                with av.open(io.BytesIO(), "w", format=format_name) as trial:
                    made = trial.add_stream_from_template(stream, opaque=True)
                    trial.start_encoding()
                    if packet is not None:  # some streams are refused at the end of a file only
                        packet.stream = made
                        trial.mux(packet)
            except (av.error.FFmpegError, ValueError) as error:
                codec = stream.codec_context.name if stream.codec_context is not None else "unknown"
                raise FaceLoomError(
                    f"{path.suffix} files cannot hold the source's {stream.type} ({codec}); name the output .mkv, or leave sound and "
                    "subtitles out."
                ) from error


def _first_packets(container: InputContainer, streams: list[Stream]) -> list[tuple[Stream, Packet | None]]:
    """Return each stream with its first packet, or None where none comes soon or the file is damaged there."""
    av = require_av()
    found: dict[int, Packet] = {}
    with suppress(av.error.FFmpegError):
        for packet in islice(container.demux(streams), _SOON if streams else 0):
            if packet.size and packet.dts is not None:
                found.setdefault(packet.stream.index, packet)
            if len(found) == len(streams):
                break
    return [(stream, found.get(stream.index)) for stream in streams]
