"""Where dlib's HOG detector looks in a frame, and how sure the faces are that it finds.

The HOG detector knows upright faces of 80 pixels and more that lie whole inside the picture. So a frame is scanned small with a wide
border (close-ups, cut foreheads), at its own size (normal), turned (tilted and upside-down faces), mirrored at its edges (faces half
outside), and enlarged where a cheaper look hints at small faces, from cheap to expensive and only as far as the frame calls for. Where
the first two scans find no large face clearly, dlib's face network is asked for half-profiles, covered eyes and the like. Every doubtful
hit is detected again, upright and at one size: real faces gain by that, accidents of the background lose.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from ..faces import box_from_68
from .boxes import overlaps, suppress
from .dlib_calls import DlibModel
from .dlib_network import NetworkFace
from .dlib_points import PointFitter, dlib_square, upright_crop, upright_matrix

_SMALLEST_FACE = 80  # edge in pixels of the smallest face HOG knows
_SMALL_SCAN, _NORMAL_SCAN = 320, 1920  # longest edges in pixels of the small and the normal scan
_NETWORK_COPY, _LARGER_NETWORK_COPY = 320, 400  # longest edges in pixels of the copies that the face network sees
_MAX_CALL_PIXELS = 1 << 23  # pixels of one HOG call; larger pictures go through in strips
_MAX_ENLARGED_PIXELS = 1 << 25
_PARALLEL_ROWS = 480  # strips that are looked at side by side are no shorter
_HIT_SLACK = 0.5  # hits this far below the wanted margin are detected again before they are judged
_SURE_MARGIN = 0.9  # a hit of this margin is not doubtful
# What a doubtful hit loses, and what any loses per unit of scatter of its point fit beyond 0.02 (on a real face the fit ends at the
# same points). Tuned on some 180 faces and 20 pictures without one.
_DOUBT_PENALTY, _SCATTER_PENALTY = 0.12, 16.0
_UNKNOWN_TILT_PENALTY = 0.5  # what a face of the network counts less than a turned one that HOG saw at its tilt
_OTHER_SIZE = 0.16  # log of the ratio of edges from which a clearer hit is another square, not the same one
_FOLLOWED_SLACK = 0.3  # how far below the wanted margin a face may lie that is where it is expected
_TURNS = tuple(math.radians(degrees) for degrees in (90, 270, 180, 45, 315, 135, 225))

# Levels of the pyramid that an enlarged scan needs: larger faces were seen in the scan before it.
ENLARGED_LEVELS = 5
# How far below the wanted margin a small face may lie in the cheaper look before the enlarged scan. Of 59 faces of 38 to 84 pixels the one
# that came out worst lay 0.71 below; it sees something in one of four pictures without a face.
_HINT_SLACK = 0.75
# What is scanned around a hint, in edges from its middle, and the share of the frame from which all of it is scanned instead.
_HINT_REACH, _MOST_PARTS = 1.5, 0.4

_PadMode = Literal["edge", "symmetric"]  # of numpy's ``pad``
_Part = tuple[int, int, int, int]  # of a frame: x0, y0, x1, y1, pixels


@dataclass(frozen=True)
class HogDetectors:
    """dlib's frontal face detector. every: as dlib has it. enlarged: sees the smallest faces only (``ENLARGED_LEVELS``). half: the same at
    half the size, less sure; None where it could not be made."""

    every: DlibModel
    enlarged: DlibModel
    half: DlibModel | None


@dataclass(frozen=True)
class _Hit:
    """A square that HOG takes for a face. center ``[2]`` and edge in image pixels, angle in radians, margin as HOG gives it."""

    margin: float
    center: np.ndarray
    edge: float
    angle: float

    @property
    def box(self) -> np.ndarray:
        return np.concatenate([self.center - self.edge / 2, self.center + self.edge / 2])


@dataclass(frozen=True)
class _FoundFace:
    """A face that passed. points: ``[68, 2]`` in image pixels. margin: after it was detected again. edge: of its square, pixels.
    network: whether only the face network saw it, which knows faces at any tilt but not which tilt."""

    points: np.ndarray
    margin: float
    edge: float
    network: bool = False


def score_of(margin: float) -> float:
    """Convert a HOG margin to a score 0..1; margin 0, dlib's own threshold, is 0.5."""
    return 1 / (1 + math.exp(-4 * margin))


