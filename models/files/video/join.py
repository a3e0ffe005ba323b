"""Joins encoded segments, and the sound and subtitles of the source, into the final file without encoding anything again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import FaceLoomError
from ..cache import replacement_path
from .info import ClipInfo, count_frames
from .library import ClipSource, open_clip, require_av, video_stream, writing_to
from .segments import Segment, packets_of
from .settings import EncodePlan, check_room

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.stream import Stream

# Said by the container itself, or no longer true.
_DROPPED_TAGS = {
    "encoder",
    "major_brand",
    "minor_version",
    "compatible_brands",
    "duration",
    "rotate",
    "number_of_frames",
    "number_of_bytes",
    "bps",
    "creation_time_source",
    "alpha_mode",
}
_Timed = tuple[Fraction, "Packet"]


def join_segments(
    path: Path,
    folder: Path,
    segments: list[Segment],
    plan: EncodePlan,
    info: ClipInfo,
    copied: ClipSource | None,
    window: tuple[Fraction | None, Fraction | None],
) -> None:
    """Write the final file, whole or not at all. copied: the source whose sound and subtitles come along, or None. window: the section
    (seconds of the source's clock) that the frames were taken from; times in the file count from its start, or are the source's own where
    it has none."""
    sound = sum(stream.bit_rate for stream in info.streams) * float(info.duration or 0) / 8 if copied is not None else 0
    check_room(path.parent, int(sum(segment.bytes for segment in segments) * 1.02 + sound) + (1 << 20))
    with replacement_path(path, folder) as temporary:
        with writing_to(path):
            _mux(temporary, folder, segments, plan, copied, window)
        if count_frames(temporary) != sum(len(segment.pts) for segment in segments):
            raise FaceLoomError(f"{path} could not be written to the end; is the disk of {path.parent} full?")


def _mux(
    temporary: Path,
    folder: Path,
    segments: list[Segment],
    plan: EncodePlan,
    copied: ClipSource | None,
    window: tuple[Fraction | None, Fraction | None],
) -> None:
    """Write the file under a temporary name."""
    av = require_av()
    options = {"video_track_timescale": str(plan.time_base.denominator), "movflags": "faststart+use_metadata_tags"}
    options = options if plan.format in ("mp4", "mov") else {}
    with ExitStack() as stack:
        source = stack.enter_context(open_clip(copied)) if copied is not None else None
        first = stack.enter_context(av.open(f"file:{folder / segments[0].file}"))
        output = stack.enter_context(av.open(f"file:{temporary}", "w", format=plan.format, options=options))
        video = output.add_stream_from_template(first.streams.video[0], opaque=True)
        video.time_base = plan.time_base
        if plan.codec == "vp9" and plan.layout.alpha:
            video.metadata["alpha_mode"] = "1"
        streams = _copied_streams(source, output, video, copied, plan.keep_tags) if source is not None and copied is not None else {}
        output.metadata.update(plan.tags)
        shift = window[0] or Fraction(0)
        if source is not None and plan.keep_tags and hasattr(output, "set_chapters"):  # PyAV 15 and later
            output.set_chapters(_moved_chapters(source.chapters(), shift, window[1]))
        output.start_encoding()
        timed = _video_packets(folder, segments, plan, shift, video)
        if source is not None and streams:
            timed = _merge(timed, _copied_packets(source, streams, shift, window[1], plan.format))
        for _, packet in timed:
            output.mux(packet)


def _copied_streams(source: InputContainer, output: OutputContainer, video: Stream, name: ClipSource, keep_tags: bool) -> dict[int, Stream]:
    """Make a stream in the output for each of sound and subtitles, and copy tags, all or only the languages. Returns the streams by their
    number in the source."""
    made = {}
    for stream in source.streams:
        if stream.type in ("audio", "subtitle"):
            made[stream.index] = output.add_stream_from_template(stream, opaque=True)
            made[stream.index].disposition = stream.disposition
            tags = stream.metadata if keep_tags else {key: value for key, value in stream.metadata.items() if key == "language"}
            _copy_tags(tags, made[stream.index].metadata)
    if keep_tags:
        _copy_tags(source.metadata, output.metadata)
        _copy_tags(video_stream(source, name).metadata, video.metadata)
    return made


def _moved_chapters(chapters: list, shift: Fraction, end: Fraction | None) -> list:
    """Return the chapters of a section, moved to its start."""
    moved = []
    for chapter in chapters:
        base = chapter["time_base"] or Fraction(1, 1_000_000)
        first = max(round(shift / base), chapter["start"])
        last = chapter["end"] if end is None else min(round(end / base), chapter["end"])
        if first < last:
            moved.append({**chapter, "start": first - round(shift / base), "end": last - round(shift / base)})
    return moved


def _copy_tags(source: dict, target: dict) -> None:
    """Copy the tags that still hold."""
    for key, value in source.items():
        if key.lower() not in _DROPPED_TAGS and not key.startswith(("BPS", "NUMBER_OF", "_STATISTICS", "DURATION")):
            target[key] = value


def _video_packets(folder: Path, segments: list[Segment], plan: EncodePlan, shift: Fraction, stream: Stream) -> Iterator[_Timed]:
    """Give the encoded frames in the order they are decoded, with the very times they were written with."""
    base = Fraction(1, 1000) if plan.format in ("matroska", "webm") else plan.time_base  # Matroska counts milliseconds
    times, end = frame_times(segments, plan.time_base, base, shift)
    order = [before + place for before, segment in _starts(segments) for place in segment.order]
    delay = max(place - shown for place, shown in enumerate(order))
    delay = max(delay, 0)
    step = times[1] - times[0] if len(times) > 1 else 1
    early = [times[0] - step * (delay - place) for place in range(delay)]
    for place, (packet, shown) in enumerate(packets_of(folder, segments)):
        packet.stream = stream
        packet.time_base = base
        packet.pts = times[shown]
        packet.dts = early[place] if place < delay else times[place - delay]
        packet.duration = (times[shown + 1] if shown + 1 < len(times) else end) - times[shown]
        yield packet.dts * base, packet


def frame_times(segments: list[Segment], ticks: Fraction, base: Fraction, shift: Fraction) -> tuple[list[int], int]:
    """Return when each frame is shown, in units of ``base``, and when the last one ends; rising by at least one unit."""
    times: list[int] = []
    for segment in segments:
        for pts in segment.pts:
            at = round((pts * ticks - shift) / base)
            times.append(max(at, times[-1] + 1) if times else at)
    return times, times[-1] + max(1, round(segments[-1].last_duration * ticks / base))


def _starts(segments: list[Segment]) -> Iterator[tuple[int, Segment]]:
    """Give each segment with the number of its first frame."""
    before = 0
    for segment in segments:
        yield before, segment
        before += len(segment.pts)


def _copied_packets(
    source: InputContainer, streams: dict[int, Stream], shift: Fraction, end: Fraction | None, format_name: str
) -> Iterator[_Timed]:
    """Give the packets of sound and subtitles that belong to the section, bit for bit, moved to its start.

    Sound begins with the first packet that starts in the section; a subtitle that is shown when it starts is kept for the rest of its time.
    """
    trimmed = shift > 0
    if trimmed:
        source.seek(max(0, int((shift - 10) * 1_000_000)), backward=True)
    last = Fraction(0)
    for packet in source.demux([source.streams[index] for index in streams]):
        if not packet.size or (packet.pts is None and packet.dts is None):
            continue
        base, length = packet.time_base, packet.duration or 0
        pts = packet.pts if packet.pts is not None else packet.dts
        assert pts is not None
        if end is not None and pts * base >= end:
            continue
        if trimmed:
            moved = round(shift / base)
            late = moved - pts
            if late > 0 and (packet.stream.type != "subtitle" or late >= length):
                continue
            pts, packet.duration = max(pts - moved, 0), length - max(late, 0)
            packet.pts = pts
            packet.dts = max((packet.dts if packet.dts is not None else pts + moved) - moved, 0)
        last = max(last, (packet.dts if packet.dts is not None else pts) * base)
        packet.stream = streams[packet.stream.index]
        yield last, packet


def _merge(one: Iterator[_Timed], other: Iterator[_Timed]) -> Iterator[_Timed]:
    """Give the packets of both in the order of their times."""
    first, second = next(one, None), next(other, None)
    while first is not None or second is not None:
        if second is None or (first is not None and first[0] <= second[0]):
            assert first is not None
            yield first
            first = next(one, None)
        else:
            yield second
            second = next(other, None)
