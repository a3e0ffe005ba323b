"""Pass one of a clip: finds and follows the faces of every frame and keeps no picture but one small view of each person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ..crops.crop import crop_faces
from ..detect import Detector, kept_positions
from ..detect.boxes import overlaps
from ..detect.dlib import DlibDetector
from ..errors import FaceLoomError
from ..faces import Face, Faces
from ..identity import Recognizer
from ..identity.combine import same_person_cosine, unit_vectors
from ..identity.dlib import DlibRecognizer
from ..options.detect import ORDERS, DetectSettings
from ..pixels.cuts import CutFinder
from ..pixels.tensors import check_images
from ..progress import Progress, silent
from ..select.track import Tracker
from .look import look_for
from .steady import Steadier

VIEW_EDGE = 128  # pixels of the small view of each person
BETTER = 1.2  # how much larger a face must be than in the view before for a new one


@dataclass(frozen=True)
class ClipSearch:
    """How the faces of a clip are searched.

    detect: as for a picture; order and keep hold in every frame. every: after how many frames the whole frame is searched again, which it
    also is where a shot begins and where a face that was followed is not found; in the other frames the detector looks only where faces are
    expected. A face that a search finds anew is followed back through the frames before it. gap: frames a face may be missing
    from and still be followed by its place.
    """

    detect: DetectSettings = field(default_factory=DetectSettings)
    every: int = 1
    gap: int = 12

    def check(self) -> None:
        """Raise FaceLoomError where a number is out of its range."""
        self.detect.check()
        if not 1 <= self.every <= 1000 or not 0 <= self.gap <= 1000:
            raise FaceLoomError(f"every must be 1 to 1000 frames and gap 0 to 1000, not {self.every} and {self.gap}.")


@dataclass(frozen=True, eq=False)
class FoundFaces:
    """What pass one finds.

    faces: of all frames, with ``track``, the embedding of each track where one was made, and the cuts. views: for each track the view of
    its largest face, ``[VIEW_EDGE, VIEW_EDGE, 3]``. searched: how many frames were searched whole. times: when each frame is shown, in
    seconds of the clip's own clock; empty where frames came without times.
    """

    faces: Faces
    views: Mapping[int, torch.Tensor]
    searched: int
    times: tuple[float, ...] = ()


class ClipFinder:
    """Finds the faces of a clip frame by frame; call ``see`` for each and ``finish`` at the end."""

    def __init__(self, search: ClipSearch, detector: Detector | None = None, recognizer: Recognizer | None = None) -> None:
        search.check()
        self.search, self.detector = search, detector or DlibDetector()
        self.recognizer = recognizer or DlibRecognizer()
        self.tracker = Tracker(search.gap, same_person_cosine(self.recognizer.space))
        self.cut_finder, self.steadier = CutFinder(), Steadier()
        self.items: list[Face] = []
        self.cuts: set[int] = set()
        self.views: dict[int, tuple[float, torch.Tensor]] = {}
        self.size: tuple[int, int] | None = None
        self.frames = self.searched = 0
        self.last_whole = -search.every  # the frame that was searched whole last, and those since then, uint8
        self.skipped: list[torch.Tensor] = []

    def see(self, image: torch.Tensor) -> list[Face]:
        """Find the faces of the next frame ``[H, W, 3]`` float32 0..1 and return them, with ``track``."""
        images, frame = image[None], self.frames
        check_images(images)
        self.size = self.size or (image.shape[0], image.shape[1])
        if self.size != tuple(image.shape[:2]):
            raise FaceLoomError(f"Frame {frame + 1} of the clip has another size than the first; convert the clip to one size.")
        cut = self.cut_finder.is_cut(image)
        if cut:
            self.cuts.add(frame)
            self.skipped.clear()
        before = {track.number for track in self.tracker.tracks if track.face.frame == frame - 1}
        found = [replace(face, frame=frame) for face in self._find(image, frame, cut)]
        here = Faces(tuple(replace(face, frame=0) for face in found), 1, *self.size)

        def embed(positions: Sequence[int]) -> np.ndarray:
            return self.recognizer.embed(images, here.take(positions))

        numbers = self.tracker.follow(frame, found, cut=cut, embed=embed)
        followed = [self.steadier.steady(image, replace(face, track=number), cut) for face, number in zip(found, numbers, strict=True)]
        self._view(images, here, followed)
        self.items += followed
        self.frames += 1
        if self.last_whole == frame:
            self._look_back(frame, [face for face, number in zip(followed, numbers, strict=True) if number not in before])
            self.skipped.clear()
        elif self.search.every > 1:
            self.skipped.append((image * 255).round().to(torch.uint8))
        return followed

    def _find(self, image: torch.Tensor, frame: int, cut: bool) -> list[Face]:
        """Search the whole frame, or only where the faces that are followed are expected."""
        settings = self.search.detect
        if not cut and frame - self.last_whole < self.search.every:
            expected = self.tracker.expected_faces(frame)
            recent = [face for face in expected if face.frame == frame - 1]
            found = look_for(self.detector, image, recent, settings.threshold)
            if None not in found:
                return [face for face in found if face is not None and face.size >= settings.min_size]
        self.last_whole = frame
        self.searched += 1
        (found,) = self.detector.detect(image[None], settings.threshold)
        return [face for face in found if face.size >= settings.min_size]

    def _look_back(self, frame: int, new: Sequence[Face]) -> None:
        """Follow faces that a search found, and that were not in the frame before, back through the frames since the last search."""
        for face in new:
            for back, pixels in enumerate(reversed(self.skipped), 1):
                image = pixels.to(torch.float32) / 255
                (found,) = look_for(self.detector, image, [face], self.search.detect.threshold)
                here = [other.box for other in reversed(self.items) if other.frame == frame - back]
                if found is None or (here and (overlaps(found.box, np.stack(here))[0] > .3).any()):
                    break
                face = replace(found, frame=frame - back, track=face.track)
                self.items.append(face)

    def _view(self, images: torch.Tensor, here: Faces, followed: Sequence[Face]) -> None:
        """Keep the view of each person's largest face."""
        for i, face in enumerate(followed):
            assert face.track is not None
            if face.size > BETTER * self.views.get(face.track, (0.0, None))[0]:
                self.views[face.track] = face.size, crop_faces(images, here.take([i]), VIEW_EDGE)[0].cpu()

    def finish(self) -> FoundFaces:
        """Return what was found. FaceLoomError where there was no frame."""
        if self.size is None:
            raise FaceLoomError("The clip has no frames.")
        settings, space = self.search.detect, self.recognizer.space
        vectors = {track.number: unit_vectors(np.mean(known, 0)) for track in self.tracker.tracks
                   if (known := track.vectors or ([] if track.doubtful is None else [track.doubtful]))}
        ordered = sorted(self.items, key=lambda face: face.frame)
        items = [replace(face, embeddings={space: vectors[face.track]}) if face.track in vectors else face for face in ordered]
        faces = Faces(tuple(items), self.frames, *self.size, settings.framing, settings.crop_size, cuts=frozenset(self.cuts))
        kept: list[int] = []
        for members in faces.positions_by_frame().values():
            ordered = sorted(members, key=lambda i: ORDERS[settings.order](faces[i]))
            kept += [ordered[i] for i in kept_positions(settings.keep, len(ordered))]
        return FoundFaces(faces.take(kept), {track: view for track, (_, view) in self.views.items()}, self.searched)


def find_faces(images: Iterable[torch.Tensor], search: ClipSearch, detector: Detector | None = None, recognizer: Recognizer | None = None,
               *, count: int = 0, times: Sequence[float] = (), progress: Progress = silent) -> FoundFaces:
    """Find and follow the faces of a clip.

    images: its frames ``[H, W, 3]`` float32 0..1, one after another. detector, recognizer: None is dlib. count: how many frames there
    will be, for the progress; 0 where that is not known. times: of the frames, seconds, where they are known before.
    """
    finder = ClipFinder(search, detector, recognizer)
    for image in images:
        finder.see(image)
        progress(finder.frames, max(count, finder.frames))
    return replace(finder.finish(), times=tuple(times))