def margin_of(score: float) -> float:
    """Convert a score 0..1 to a HOG margin, the inverse of ``score_of``; the ends stand for margins of about -1.2 and 2.3."""
    score = min(max(score, 0.01), 0.9999)
    return math.log(score / (1 - score)) / 4


def upright_margin(gray: np.ndarray, points: np.ndarray, hog: DlibModel) -> float:
    """Return the HOG margin of the face that ``[68, 2]`` points in ``gray`` ``[H, W]`` uint8 describe, upright, 120 pixels large; -1 where
    HOG sees none."""
    matrix = upright_matrix(*dlib_square(points)) * 0.75
    rectangles, margins, _ = hog.call("run", upright_crop(gray, matrix, 240), 0, -1.0)
    middle = np.array([60, 60, 180, 180])
    found = [m for r, m in zip(rectangles, margins, strict=True)
             if overlaps(middle, np.array([[r.left(), r.top(), r.right(), r.bottom()]]))[0][0] > 0.4]
    return max(found, default=-1.0)


def follow_face(gray: np.ndarray, points: np.ndarray, hog: DlibModel, fitter: PointFitter, threshold: float
                ) -> tuple[np.ndarray, float] | None:
    """Find a face again that was at ``points`` ``[68, 2]`` a moment ago: its points and score, or None where HOG sees none there.

    gray: ``[H, W]`` uint8. threshold: least score, 0..1; a face in a place where one is expected may be ``_FOLLOWED_SLACK`` less clear.
    """
    points, _ = fitter.fit_once(gray, *dlib_square(points), jitter=1)
    points, scatter = fitter.fit_once(gray, *dlib_square(points), jitter=3)
    margin = upright_margin(gray, points, hog) - _SCATTER_PENALTY * max(0.0, scatter - 0.02)
    if margin < margin_of(threshold) - _FOLLOWED_SLACK:
        return None
    return fitter.refine(gray, points), score_of(margin)


def search_faces(gray: np.ndarray, hogs: HogDetectors, fitter: PointFitter, threshold: float,
                 ask_network: Callable[..., Sequence[NetworkFace]]) -> list[tuple[np.ndarray, float]]:
    """Find points ``[68, 2]`` and score 0..1 of every face in luma ``[H, W]`` uint8, best first.

    threshold: least score, 0..1. ask_network: called as ``ask_network(min_margin, edge=...,
    border=...)`` for what the face network finds in a copy of that longest edge (``FaceNetwork.find_faces``).
    """
    if min(gray.shape[:2]) < 8:
        return []
    faces = _Search(gray, hogs, fitter, margin_of(threshold), ask_network).run()
    return [(face.points, score_of(face.margin)) for face in faces]


