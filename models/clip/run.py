"""Both passes over the file of a clip: who is in it, and the frames with their new faces into a writer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from ..detect import Detector
from ..detect.seen import as_seen
from ..errors import FaceLoomError
from ..faces import Faces
from ..files.video import AnimationWriter, ClipFrame, ClipInfo, ClipWriter, put_back, read_frames, tone_mapped
from ..files.video.library import ClipSource, name_of
from ..identity import Recognizer
from ..progress import Progress, silent
from .find import ClipSearch, FoundFaces, find_faces
from .swap import ClipSwapper, swap_frames


@dataclass(frozen=True)
class Section:
    """Which frames of a clip are taken. start, end: seconds of its own clock, None for its beginning and its end. keep_damaged: what can be
    decoded of a damaged clip is taken, instead of an error."""

    start: float | None = None
    end: float | None = None
    keep_damaged: bool = False


WHOLE = Section()


@dataclass(eq=False)
class _Seen:
    """A frame as detectors and swap engines see it: in standard range."""

    frame: ClipFrame
    info: ClipInfo
    shown: torch.Tensor | None = None

    def image(self) -> torch.Tensor:
        """Return ``[H, W, 3]`` float32 0..1, made once."""
        if self.shown is None:
            self.shown = tone_mapped(self.frame.image(), self.info.marks.transfer, self.info.marks.primaries)
        return self.shown


# watch(done, total, picture): is called after every frame; ``picture()`` gives it as ``[H, W, 3]`` float32 0..1 in standard range.
Watch = Callable[[int, int, Callable[[], torch.Tensor]], object]


def unwatched(done: int, total: int, picture: Callable[[], torch.Tensor]) -> None:
    """The watcher where nobody looks on."""


def find_in_clip(source: ClipSource, search: ClipSearch, detector: Detector | None = None, recognizer: Recognizer | None = None, *,
                 section: Section = WHOLE, progress: Progress = silent) -> FoundFaces:
    """Find and follow the faces of a clip, frame by frame, and note when each frame is shown.

    source: path or BytesIO. detector, recognizer: None is dlib. progress: of frames; may raise to end the work. FaceLoomError where the
    clip cannot be read.
    """
    times: list[float] = []
    with read_frames(source, section.start, section.end, keep_damaged=section.keep_damaged) as frames:

        def images() -> Iterator[torch.Tensor]:
            for frame in frames:
                times.append(frame.time)
                image, alpha = _Seen(frame, frames.info).image(), frame.alpha()
                yield image if alpha is None else as_seen(image[None], alpha)[0]

        found = find_faces(images(), search, detector, recognizer, count=frames.info.frames or 0, progress=progress)
    return replace(found, times=tuple(times))


def swap_clip(source: ClipSource, writer: ClipWriter | AnimationWriter, swapper: ClipSwapper, *, section: Section = WHOLE,
              watch: Watch = unwatched, progress: Progress = silent) -> None:
    """Read a clip again and give the writer every frame, with new faces where there are some, from where the writer's earlier run stopped.

    writer: open; the caller finishes it. section: the one in which the faces were found. watch, progress: of the clip's frames, and of the
    faces of those that are worked on together; may raise to end the work. FaceLoomError where the clip is not the one of the faces.
    """
    faces, first = swapper.faces, writer.frames_done
    with read_frames(source, section.start, section.end, after=writer.last_pts, first_index=first, convert=swapper.has_faces,
                     keep_damaged=section.keep_damaged) as frames:
        _check_size(faces, frames.info, source)
        done = first
        for seen, image in swap_frames((_Seen(frame, frames.info) for frame in frames), swapper, first, progress=progress):
            if done == faces.frames:
                raise FaceLoomError(f"{name_of(source)} has more than the {faces.frames} frames in which the faces were found; find them "
                                    "in the same clip and section.")
            _write(writer, seen, image, swapper, done)
            done += 1
            watch(done, faces.frames, seen.image if image is None else lambda image=image: image)
    if done != faces.frames:
        raise FaceLoomError(f"{name_of(source)} has {done} frames, but the faces were found in {faces.frames}; find them in the same clip "
                            "and section.")


def _check_size(faces: Faces, info: ClipInfo, source: ClipSource) -> None:
    """Raise FaceLoomError unless faces were found in frames of this size."""
    if (faces.width, faces.height) != (info.width, info.height):
        raise FaceLoomError(f"The faces come from frames of {faces.width}×{faces.height}, but {name_of(source)} has {info.width}×"
                            f"{info.height}; connect the clip in which they were found.")


def _write(writer: ClipWriter | AnimationWriter, seen: _Seen, image: torch.Tensor | None, swapper: ClipSwapper, number: int) -> None:
    """Give a frame to the writer, in the clip's own range."""
    if image is None:
        writer.write(seen.frame)
        return
    top, bottom, left, right = within = swapper.window(number)
    if seen.info.hdr:
        own, part = seen.frame.image(), (slice(top, bottom), slice(left, right))
        own[part] = put_back(own[part], seen.image()[part], image[part], seen.info.marks)
        image = own
    writer.write(seen.frame, image, within=within)
