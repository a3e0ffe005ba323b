"""Following faces along a clip: ``Tracker`` frame by frame, ``assign_tracks`` for faces that are all known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..crops.transformed import transform_face
from ..detect.boxes import overlaps
from ..errors import check_number
from ..faces import Face, Faces

LEAST_OVERLAP = .3  # of the boxes of one face in two frames, intersection over union, as in SORT (Bewley et al. 2016)
MOST_DISTANCE = .5  # of the keypoints of one face in two frames, their mean, in edges of its box
MOST_PREDICTED = 5  # frames over which a face is expected to go on moving as it did
MOST_VECTORS = 8  # embeddings that are kept of a track
SEEN_AGAIN = (8, 64, 512)  # sightings at which another one is made: the first may have been a poor view

# Gives unit vectors ``[k, D]`` of the faces at these positions of the current frame.
Embed = Callable[[Sequence[int]], np.ndarray]


@dataclass
class Track:
    """One person on the way through a clip, as far as it has been read.

    face: as last seen. velocity: ``[2]``, pixels a frame. vectors: ``[k, D]``, embeddings from when nobody else was near. doubtful: one
    from when somebody was, while there is none better. seen: in how many frames it was seen.
    """

    number: int
    face: Face
    seen: int = 0
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))
    vectors: list[np.ndarray] = field(default_factory=list)
    doubtful: np.ndarray | None = None

    def expected(self, frame: int) -> np.ndarray:
        """Return how far ``[2]`` the face is expected to have moved by ``frame``."""
        return self.velocity * min(frame - self.face.frame, MOST_PREDICTED)

    def cosine(self, vector: np.ndarray) -> float:
        """Return the largest cosine of a unit vector ``[D]`` to the track's embeddings; -1 where it has none."""
        return max((float(known @ vector) for known in self.vectors), default=-1.0)

    def see(self, face: Face) -> None:
        """Move the track to where its face is now."""
        moved = face.keypoints.mean(0) - self.face.keypoints.mean(0)
        steady = face.frame - self.face.frame == 1 and float(np.linalg.norm(moved)) <= face.size
        self.velocity = (self.velocity + moved) / 2 if steady else np.zeros(2)
        self.face = face
        self.seen += 1


class Tracker:
    """Follows faces from frame to frame and gives each a number, the same for one person.

    All faces of a frame are assigned together, by the overlap of their boxes and the distance of their keypoints from where each track is
    expected. Where two tracks and faces could be each other's, and where a face was missing, embeddings decide, if there are any; they also
    find the same person again after a cut or a longer absence.

    gap: frames a face may be missing from and still be followed by its place. least: the cosine from which two faces are one person.
    """

    def __init__(self, gap: int = 0, least: float = .3) -> None:
        self.gap, self.least = gap, least
        self.tracks: list[Track] = []

    def follow(self, frame: int, faces: Sequence[Face], *, cut: bool = False, embed: Embed | None = None) -> list[int]:
        """Return the number of each face of ``frame``; frames come in order.

        cut: whether a new shot begins here, so that places say nothing. embed: of this frame's faces; None where no embeddings are to be
        had.
        """
        near = [] if cut else self._followed(frame)
        vectors: dict[int, np.ndarray] = {}

        def know(positions: Collection[int]) -> None:
            wanted = sorted(set(positions) - set(vectors))
            if embed is not None and wanted:
                vectors.update(zip(wanted, embed(wanted), strict=True))

        scores = _closeness(near, faces, frame)
        know(_contested(near, scores, frame))
        found = _assign(self._with_likeness(near, scores, vectors, frame))
        matched = {position: near[row] for row, position in found.items()}
        self._match_where_last_seen(near, faces, frame, vectors, matched)
        know([i for i in range(len(faces)) if i not in matched or matched[i].seen in SEEN_AGAIN])
        for i, track in self._seen_before(frame, vectors, matched).items():
            matched[i] = track
        alone = set(range(len(faces))) - _contested(near, scores, frame)
        for i, face in enumerate(faces):
            if i not in matched:
                matched[i] = Track(len(self.tracks), face)
                self.tracks.append(matched[i])
            matched[i].see(face)
            if i in vectors and i in alone and len(matched[i].vectors) < MOST_VECTORS:
                matched[i].vectors.append(vectors[i])
            elif i in vectors and matched[i].doubtful is None:
                matched[i].doubtful = vectors[i]
        return [matched[i].number for i in range(len(faces))]

    def expected_faces(self, frame: int) -> list[Face]:
        """Return the faces that are followed, where they are expected in ``frame``, with ``track``; their own ``frame`` is still the one in
        which each was last seen."""
        return [_moved(replace(track.face, track=track.number), track.expected(frame)) for track in self._followed(frame)]

    def _followed(self, frame: int) -> list[Track]:
        """Return the tracks whose place says where their face may be in ``frame``."""
        return [track for track in self.tracks if 1 <= frame - track.face.frame <= self.gap + 1]

    def _with_likeness(self, tracks: Sequence[Track], scores: np.ndarray, vectors: dict[int, np.ndarray], frame: int) -> np.ndarray:
        """Add to the scores ``[tracks, faces]`` how alike each pair is, -2 to 2, where both have embeddings. A face that comes back and is
        somebody else does not match."""
        scores = scores.copy()
        for row, track in enumerate(tracks):
            for i, vector in vectors.items():
                if track.vectors and scores[row, i] > 0:
                    likeness = float(np.clip((track.cosine(vector) - self.least) / (1 - self.least), -1, 1))
                    stranger = likeness < 0 and track.face.frame < frame - 1
                    scores[row, i] = 0 if stranger else max(scores[row, i] + 2 * likeness, 1e-6)
        return scores

    def _match_where_last_seen(self, tracks: Sequence[Track], faces: Sequence[Face], frame: int, vectors: dict[int, np.ndarray],
                               matched: dict[int, Track]) -> None:
        """Match what is left over by where each face was last seen: it may have stopped or turned round."""
        taken = {track.number for track in matched.values()}
        left = [replace(track, velocity=np.zeros(2)) for track in tracks if track.number not in taken]
        free = [i for i in range(len(faces)) if i not in matched]
        scores = self._with_likeness(left, _closeness(left, faces, frame), vectors, frame)
        for row, place in _assign(scores[:, free]).items():
            matched[free[place]] = self.tracks[left[row].number]

    def _seen_before(self, frame: int, vectors: dict[int, np.ndarray], matched: dict[int, Track]) -> dict[int, Track]:
        """Find the faces without a track among the tracks of people that are nowhere else in this frame."""
        taken = {track.number for track in matched.values()}
        absent = [track for track in self.tracks if track.number not in taken and track.vectors and track.face.frame < frame]
        open_faces = [i for i in vectors if i not in matched]
        if not absent or not open_faces:
            return {}
        cosines = np.array([[track.cosine(vectors[i]) for i in open_faces] for track in absent])
        scores = np.where(cosines >= self.least, cosines + 1, 0)
        return {open_faces[i]: absent[row] for row, i in _assign(scores).items()}


