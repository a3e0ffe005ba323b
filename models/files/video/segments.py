"""Encodes a clip in segments, each a file of its own with a list of its frames' times beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..cache import read_json, write_json
from .info import count_frames
from .library import require_av, writing_to
from .settings import EncodePlan

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

# In a segment's file the times are only numbers: frame n stands at n, and is decoded this much earlier, so that no frame is shown before it
# is decoded.
_DECODE_DELAY = 32


@dataclass(frozen=True)
class Segment:
    """A finished segment: its file, the times of its frames in the order they are shown, their places in the order they are decoded, how
    long the last one is shown, the hash of the encoder's header (equal in all segments of a clip), and the size of the file."""

    file: str
    pts: list[int]
    order: list[int]
    last_duration: int
    header: str
    bytes: int


def finished_segments(folder: Path) -> list[Segment]:
    """Return the finished segments in a folder, up to the first that is missing, cut off, or made by another version of the encoder."""
    found: list[Segment] = []
    for number in range(1_000_000):
        try:
            segment = Segment(**read_json(_list_path(folder, number)))
        except TypeError:  # not there, or damaged
            break
        with suppress(OSError):
            if (folder / segment.file).stat().st_size == segment.bytes and segment.header == (found or [segment])[0].header:
                found.append(segment)
                continue
        break
    return found


def _list_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.json"


class SegmentEncoder:
    """Encodes the frames of one segment to a file in ``folder``; ``finish`` gives the segment."""

    def __init__(self, folder: Path, number: int, plan: EncodePlan):
        av = require_av()
        self._folder, self._number, self._plan = folder, number, plan
        self._file = f"{number:06d}.{plan.format}"
        self._path = folder / f"{self._file}.part"
        self._pts: list[int] = []
        self._order: list[int] = []
        self._last_duration = 1
        with writing_to(self._folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._container = av.open(f"file:{self._path}", "w", format=plan.format)
            self._stream = self._container.add_stream(plan.encoder, rate=plan.rate)
            plan.configure(self._stream.codec_context)
            self._stream.time_base = plan.time_base
            if plan.codec == "vp9" and plan.layout.alpha:
                self._stream.metadata["alpha_mode"] = "1"

    @property
    def count(self) -> int:
        """How many frames were given."""
        return len(self._pts)

    def encode(self, frame: VideoFrame, pts: int, duration: int) -> None:
        """Encode one frame that is shown at ``pts`` for ``duration`` ticks."""
        frame.pts, frame.time_base = pts - (self._pts or [pts])[0], self._plan.time_base
        frame.pict_type = 0  # type: ignore[assignment]  # what the source's encoder made of it is no order to ours
        self._pts.append(pts)
        self._last_duration = duration
        with writing_to(self._folder):
            self._mux(self._stream.encode(frame))

    def _mux(self, packets: list[Packet]) -> None:
        """Write packets under numbers instead of times, and note which frame each is."""
        places = {pts - self._pts[0]: place for place, pts in enumerate(self._pts)}
        for packet in packets:
            assert packet.pts is not None
            place = places[packet.pts]
            packet.time_base = 1 / self._plan.rate
            packet.pts, packet.dts, packet.duration = place, len(self._order) - _DECODE_DELAY, 1
            self._order.append(place)
            self._container.mux(packet)

    def finish(self) -> Segment:
        """Encode what the encoder still holds, close the file and list it as finished."""
        with writing_to(self._folder):
            self._mux(self._stream.encode(None))
            header = hashlib.sha256(self._stream.codec_context.extradata or b"").hexdigest()
            self._container.close()
            # What the last, unreported write left out is seen here.
            if count_frames(self._path) != len(self._pts) or len(self._order) != len(self._pts):
                raise OSError("some frames did not reach the disk")
            size = self._path.stat().st_size
            self._path.replace(self._folder / self._file)
        segment = Segment(self._file, self._pts, self._order, self._last_duration, header, size)
        write_json(_list_path(self._folder, self._number), asdict(segment))
        return segment

    def discard(self) -> None:
        """Close and delete the unfinished file."""
        with suppress(Exception):
            self._container.close()
        self._path.unlink(missing_ok=True)


def packets_of(folder: Path, segments: list[Segment]) -> Iterator[tuple[Packet, int]]:
    """Read the packets of all segments in the order they are decoded, each with its frame's number in the clip."""
    av = require_av()
    before = 0
    for segment in segments:
        with av.open(
            f"file:{folder / segment.file}", options={"ignore_editlist": "1"} if segment.file.endswith(("mp4", "mov")) else {}
        ) as container:
            packets = (packet for packet in container.demux(container.streams.video[0]) if packet.size)
            for place, packet in zip(segment.order, packets):
                yield packet, before + place
        before += len(segment.pts)
