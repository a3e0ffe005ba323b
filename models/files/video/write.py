"""Writes a clip: encodes frames on a thread of its own, in segments that survive a broken-off run, and joins them with the source's
sound."""

from __future__ import annotations

import re
import secrets
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from ...errors import FaceLoomError
from .frame import ClipFrame
from .info import ClipInfo
from .join import join_segments
from .library import ClipSource
from .patch import Part, frame_to_encode
from .planes import same_range_reformat
from .segments import SegmentEncoder, finished_segments
from .settings import EncodeSettings, check_output, make_plan
from .threads import Worker

_NAME = 40  # characters of the clip's name in that of its folder: names may have 255 bytes, and a character four


@dataclass(frozen=True)
class _Job:
    """A frame to encode, and what was changed of it."""

    frame: ClipFrame
    image: torch.Tensor | None
    alpha: torch.Tensor | None
    part: Part | None


class ClipWriter:
    """Writes the frames of a clip to a video file.

    A context: what it holds becomes the file when the block ends well, and is thrown away when it does not, but for the finished segments
    of a run with a ``key``. With the same key a second run goes on: ``frames_done`` frames are already encoded, the last of them shown at
    ``last_pts``, and ``write`` expects the one after it. ``folder`` may hold further files of the run; it goes when the clip is finished.
    """

    def __init__(
        self,
        path: str | Path,
        source: ClipSource | None,
        info: ClipInfo,
        settings: EncodeSettings | None = None,
        *,
        window: tuple[float | Fraction | None, float | Fraction | None] = (None, None),
        key: str | None = None,
        resume: bool = True,
        waiting: int = 4,
    ):
        """Check that the clip can be written, and begin. path: .mp4, .m4v, .mov, .mkv or .webm. source, info: the clip the frames come
        from; its sound and subtitles are copied. window: start and end (seconds of the source's clock) of the section the frames come from.
        key: a sha256 (64 hexadecimal digits) of the file's name and whatever decides what the frames look like. waiting: how many frames
        may wait for the encoder. resume: False begins anew though there are finished segments. FaceLoomError as of ``check_output``."""
        self.settings = settings or EncodeSettings()
        self.path = Path(path)
        check_output(self.path, source, info, self.settings)
        self.plan = make_plan(self.path, info, self.settings)
        self._info, self._window = info, (_fraction(window[0]), _fraction(window[1]))
        self._copied = source if self.settings.streams == "copy" and not info.is_animation else None
        self._keep = key is not None
        self.folder = self.path.with_name(f".{self.path.name[:_NAME]}.{key or secrets.token_hex(4)}.parts")
        if not resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._segments = finished_segments(self.folder) if self._keep else []
        self._last_pts: int | None = self.last_pts
        self._encoder: SegmentEncoder | None = None
        self._worker: Worker[_Job] = Worker(self._encode, waiting)
        self._open = True

    def other_runs(self) -> list[Path]:
        """Return the folders that runs with other keys left when they were broken off; of a name too long to be told from others, none."""
        if len(self.path.name) > _NAME:
            return []
        name = re.compile(rf"[.]{re.escape(self.path.name)}[.][0-9a-f]{{64}}[.]parts")
        return [folder for folder in sorted(self.path.parent.glob(".*.parts")) if folder != self.folder and name.fullmatch(folder.name)]

    @property
    def frames_done(self) -> int:
        """How many frames are in finished segments."""
        return sum(len(segment.pts) for segment in self._segments)

    @property
    def last_pts(self) -> int | None:
        """When the last frame of the finished segments is shown, in the source's ticks; None where there is none."""
        return self._segments[-1].pts[-1] if self._segments else None

    def write(
        self, frame: ClipFrame, image: torch.Tensor | None = None, alpha: torch.Tensor | None = None, part: Part | None = None
    ) -> None:
        """Add a frame. image: ``[H, W, 3]`` float32 in 0..1, or None where nothing was changed; pixels equal to the frame's own are written
        as they were decoded. part: rows and columns, where ``image`` is only that part of the frame. alpha: ``[H, W]``, or None to keep the
        frame's. None of it may be changed afterwards. FaceLoomError where an earlier frame could not be written."""
        if self._last_pts is not None and frame.pts <= self._last_pts:
            raise FaceLoomError(f"Frame {frame.index} is not later than the one before it; give frames in the order they are shown.")
        self._last_pts = frame.pts
        self._worker.put(_Job(frame, image, alpha, part))

    def _encode(self, job: _Job) -> None:
        """Encode a frame, on the worker's thread, and close the segment when it is full."""
        if self._encoder is None:
            self._encoder = SegmentEncoder(self.folder, len(self._segments), self.plan)
        colors = (self.plan.matrix, self.plan.marks.full_range)
        frame = frame_to_encode(job.frame, job.image, job.alpha, self.plan.layout, colors, job.part)
        if self.plan.pixel_format != self.plan.layout.name:
            frame = same_range_reformat(frame, self.plan.pixel_format)
        self._encoder.encode(frame, job.frame.pts, job.frame.duration)
        if self._encoder.count == self.settings.segment_frames:
            self._finish_segment()

    def _finish_segment(self) -> None:
        """Close the segment that is open, if one is."""
        if self._encoder is not None:
            self._segments.append(self._encoder.finish())
            self._encoder = None

    def finish(self) -> None:
        """Encode what waits, join everything into the final file and remove the folder of the run, and those that ``other_runs`` names."""
        self._worker.finish()
        self._open = False
        self._finish_segment()
        if not self._segments:
            raise FaceLoomError(f"{self.path} was not written: no frame was given.")
        join_segments(self.path, self.folder, self._segments, self.plan, self._info, self._copied, self._window)
        for folder in [self.folder, *(self.other_runs() if self._keep else [])]:
            shutil.rmtree(folder, ignore_errors=True)

    def discard(self) -> None:
        """Stop, and throw away what was written, finished segments too."""
        self.abort()
        shutil.rmtree(self.folder, ignore_errors=True)

    def abort(self) -> None:
        """Stop. Finished segments stay where the run has a key."""
        self._open = False
        self._worker.cancel()
        if self._encoder is not None:
            self._encoder.discard()
            self._encoder = None
        if not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._open:
                self.finish()
        except BaseException:
            self.abort()
            raise
        if kind is not None:
            self.abort()


def _fraction(seconds: float | Fraction | None) -> Fraction | None:
    return None if seconds is None else Fraction(seconds)
