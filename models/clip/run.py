"""Both passes over the file of a clip: who is in it, and the frames with their new faces into a writer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

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
from .frames import Patch, swap_frames
from .swap import Box, ClipSwapper


@dataclass(frozen=True)
class Section:
    """Which frames of a clip are taken. start, end: seconds of its own clock, None for its beginning and its end. keep_damaged: what can be
    decoded of a damaged clip is taken, instead of an error."""

    start: float | None = None
    end: float | None = None
    keep_damaged: bool = False


WHOLE = Section()


@dataclass(frozen=True, eq=False)
class _Seen:
    """A frame as detectors and swap engines see it: in standard range."""

    frame: ClipFrame
    info: ClipInfo

    def image(self, box: Box | None = None) -> torch.Tensor:
        """Return a part of the frame, or all of it, ``[h, w, 3]`` float32 0..1; a new tensor each time."""
        pixels = self.frame.image() if box is None else self.frame.image(box.slices)
        return tone_mapped(pixels, self.info.marks.transfer, self.info.marks.primaries)


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
    with read_frames(source, section.start, section.end, after=writer.last_pts, first_index=first, convert=swapper.seen_part,
                     keep_damaged=section.keep_damaged) as frames:
        _check_size(faces, frames.info, source)
        done = first
        for seen, patch in swap_frames((_Seen(frame, frames.info) for frame in frames), swapper, first, progress=progress):
            if done == faces.frames:
                raise FaceLoomError(f"{name_of(source)} has more than the {faces.frames} frames in which the faces were found; find them "
                                    "in the same clip and section.")
            _write(writer, seen, patch)
            done += 1
            watch(done, faces.frames, partial(_picture, seen, patch))
    if done != faces.frames:
        raise FaceLoomError(f"{name_of(source)} has {done} frames, but the faces were found in {faces.frames}; find them in the same clip "
                            "and section.")


def _check_size(faces: Faces, info: ClipInfo, source: ClipSource) -> None:
    """Raise FaceLoomError unless faces were found in frames of this size."""
    if (faces.width, faces.height) != (info.width, info.height):
        raise FaceLoomError(f"The faces come from frames of {faces.width}×{faces.height}, but {name_of(source)} has {info.width}×"
                            f"{info.height}; connect the clip in which they were found.")


def _write(writer: ClipWriter | AnimationWriter, seen: _Seen, patch: Patch | None) -> None:
    """Give a frame to the writer, in the clip's own range."""
    if patch is None or not patch.pixels.numel():
        writer.write(seen.frame)
        return
    part, pixels = patch.box.slices, patch.pixels
    if seen.info.hdr:
        pixels = put_back(seen.frame.image(part), seen.image(patch.box), pixels, seen.info.marks)
    writer.write(seen.frame, pixels, part=part)


def _picture(seen: _Seen, patch: Patch | None) -> torch.Tensor:
    """Return a frame with its new pixels, ``[H, W, 3]`` in standard range."""
    whole = seen.image()
    if patch is not None:
        whole[patch.box.slices] = patch.pixels.to(whole)
    return whole