class _Search:
    """The search of one frame: scans follow each other until enough is found."""

    def __init__(self, gray: np.ndarray, hogs: HogDetectors, fitter: PointFitter, min_margin: float, ask_network) -> None:
        self.gray, self.hogs, self.fitter, self.min_margin, self.ask_network = gray, hogs, fitter, min_margin, ask_network
        self.height, self.width = gray.shape[:2]
        self.picture = Image.fromarray(gray)
        self.faces: list[_FoundFace] = []
        self.refused: list[_Hit] = []
        self.turned = False  # whether scans turned the frame, so that faces may be known at their tilt

    def run(self) -> list[_FoundFace]:
        short, long = sorted((self.height, self.width))
        small, normal = min(4.0, _SMALL_SCAN / long), min(1.0, _NORMAL_SCAN / long)
        self._scan(small, pad=0.35)
        if normal > small:
            self._scan(normal, pad=min(0.1, 48 / (short * normal)))
        if not self._has_clear_large_face(short):
            self._scan_by_network(edge=_NETWORK_COPY)
        if not self._has_clear_large_face(short):
            self.turned = True
            closely = any(not face.network for face in self.faces)
            self._scan_turned(_TURNS, min(max(small, 640 / long), 2.0) if closely else small, pad=0.25)
        if not self.faces:
            self._scan(small, pad=0.35, mode="symmetric")
        self._scan_enlarged(max(normal, small), short)
        if not self.faces and normal > small:
            self._scan_turned(_TURNS[:3], normal, pad=0)
        if not self.faces:
            self._scan_by_network(edge=_LARGER_NETWORK_COPY, border=0.12)
        return self.faces

    def _scan_enlarged(self, scale: float, short: int) -> None:
        """Scan the frame, seen at ``scale`` so far, at twice that as long as it may show more: once in any case, and up to twice its own
        size, for small faces beside a large one. short: the frame's shorter edge, pixels."""
        first, pixels, half = True, self.height * self.width, self.hogs.half
        while scale < 2 and (first or (half and scale <= 1) or self._smaller_faces_likely(scale)):
            if pixels * (scale if half else 2 * scale) ** 2 > _MAX_ENLARGED_PIXELS:
                break
            parts = [None] if half is None else self._parts_with_hints(scale, short, half)
            scale, first = scale * 2, False
            for part in parts:
                self._scan(scale, pad=min(0.1, 48 / (short * scale)), detector=self.hogs.enlarged, part=part)

    def _parts_with_hints(self, scale: float, short: int, half: DlibModel) -> list[_Part | None]:
        """Return the parts of the frame in which a cheaper look, at ``scale``, hints at small faces that are not known yet, as many as may
        be enlarged to twice that; [None] stands for all of the frame."""
        hints = self._hits(scale, min(0.1, 24 / (short * scale)), half, slack=_HINT_SLACK)
        parts: list[_Part | None] = []
        area = 0
        for hint in sorted(hints, key=lambda hint: -hint.margin):
            reach, size = _HINT_REACH * hint.edge, (self.width, self.height)
            x0, y0 = np.clip(np.rint(hint.center - reach), 0, size).astype(int).tolist()
            x1, y1 = np.clip(np.rint(hint.center + reach), 0, size).astype(int).tolist()
            if x0 < x1 and y0 < y1 and not self._is_known(hint) and area * (2 * scale) ** 2 < _MAX_ENLARGED_PIXELS:
                parts.append((x0, y0, x1, y1))
                area += (x1 - x0) * (y1 - y0)
        pixels = self.height * self.width
        return [None] if area > _MOST_PARTS * pixels and pixels * (2 * scale) ** 2 <= _MAX_ENLARGED_PIXELS else parts

    def _has_clear_large_face(self, short: int) -> bool:
        """Whether a large upright face was found without doubt. short: the frame's shorter edge, pixels."""
        return any(face.edge > 0.15 * short and face.margin > 0.5 and not face.network for face in self.faces)

    def _smaller_faces_likely(self, scale: float) -> bool:
        """Whether a larger scale may show more: nothing is found yet, or faces near the smallest that this scale can show, or only
        faces of a shrunk frame that leave room for far smaller ones."""
        edges = [face.edge for face in self.faces]
        return not edges or min(edges) < 1.6 * _SMALLEST_FACE / scale or (scale < 1 and max(edges) < 0.3 * min(self.height, self.width))

    def _scan_by_network(self, **view) -> None:
        """Add what the face network finds, in place of what HOG was less sure of."""
        for face in self.ask_network(self.min_margin, **view):
            if self._lies_in_frame(face.points):
                self.faces.append(_FoundFace(face.points, face.margin, dlib_square(face.points)[1], network=True))
        self._remove_doubles()

    def _scan(self, scale: float, pad: float, turn: float = 0.0, mode: _PadMode = "edge", detector: DlibModel | None = None,
              part: _Part | None = None) -> None:
        """Run HOG once over the frame, scaled, extended by ``pad`` (of its shorter edge) in numpy's padding ``mode`` and turned by
        ``turn`` (radians); judge the hits and add the faces among them. detector: None is dlib's own. part: None
        is all of the frame."""
        self._judge_all(self._hits(scale, pad, detector or self.hogs.every, turn, mode, part=part))

    def _scan_turned(self, turns: Sequence[float], scale: float, pad: float) -> None:
        """Scan the frame at several turns, as ``_scan`` does one after the other; HOG looks at them at the same time."""
        with ThreadPoolExecutor(min(len(turns), os.cpu_count() or 1)) as pool:
            for hits in pool.map(lambda turn: self._hits(scale, pad, self.hogs.every, turn), turns):
                self._judge_all(hits)

    def _judge_all(self, hits: Sequence[_Hit]) -> None:
        """Judge the hits of one scan and add the faces among them."""
        for i in suppress(np.array([hit.box for hit in hits]).reshape(-1, 4), np.array([hit.margin for hit in hits])):
            if not self._is_known(hits[i]):
                self._judge(hits[i])
        self._remove_doubles()

    def _remove_doubles(self) -> None:
        rank = np.array([face.margin - _UNKNOWN_TILT_PENALTY * (face.network and self.turned) for face in self.faces])
        kept = suppress(np.array([box_from_68(face.points) for face in self.faces]).reshape(-1, 4), rank)
        self.faces = [self.faces[i] for i in kept]

    def _lies_in_frame(self, points: np.ndarray) -> bool:
        """Whether the middle of the square around ``[68, 2]`` points lies in the frame or close outside."""
        center, edge, _ = dlib_square(points)
        return bool((center > -0.15 * edge).all() and (center < np.array([self.width, self.height]) + 0.15 * edge).all())

    def _is_known(self, hit: _Hit) -> bool:
        """Whether this square was already found, at least about as clearly and at about this size, or refused at the same turn."""
        clear = [dlib_square(face.points) for face in self.faces
                 if face.margin > min(hit.margin, _SURE_MARGIN) - 0.3 and not (face.network and self.turned)
                 and not (hit.margin > face.margin and abs(math.log(hit.edge / face.edge)) > _OTHER_SIZE)]
        if clear:
            iou, nested = overlaps(hit.box, np.stack([np.concatenate([center - edge / 2, center + edge / 2]) for center, edge, _ in clear]))
            if (iou > 0.35).any() or (nested > 0.75).any():
                return True
        refused = [other.box for other in self.refused if other.angle == hit.angle]
        return hit.margin < _SURE_MARGIN and bool(refused) and bool((overlaps(hit.box, np.stack(refused))[0] > 0.6).any())

    def _judge(self, hit: _Hit) -> None:
        """Fit points in a hit and detect it again; add it to the faces if its margin is enough, else to the refused hits."""
        points, _ = self.fitter.fit_once(self.gray, hit.center, hit.edge, hit.angle, jitter=1)
        points, scatter = self.fitter.fit_once(self.gray, *dlib_square(points))
        margin = (hit.margin + upright_margin(self.gray, points, self.hogs.every)) / 2 - _SCATTER_PENALTY * max(0.0, scatter - 0.02)
        if hit.margin < _SURE_MARGIN:
            margin -= _DOUBT_PENALTY
        if margin < self.min_margin or not self._lies_in_frame(points):
            self.refused.append(hit)
            return
        points = self.fitter.refine(self.gray, points)
        self.faces.append(_FoundFace(points, margin, dlib_square(points)[1]))

    def _hits(self, scale: float, pad: float, detector: DlibModel, turn: float = 0.0, mode: _PadMode = "edge", slack: float = _HIT_SLACK,
              part: _Part | None = None) -> list[_Hit]:
        """Run HOG over the frame, scaled, extended and turned (see ``_scan``). slack: how far below the wanted margin hits may lie."""
        frame = self.picture if part is None else self.picture.crop(part)
        size = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
        zoom = np.array(size) / frame.size
        resampling = Image.Resampling.BILINEAR if scale < 1 else Image.Resampling.BICUBIC
        picture = np.asarray(frame if size == frame.size else frame.resize(size, resampling))
        border = round(pad * min(size))
        padded = np.pad(picture, border, mode=mode) if border else picture
        padded, back = _rotate(padded, turn)
        hits = []
        for x0, y0, edge, margin in self._run_hog(padded, detector, self.min_margin - slack):
            middle = back[:, :2] @ (x0 + edge / 2, y0 + edge / 2) + back[:, 2]
            hits.append(_Hit(margin, (middle - border) / zoom - 0.5 + (part or (0, 0))[:2], edge / float(zoom.mean()), turn))
        return hits

    def _run_hog(self, picture: np.ndarray, detector: DlibModel, threshold: float) -> list[tuple[float, float, float, float]]:
        """Run HOG over ``[H, W]`` uint8, in overlapping strips beyond ``_MAX_CALL_PIXELS``: x0, y0, edge and margin of every hit, in
        coordinates that count from the pixel's corner."""
        height, width = picture.shape
        cores = os.cpu_count() or 1
        rows = max(4 * _SMALLEST_FACE, _MAX_CALL_PIXELS // width)
        if detector is self.hogs.half:  # sees faces that are smaller than the overlap only, so that every core may have a strip
            rows = min(rows, max(_PARALLEL_ROWS, -(-height // (8 * cores)) * 8 + 2 * _SMALLEST_FACE))
        step = rows if rows >= height else rows - 2 * _SMALLEST_FACE
        tops = [top for top in range(0, max(height - 2 * _SMALLEST_FACE, 1), step) if top == 0 or top - step + rows < height]

        def run(top: int) -> list[tuple[float, float, float, float]]:
            rectangles, margins, _ = detector.call("run", np.ascontiguousarray(picture[top:top + rows]), 0, threshold)
            return [(r.left(), r.top() + top, float(r.width()), m) for r, m in zip(rectangles, margins, strict=True)]

        if len(tops) == 1:
            return run(0)
        with ThreadPoolExecutor(min(len(tops), cores)) as pool:
            return [hit for hits in pool.map(run, tops) for hit in hits]


def _rotate(picture: np.ndarray, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Turn ``[H, W]`` uint8 so that a face whose left-to-right axis points along ``turn`` (radians) stands upright, and return with it
    the matrix ``[2, 3]`` back to the picture, both in coordinates that count from the pixel's corner."""
    cos, sin = math.cos(turn), math.sin(turn)
    if not turn:
        return picture, np.array([[1.0, 0, 0], [0, 1, 0]])
    quarters = turn / (math.pi / 2)
    height, width = picture.shape
    size = round(abs(cos) * width + abs(sin) * height), round(abs(sin) * width + abs(cos) * height)
    linear = np.array([[cos, -sin], [sin, cos]])
    back = np.concatenate([linear, (np.array([width, height]) / 2 - linear @ (size[0] / 2, size[1] / 2))[:, None]], 1)
    if abs(quarters - round(quarters)) < 1e-9:
        return np.ascontiguousarray(np.rot90(picture, round(quarters))), back
    turned = Image.fromarray(picture).transform(size, Image.Transform.AFFINE, tuple(back.ravel()), Image.Resampling.BILINEAR, fillcolor=128)
    return np.ascontiguousarray(turned), back
