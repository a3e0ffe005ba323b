"""Detectors that come as ONNX files: SCRFD, RetinaFace, YOLOv8-face, YuNet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import FaceLoomError
from ..faces import Face
from ..files.catalogue import KINDS, NetContract, catalogue
from ..files.find import find_by_path_or_name
from ..files.folders import Folders
from ..pixels.affine import invert, transform
from ..pixels.sampling import warp
from ..progress import Progress, silent
from ..runtime.input import bind_picture, to_network_input
from ..runtime.onnx import OnnxModel, open_session
from .boxes import overlaps, suppress
from .decode import DECODERS, Detections

# Edge of the picture a network of any size is shown, and of a second one in which faces that fill the frame have a size it knows
# (insightface looks at these two as well). The small one costs a twenty-fifth.
EDGE, CLOSE = 640, 128
# A frame whose longer side is more than this many times the network's edge is also looked at in tiles of that size, overlapping by
# so much: faces of 32 pixels in a 4K frame are 16 pixels in a tile, which is what these networks can do.
TILE, OVERLAP = 2, 0.2
# How much of the network's picture a frame takes up in the look for faces too close to be seen whole, where the graph has one size.
SMALL = CLOSE / EDGE
# Faces are the same face from this overlap on: intersection over union; where the border of a look cuts one, share of the smaller.
SAME, NESTED = 0.4, 0.6
# A face is cut from this far to the border on, as a part of the look's edge.
RIM = 1 / 64
# The longer side of a face, in network pixels, at which its points are placed best: SCRFD's are off by 1 to 1.5 % of the face at 40 to 80
# pixels, by 0.6 % at 200 to 300 and by 1 % at 400; beyond 450 it loses the face.
BEST = 210
# Cosine of the tilt from which a face is looked at again upright (50 degrees).
TILTED = 0.64
# Looks in one call of the network, and candidates per frame that are compared with one another.
LOOKS = 16
CANDIDATES = 2000


@dataclass(frozen=True)
class Look:
    """A frame seen through ``matrix`` ``[2, 3]``, frame → network pixels, in a square of ``edge``."""

    frame: int
    matrix: np.ndarray
    edge: int


@dataclass(frozen=True)
class Seen:
    """What one look found, in frame pixels, every face once. ``cut`` ``[K]``: whether the look's border cuts the face, where the frame goes
    on. ``rank`` ``[K]``: by which the best of several views of a face is chosen: those that show it whole, then the size nearest to
    ``BEST``. How sure the network is says little there: it is surest of views that are too small for good points."""

    found: Detections
    cut: np.ndarray
    rank: np.ndarray


class OnnxDetector:
    """A ``Detector`` around one network. Make it with ``load_detector``."""

    def __init__(self, name: str, model: OnnxModel, contract: NetContract) -> None:
        self.name = name
        self.model = model
        self._input, self.contract = bind_picture(model, contract, exact=False)
        self.fixed = isinstance((self._input.shape or (None,) * 4)[2], int)
        self.edge = self.contract.size or EDGE

    def __repr__(self) -> str:
        return f"OnnxDetector({self.model.describe()})"

    def detect(self, images: torch.Tensor, threshold: float = 0.5, progress: Progress = silent) -> list[list[Face]]:
        """Faces of every frame of ``[B, H, W, 3]`` float32 0..1, unsorted.

        Every frame is seen whole, small (close-ups that fill the frame), and in tiles where it is large; frames where that finds
        nothing are turned by quarters. Where the graph has one size the small look costs as much as any other, and only frames where
        nothing else is found get it. Faces that lie on their side or upside down are looked at again upright: the networks find them,
        but misplace their points.
        """
        size = images.shape[1:3]
        rounds = [[(matrix, self.edge) for matrix in views(*size, self.edge)] for views in (whole_and_tile_views, close_up_views, turned_views)]
        if not self.fixed:
            rounds = [[*rounds[0], (whole_view(*size, CLOSE), CLOSE)], [*rounds[2], *((matrix, CLOSE) for matrix in turned_views(*size, CLOSE))]]
        found: dict[int, Detections] = {}
        empty = range(len(images))
        for views in rounds:
            report = silent if found else lambda done, total: progress(done * len(images) // max(total, 1), len(images))
            found.update(self._search(images, [Look(frame, *view) for frame in empty for view in views], threshold, report))
            empty = [frame for frame, faces in found.items() if not len(faces.scores)]
            progress(len(images), len(images))
        found = self._upright(images, found, threshold)
        return [[_face(frame, *values) for values in zip(*found[frame], strict=True)] for frame in range(len(images))]

    def _upright(self, images: torch.Tensor, found: dict[int, Detections], threshold: float) -> dict[int, Detections]:
        """The same with faces that are far from upright replaced by what an upright look at them finds, if it finds them."""
        out = {frame: Detections(*(values.copy() for values in faces)) for frame, faces in found.items()}
        tilted, looks = [], []
        for frame, (boxes, _, points) in out.items():
            across = points[:, 1] - points[:, 0]
            for i in np.flatnonzero(across[:, 0] < TILTED * np.linalg.norm(across, axis=1)):
                span = 3 * float((boxes[i, 2:] - boxes[i, :2]).max())
                middle = tuple((boxes[i, :2] + boxes[i, 2:] + 1) / 2)
                tilted.append((frame, i))
                looks.append(Look(frame, _square_look(middle, span, self.edge, -np.arctan2(across[i, 1], across[i, 0])), self.edge))
        for (frame, i), seen in zip(tilted, self._see(images, looks, threshold, silent), strict=True):
            again = overlaps(out[frame].boxes[i], seen.found.boxes)[0]
            if again.max(initial=0) > SAME:
                for values, better in zip(out[frame], seen.found, strict=True):
                    values[i] = better[int(np.argmax(again))]
        return out

    def _search(self, images: torch.Tensor, looks: Sequence[Look], threshold: float, progress: Progress) -> dict[int, Detections]:
        """What is found through all looks, by frame, without doubles."""
        parts: dict[int, list[Seen]] = {look.frame: [] for look in looks}
        for look, seen in zip(looks, self._see(images, looks, threshold, progress), strict=True):
            parts[look.frame].append(seen)
        return {frame: _merged(seen) for frame, seen in parts.items()}

    def _see(self, images: torch.Tensor, looks: Sequence[Look], threshold: float, progress: Progress) -> list[Seen]:
        """What is found through every look, in their order."""
        seen: dict[int, Seen] = {}
        for edge in dict.fromkeys(look.edge for look in looks):
            same = [i for i, look in enumerate(looks) if look.edge == edge]
            for start in range(0, len(same), LOOKS):
                progress(len(seen), len(looks))
                some = [looks[i] for i in same[start:start + LOOKS]]
                pictures = torch.stack([warp(images[look.frame], look.matrix, edge, edge, "zeros").clamp(0, 1) for look in some])
                outputs = self.model.run({self._input.name: to_network_input(pictures, self.contract).cpu().numpy()}, chunk=LOOKS)
                answers = DECODERS[self.contract.family](outputs, len(some), edge, threshold)
                size = images.shape[2], images.shape[1]
                seen.update({i: _in_frame(answer, looks[i], size) for i, answer in zip(same[start:start + LOOKS], answers, strict=True)})
        return [seen[i] for i in range(len(looks))]


def whole_view(height: int, width: int, edge: int) -> np.ndarray:
    """The look at all of the frame."""
    return _square_look((width / 2, height / 2), max(height, width), edge)


def whole_and_tile_views(height: int, width: int, edge: int) -> list[np.ndarray]:
    """The looks at a frame of any size: the whole of it, and tiles where it is large."""
    looks = [whole_view(height, width, edge)]
    span = TILE * edge
    if max(height, width) > span:
        looks += [_square_look((x, y), span, edge) for y in _tile_centers(height, span) for x in _tile_centers(width, span)]
    return looks


def close_up_views(height: int, width: int, edge: int) -> list[np.ndarray]:
    """The frame in the middle of a much larger black picture."""
    return [_square_look((width / 2, height / 2), max(height, width) / SMALL, edge)]


def turned_views(height: int, width: int, edge: int) -> list[np.ndarray]:
    """The whole frame turned by 90, 270 and 180 degrees."""
    return [_square_look((width / 2, height / 2), max(height, width), edge, quarter * np.pi / 2) for quarter in (1, 3, 2)]


def _square_look(center: tuple[float, float], span: float, edge: int, angle: float = 0.0) -> np.ndarray:
    """Frame → network pixels for a square of ``span`` frame pixels around ``center`` (counted from the frame's corner), turned by
    ``angle`` (positive: clockwise on the screen)."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]]) * (edge / span)
    middle = np.array(center) - 0.5
    return np.concatenate([turn, ((edge - 1) / 2 - turn @ middle)[:, None]], 1)


def _tile_centers(length: int, span: int) -> Iterable[float]:
    if length <= span:
        return [length / 2]
    count = 1 + int(np.ceil((length - span) / (span * (1 - OVERLAP))))
    return np.linspace(span / 2, length - span / 2, count)


def _in_frame(found: Detections, look: Look, size: tuple[int, int]) -> Seen:
    """size: the frame's width and height."""
    best = np.argsort(-found.scores, kind="stable")[:CANDIDATES]
    kept = best[suppress(found.boxes[best], found.scores[best], SAME, np.inf)]
    seen, scores, points = (values[kept] for values in found)
    back = invert(look.matrix)
    x0, y0, x1, y1 = seen.astype(np.float64).T
    corners = transform(np.stack([np.stack([x0, y0], -1), np.stack([x1, y0], -1), np.stack([x0, y1], -1), np.stack([x1, y1], -1)], 1), back)
    low, high = corners.min(1), corners.max(1)
    border = transform(np.array([[-0.5, -0.5], [look.edge - 0.5, look.edge - 0.5]]), back)
    first, last = border.min(0), border.max(0)
    rim = RIM * (last - first)
    cut = ((first > 0) & (low < first + rim)).any(1) | ((last < np.array(size) - 1) & (high > last - rim)).any(1)
    rank = -np.abs(np.log(np.maximum((seen[:, 2:] - seen[:, :2]).max(-1), 1) / BEST)) - 9 * cut
    return Seen(Detections(np.concatenate([low, high], -1), scores, transform(points, back)), cut, rank)


def _merged(parts: Sequence[Seen]) -> Detections:
    """All that was seen of a frame, every face once."""
    boxes, scores, points = (np.concatenate(same) for same in zip(*(seen.found for seen in parts), strict=True))
    cut, rank = (np.concatenate([getattr(seen, name) for seen in parts]) for name in ("cut", "rank"))
    kept = suppress(boxes, rank, SAME, np.where(cut, NESTED, np.inf))
    return Detections(boxes[kept], scores[kept], points[kept])


def _face(frame: int, box: np.ndarray, score: float, points: np.ndarray) -> Face:
    return Face(frame, box, points, float(min(score, 1.0)))


def load_detector(path_or_name: str | Path, *, folders: Folders | None = None, contract: NetContract | None = None,
                  providers: str | Sequence[str] = "auto") -> OnnxDetector:
    """The detector in a file, or of a catalogue name; a file the catalogue does not know is told by its outputs."""
    found = find_by_path_or_name(path_or_name, "detector", folders)
    path, row = found.path, found.row
    if row and row.kind != "detector":
        raise FaceLoomError(f"{path.name} is {KINDS[row.kind]}, not {KINDS['detector']}; load it with the node for that.")
    model = open_session(path, providers=providers, kind="detector")
    contract = contract or (row.contract if row else catalogue()[_alike(model)].contract)
    if contract.family not in DECODERS:
        raise FaceLoomError(f"FaceLoom cannot read detectors of the {contract.family} family; use SCRFD, YOLOv8-face or YuNet.")
    return OnnxDetector(row.name if row else path.stem, model, contract)


def _alike(model: OnnxModel) -> str:
    """A catalogue row whose network answers in the same form."""
    if len(model.outputs) == 1:
        return "yoloface_8n"
    return "yunet_2023_mar" if len(model.outputs) == 12 else "det_10g"
