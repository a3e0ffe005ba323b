"""Where dlib's HOG detector looks, and how sure it is of what it saw.

The HOG detector knows upright faces of 80 pixels and more that lie whole inside the picture. So a frame is looked at small with a wide
border (close-ups, cut foreheads), at its own size (normal), turned (tilted and upside-down faces), mirrored at its edges (faces half
outside), and enlarged or in strips (small faces), from cheap to expensive and only as far as the frame calls for. Where no large face
is plain after the first two looks, dlib's face network is asked for half-profiles, covered eyes and the like. Every doubtful
find is looked at again, upright and at one size; real faces gain by that, accidents of the background lose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..faces import box_from_68
from .boxes import overlaps, suppress
from .dlib_points import PointFitter, dlib_square, upright_crop, upright_matrix

_MINIMUM = 80  # pixels, the smallest face HOG knows
_COARSE = 320  # longest edge of the small look
_FULL = 1920  # longest edge of the normal look
_STRIP = 1 << 23  # pixels of one HOG call; more are done in strips
_MOST = 1 << 25  # pixels of the largest enlargement
_COPY, _LARGER_COPY = 320, 400  # longest edges of the copies that the face network sees
_DOUBT = 0.5  # finds this far below the wanted margin get a second look
_SURE = 0.9  # margin that needs none
# What a find that needed a second look loses, and what one loses per unit of scatter of its point fit beyond 0.02 (on a real face
# the fit settles at the same points). Tuned on some 180 faces and 20 pictures without one.
_DOUBTFUL, _SCATTER = 0.12, 16.0
_TILT_UNKNOWN = 0.5  # what a find of the network counts less than a turned one that HOG saw at its tilt
_OTHER_SIZE = 0.16  # log of the ratio from which a clearer square is another answer, not the same one
_TURNS = tuple(math.radians(a) for a in (90, 270, 180, 45, 315, 135, 225))


@dataclass(frozen=True)
class _Hit:
    """A square: centre and edge in frame pixels, turn in radians, HOG margin."""

    margin: float
    center: np.ndarray
    edge: float
    angle: float

    @property
    def box(self) -> np.ndarray:
        return np.concatenate([self.center - self.edge / 2, self.center + self.edge / 2])


@dataclass(frozen=True)
class _Find:
    """A face: points ``[68, 2]`` in frame pixels, the margin after the second look, the square's edge, and whether only the face
    network saw it, which knows faces at any tilt but not which tilt."""

    points: np.ndarray
    margin: float
    edge: float
    network: bool = False


def score_of(margin: float) -> float:
    """HOG margin to 0..1; 0.5 is dlib's own threshold, margin 0."""
    return 1 / (1 + math.exp(-4 * margin))


def margin_of(score: float) -> float:
    """Inverse of ``score_of``; the ends stand for margins of about -1.2 and 2.3."""
    score = min(max(score, 0.01), 0.9999)
    return math.log(score / (1 - score)) / 4


def search_faces(gray: np.ndarray, hog, fitter: PointFitter, threshold: float, second_opinion) -> list[tuple[np.ndarray, float]]:
    """Points ``[68, 2]`` and score 0..1 of every face in ``[H, W]`` uint8 luma, best first.

    ``second_opinion(wanted margin, edge=…, border=…)`` gives the ``Sighting``s of the face network in a copy of that longest edge.
    """
    if min(gray.shape[:2]) < 8:
        return []
    finds = _Search(gray, hog, fitter, margin_of(threshold), second_opinion).run()
    return [(found.points, score_of(found.margin)) for found in finds]


