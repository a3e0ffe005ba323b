"""Pass one of a clip: finds and follows the faces of every frame and keeps no picture but one small view of each person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ..crops.crop import crop_faces
from ..detect import Detector, kept_positions
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

LOOK_AROUND = 1.0  # edges of a face's box by which its surroundings reach to every side
VIEW_EDGE = 128  # pixels of the small view of each person
BETTER = 1.2  # how much larger a face must be than in the view before for a new one


@dataclass(frozen=True)
class ClipSearch:
    """How the faces of a clip are searched.

    detect: as for a picture; order and keep hold in every frame. every: after how many frames the whole frame is searched again, which it
    also is where a shot begins and where a face that was followed is not found; in the other frames the detector looks only where faces are
    expected. gap: frames a face may be missing from and still be followed by its place.
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
        self.cut_finder = CutFinder()
        self.items: list[Face] = []
        self.cuts: set[int] = set()
        self.views: dict[int, tuple[float, torch.Tensor]] = {}
        self.size: tuple[int, int] | None = None
        self.frames = self.searched = 0

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
        found = [replace(face, frame=frame) for face in self._find(image, frame, cut)]
        here = Faces(tuple(replace(face, frame=0) for face in found), 1, *self.size)

        def embed(positions: Sequence[int]) -> np.ndarray:
            return self.recognizer.embed(images, here.take(positions))

        numbers = self.tracker.follow(frame, found, cut=cut, embed=embed)
        followed = [replace(face, track=number) for face, number in zip(found, numbers, strict=True)]
        self._view(images, here, followed)
        self.items += followed
        self.frames += 1
        return followed

    def _find(self, image: torch.Tensor, frame: int, cut: bool) -> list[Face]:
        """Search the whole frame, or only around the faces that are followed."""
        minimum = self.search.detect.min_size
        expected = [] if cut else self.tracker.expected_boxes(frame)
        if not cut and frame % self.search.every:
            found = self._look_around(image, expected)
            if found is not None:
                return [face for face in found if face.size >= minimum]
        self.searched += 1
        (found,) = self.detector.detect(image[None], self.search.detect.threshold)
        return [face for face in found if face.size >= minimum]

    def _look_around(self, image: torch.Tensor, boxes: Sequence[np.ndarray]) -> list[Face] | None:
        """Search the surroundings of every box ``[4]``. None where a face is missing, so that the whole frame has to be searched."""
        found: list[Face] = []
        for x0, y0, x1, y1 in _merged([_surroundings(box, image.shape) for box in boxes]):
            (inside,) = self.detector.detect(image[None, y0:y1, x0:x1], self.search.detect.threshold)
            found += [_shifted(face, x0, y0) for face in inside]
        return found if len(found) >= len(boxes) else None

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
        vectors = {track.number: unit_vectors(np.mean(track.vectors, 0)) for track in self.tracker.tracks if track.vectors}
        items = [replace(face, embeddings={space: vectors[face.track]}) if face.track in vectors else face for face in self.items]
        faces = Faces(tuple(items), self.frames, *self.size, settings.framing, settings.crop_size, cuts=frozenset(self.cuts))
        kept: list[int] = []
        for members in faces.positions_by_frame().values():
            ordered = sorted(members, key=lambda i: ORDERS[settings.order](faces[i]))
            kept += [ordered[i] for i in kept_positions(settings.keep, len(ordered))]
        return FoundFaces(faces.take(kept), {track: view for track, (_, view) in self.views.items()}, self.searched)


def find_faces(images: Iterable[torch.Tensor], search: ClipSearch, detector: Detector | None = None, recognizer: Recognizer | None = None,
               *, count: int = 0, progress: Progress = silent) -> FoundFaces:
    """Find and follow the faces of a clip.

    images: its frames ``[H, W, 3]`` float32 0..1, one after another. detector, recognizer: None is dlib. count: how many frames there
    will be, for the progress; 0 where that is not known.
    """
    finder = ClipFinder(search, detector, recognizer)
    for image in images:
        finder.see(image)
        progress(finder.frames, max(count, finder.frames))
    return finder.finish()


def _surroundings(box: np.ndarray, shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Return the part x0, y0, x1, y1 of a picture ``[H, W, 3]`` that reaches ``LOOK_AROUND`` edges of the box beyond it."""
    edge = float(max(box[2] - box[0], box[3] - box[1])) * LOOK_AROUND
    x0, y0 = (int(np.clip(low - edge, 0, most - 1)) for low, most in zip(box[:2], (shape[1], shape[0])))
    x1, y1 = (int(np.clip(np.ceil(high + edge), low + 1, most)) for high, low, most in zip(box[2:], (x0, y0), (shape[1], shape[0])))
    return x0, y0, x1, y1


def _merged(windows: Sequence[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Join windows that overlap, so that no face is found twice."""
    joined: list[tuple[int, int, int, int]] = []
    for window in windows:
        while True:
            other = next((w for w in joined if w[0] < window[2] and window[0] < w[2] and w[1] < window[3] and window[1] < w[3]), None)
            if other is None:
                break
            joined.remove(other)
            window = (min(window[0], other[0]), min(window[1], other[1]), max(window[2], other[2]), max(window[3], other[3]))
        joined.append(window)
    return joined


def _shifted(face: Face, x: int, y: int) -> Face:
    """Return a face that was found in a part of a picture whose upper left corner is at x, y."""
    points68 = None if face.points68 is None else face.points68 + np.array([x, y])
    mesh = None if face.mesh is None else face.mesh + np.array([x, y, 0])
    return replace(face, box=face.box + np.array([x, y, x, y]), keypoints=face.keypoints + np.array([x, y]), points68=points68, mesh=mesh)