def _moved(face: Face, shift: np.ndarray) -> Face:
    """Return a face elsewhere in the picture. shift: ``[2]`` pixels."""
    return transform_face(face, np.array([[1, 0, shift[0]], [0, 1, shift[1]]]), face.frame)


def _closeness(tracks: Sequence[Track], faces: Sequence[Face], frame: int) -> np.ndarray:
    """Return ``[tracks, faces]``: overlap plus nearness of keypoints, each 0..1; 0 where a face cannot be that of the track."""
    scores = np.zeros((len(tracks), len(faces)))
    if not len(faces):
        return scores
    boxes = np.stack([face.box for face in faces]).astype(np.float64)
    points = np.stack([face.keypoints for face in faces]).astype(np.float64)
    sizes = np.array([face.size for face in faces])
    for row, track in enumerate(tracks):
        shift = track.expected(frame)
        overlap, _ = overlaps(track.face.box + np.tile(shift, 2), boxes)
        edge = np.maximum(np.maximum(sizes, track.face.size), 1e-6)
        distance = np.linalg.norm(points - (track.face.keypoints + shift), axis=-1).mean(-1) / edge
        possible = (overlap >= LEAST_OVERLAP) | (distance <= MOST_DISTANCE)
        scores[row] = np.where(possible, overlap + 1 - np.minimum(distance, 1), 0)
    return scores


def _contested(tracks: Sequence[Track], scores: np.ndarray, frame: int) -> set[int]:
    """Return the positions of faces that could be more than one track's, or share a track with another face, or were missing."""
    possible = scores > 0
    shared = possible & ((possible.sum(0, keepdims=True) > 1) | (possible.sum(1, keepdims=True) > 1))
    missing = np.array([track.face.frame < frame - 1 for track in tracks], bool).reshape(-1, 1)
    return {int(i) for i in np.flatnonzero((shared | (possible & missing)).any(0))}


def _assign(scores: np.ndarray) -> dict[int, int]:
    """Match rows to columns of ``scores`` by the assignment with the largest sum; a pair whose score is 0 is no match."""
    from scipy.optimize import linear_sum_assignment

    return {int(row): int(column) for row, column in zip(*linear_sum_assignment(scores, maximize=True)) if scores[row, column] > 0}


def assign_tracks(faces: Faces, gap: int = 0) -> Faces:
    """Return the same faces, each with a ``track``: the same number for one person from frame to frame.

    All faces of a frame are assigned together, see ``Tracker``. Where every face has a track already, all keep theirs. gap: frames a face
    may be missing from and still be the same.
    """
    check_number("Gap", gap, 0, 1_000_000, whole=True)
    if all(face.track is not None for face in faces):
        return faces
    tracker, numbers = Tracker(gap), {}
    for frame, members in sorted(faces.positions_by_frame().items()):
        numbers.update(zip(members, tracker.follow(frame, [faces[i] for i in members], cut=frame in faces.cuts), strict=True))
    return replace(faces, items=tuple(replace(face, track=numbers[i]) for i, face in enumerate(faces)))


def track_runs(faces: Faces) -> list[list[int]]:
    """Return the positions of the faces of one track in consecutive frames of one shot, run by run; every face is in one run."""
    found: list[list[int]] = []
    open_runs: dict[int | None, list[int]] = {}
    for i in sorted(range(len(faces)), key=lambda i: faces[i].frame):
        run = open_runs.get(faces[i].track)
        if run and faces[run[-1]].frame == faces[i].frame - 1 and faces[i].frame not in faces.cuts:
            run.append(i)
        else:
            open_runs[faces[i].track] = [i]
            found.append(open_runs[faces[i].track])
    return found