class _Search:
    """One frame being searched."""

    def __init__(self, gray: np.ndarray, hog, fitter: PointFitter, wanted: float, second_opinion) -> None:
        self.gray, self.hog, self.fitter, self.wanted, self.second_opinion = gray, hog, fitter, wanted, second_opinion
        self.height, self.width = gray.shape[:2]
        self.picture = Image.fromarray(gray)
        self.finds: list[_Find] = []
        self.refused: list[_Hit] = []
        self.turned = False

    def run(self) -> list[_Find]:
        short, long = sorted((self.height, self.width))
        coarse, full = min(4.0, _COARSE / long), min(1.0, _FULL / long)
        self._look(coarse, pad=0.35)
        if full > coarse:
            self._look(full, pad=min(0.1, 48 / (short * full)))
        if not self._plain(short):
            self._ask(edge=_COPY)
        if not self._plain(short):
            self.turned = True
            closely = any(not found.network for found in self.finds)
            for turn in _TURNS:
                self._look(min(max(coarse, 640 / long), 2.0) if closely else coarse, pad=0.25, turn=turn)
        if not self.finds:
            self._look(coarse, pad=0.35, mode="symmetric")
        scale = max(full, coarse)
        while self._smaller_likely(scale) and scale < 2 and self.height * self.width * (2 * scale) ** 2 <= _MOST:
            scale *= 2
            self._look(scale, pad=min(0.1, 48 / (short * scale)))
        if not self.finds and full > coarse:
            for turn in _TURNS[:3]:
                self._look(full, pad=0, turn=turn)
        if not self.finds:
            self._ask(edge=_LARGER_COPY, border=0.12)
        return self.finds

    def _plain(self, short: int) -> bool:
        """A large upright face is found without doubt."""
        return any(found.edge > 0.15 * short and found.margin > 0.5 and not found.network for found in self.finds)

    def _ask(self, **how) -> None:
        """What the face network sees, in place of what HOG was less sure of."""
        for seen in self.second_opinion(self.wanted, **how):
            if self._inside(seen.points):
                self.finds.append(_Find(seen.points, seen.margin, dlib_square(seen.points)[1], network=True))
        self._merge()

    def _inside(self, points: np.ndarray) -> bool:
        center, edge, _ = dlib_square(points)
        return bool((center > -0.15 * edge).all() and (center < np.array([self.width, self.height]) + 0.15 * edge).all())

    def _smaller_likely(self, scale: float) -> bool:
        """Nothing yet, or faces near the smallest that this scale can show, or faces of a shrunk frame that leave room for far smaller
        ones."""
        edges = [found.edge for found in self.finds]
        return not edges or min(edges) < 1.6 * _MINIMUM / scale or (scale < 1 and max(edges) < 0.3 * min(self.height, self.width))

    def _look(self, scale: float, pad: float, turn: float = 0.0, mode: str = "edge") -> None:
        """One pass: hits of the turned, scaled, padded frame are fitted, weighed and merged into the finds."""
        hits = self._hits(scale, pad, turn, mode)
        for i in suppress(np.array([hit.box for hit in hits]).reshape(-1, 4), np.array([hit.margin for hit in hits])):
            if not self._known(hits[i]):
                self._weigh(hits[i])
        self._merge()

    def _merge(self) -> None:
        rank = np.array([found.margin - _TILT_UNKNOWN * (found.network and self.turned) for found in self.finds])
        kept = suppress(np.array([box_from_68(f.points) for f in self.finds]).reshape(-1, 4), rank)
        self.finds = [self.finds[i] for i in kept]

    def _known(self, hit: _Hit) -> bool:
        """Whether this square was already found, at least about as clearly and at about this size, or refused at the same turn."""
        clear = [dlib_square(found.points) for found in self.finds
                 if found.margin > min(hit.margin, _SURE) - 0.3 and not (found.network and self.turned)
                 and not (hit.margin > found.margin and abs(math.log(hit.edge / found.edge)) > _OTHER_SIZE)]
        if clear:
            iou, nested = overlaps(hit.box, np.stack([np.concatenate([center - edge / 2, center + edge / 2]) for center, edge, _ in clear]))
            if (iou > 0.35).any() or (nested > 0.75).any():
                return True
        refused = [other.box for other in self.refused if other.angle == hit.angle]
        return hit.margin < _SURE and bool(refused) and bool((overlaps(hit.box, np.stack(refused))[0] > 0.6).any())

    def _weigh(self, hit: _Hit) -> None:
        points, _ = self.fitter.fit_once(self.gray, hit.center, hit.edge, hit.angle, jitter=1)
        points, scatter = self.fitter.fit_once(self.gray, *dlib_square(points))
        margin = (hit.margin + self._second_look(points)) / 2 - _SCATTER * max(0.0, scatter - 0.02)
        if hit.margin < _SURE:
            margin -= _DOUBTFUL
        if margin < self.wanted or not self._inside(points):
            self.refused.append(hit)
            return
        points = self.fitter.settle(self.gray, points)
        self.finds.append(_Find(points, margin, dlib_square(points)[1]))

    def _second_look(self, points: np.ndarray) -> float:
        """HOG margin of the face these points describe, upright, 120 pixels large; -1 where there is none."""
        matrix = upright_matrix(*dlib_square(points)) * 0.75
        crop = upright_crop(self.gray, matrix, 240)
        rectangles, margins, _ = self.hog.run(crop, 0, -1.0)
        middle = np.array([60, 60, 180, 180])
        seen = [m for r, m in zip(rectangles, margins, strict=True)
                if overlaps(middle, np.array([[r.left(), r.top(), r.right(), r.bottom()]]))[0][0] > 0.4]
        return max(seen, default=-1.0)

    def _hits(self, scale: float, pad: float, turn: float, mode: str) -> list[_Hit]:
        size = max(1, round(self.width * scale)), max(1, round(self.height * scale))
        zoom = np.array(size) / (self.width, self.height)
        filter_ = Image.Resampling.BILINEAR if scale < 1 else Image.Resampling.BICUBIC
        picture = np.asarray(self.picture if size == self.picture.size else self.picture.resize(size, filter_))
        border = round(pad * min(size))
        padded = np.pad(picture, border, mode=mode) if border else picture
        padded, back = _turned(padded, turn)
        hits = []
        for x0, y0, edge, margin in self._run(padded):
            middle = back[:, :2] @ (x0 + edge / 2, y0 + edge / 2) + back[:, 2]
            hits.append(_Hit(margin, (middle - border) / zoom - 0.5, edge / float(zoom.mean()), turn))
        return hits

    def _run(self, picture: np.ndarray) -> list[tuple[float, float, float, float]]:
        """HOG hits (x0, y0, edge, margin) in corner coordinates; pictures beyond ``_STRIP`` pixels in overlapping strips."""
        height, width = picture.shape
        rows = max(4 * _MINIMUM, _STRIP // width)
        step = rows if rows >= height else rows - 2 * _MINIMUM
        found = []
        for top in range(0, max(height - 2 * _MINIMUM, 1), step):
            strip = np.ascontiguousarray(picture[top:top + rows])
            rectangles, margins, _ = self.hog.run(strip, 0, self.wanted - _DOUBT)
            found += [(r.left(), r.top() + top, float(r.width()), m) for r, m in zip(rectangles, margins, strict=True)]
            if top + rows >= height:
                break
        return found


def _turned(picture: np.ndarray, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """The picture turned so that a face whose left-to-right axis points along ``turn`` stands upright, and the ``[2, 3]`` matrix
    from its corner coordinates back to the picture's."""
    cos, sin = math.cos(turn), math.sin(turn)
    if not turn:
        return picture, np.array([[1.0, 0, 0], [0, 1, 0]])
    height, width = picture.shape
    size = round(abs(cos) * width + abs(sin) * height), round(abs(sin) * width + abs(cos) * height)
    linear = np.array([[cos, -sin], [sin, cos]])
    back = np.concatenate([linear, (np.array([width, height]) / 2 - linear @ (size[0] / 2, size[1] / 2))[:, None]], 1)
    turned = Image.fromarray(picture).transform(size, Image.Transform.AFFINE, tuple(back.ravel()), Image.Resampling.BILINEAR, fillcolor=128)
    return np.ascontiguousarray(turned), back
