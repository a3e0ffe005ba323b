"""Detectors that come as ONNX files: SCRFD, RetinaFace, YOLOv8-face, YuNet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..catalogue import KINDS, NetContract, catalogue
from ..encode import encode
from ..errors import FaceLoomError
from ..faces import Face
from ..folders import Folders, locate
from ..geometry import invert, transform, warp
from ..progress import Progress, silent
from ..runtime import OnnxModel, open_session
from .boxes import overlaps, suppress
from .decode import DECODERS, Found

# Edge of the picture a network of any size is shown.
EDGE = 640
# A frame whose longer side is more than this many times the network's edge is also looked at in tiles of that size, overlapping by
# so much: faces of 32 pixels in a 4K frame are 16 pixels in a tile, which is what these networks can do.
TILE, OVERLAP = 2, 0.2
# How much of the network's picture a frame takes up in the look for faces too close to be seen whole.
SMALL = 0.3
# Faces are the same face from this overlap on: intersection over union, and share of the smaller (the tile's border cuts faces).
SAME, NESTED = 0.4, 0.6
# Cosine of the tilt from which a face is looked at again upright (50 degrees).
TILTED = 0.64
# Looks in one call of the network, and candidates per frame that are compared with one another.
LOOKS = 16
CANDIDATES = 2000


@dataclass(frozen=True)
class Look:
    """A frame seen through ``matrix`` ``[2, 3]``, frame → network pixels."""

    frame: int
    matrix: np.ndarray


class OnnxDetector:
    """A ``Detector`` around one network. Make it with ``load_detector``."""

    def __init__(self, name: str, model: OnnxModel, contract: NetContract) -> None:
        self.name = name
        self.model = model
        self.contract = contract
        height = model.inputs[0].shape[2]
        self.edge = contract.size or (height if isinstance(height, int) else EDGE)

    def __repr__(self) -> str:
        return f"OnnxDetector({self.model.describe()})"

    def detect(self, images: torch.Tensor, threshold: float = 0.5, progress: Progress = silent) -> list[list[Face]]:
        """Faces of every frame of ``[B, H, W, 3]`` float32 0..1, unsorted.

        Every frame is seen whole, large ones in tiles as well. Frames where that finds nothing are seen small (close-ups that fill
        the frame), then turned by quarters. Faces that lie on their side or upside down are looked at again upright: the networks
        find them, but misplace their points.
        """
        height, width = images.shape[1:3]
        looks = [Look(frame, matrix) for frame in range(len(images)) for matrix in whole_and_tiles(height, width, self.edge)]
        found = self._run(images, looks, threshold, lambda done, total: progress(done * len(images) // max(total, 1), len(images)))
        for matrices in (small(height, width, self.edge), turned(height, width, self.edge)):
            empty = [frame for frame in range(len(images)) if not len(found[frame].scores)]
            found.update(self._run(images, [Look(frame, matrix) for frame in empty for matrix in matrices], threshold, silent))
            progress(len(images), len(images))
        found = self._upright(images, found, threshold)
        return [[_face(frame, *values) for values in zip(*found[frame], strict=True)] for frame in range(len(images))]

    def _upright(self, images: torch.Tensor, found: dict[int, Found], threshold: float) -> dict[int, Found]:
        """The same with faces that are far from upright replaced by what an upright look at them finds, if it finds them."""
        out = {}
        for frame, (boxes, scores, points) in found.items():
            boxes, scores, points = boxes.copy(), scores.copy(), points.copy()
            across = points[:, 1] - points[:, 0]
            for i in np.flatnonzero(across[:, 0] < TILTED * np.linalg.norm(across, axis=1)):
                span = 3 * float((boxes[i, 2:] - boxes[i, :2]).max())
                look = _square_look(tuple((boxes[i, :2] + boxes[i, 2:] + 1) / 2), span, self.edge, -np.arctan2(across[i, 1], across[i, 0]))
                again = self._run(images, [Look(frame, look)], threshold, silent)[frame]
                if len(again.scores):
                    best = int(np.argmax(overlaps(boxes[i], again.boxes)[0]))
                    if overlaps(boxes[i], again.boxes)[0][best] > SAME:
                        boxes[i], scores[i], points[i] = (values[best] for values in again)
            out[frame] = Found(boxes, scores, points)
        return out

    def _run(self, images: torch.Tensor, looks: Sequence[Look], threshold: float, progress: Progress) -> dict[int, Found]:
        """What is found through all looks, by frame, in frame pixels and without doubles."""
        parts: dict[int, list[Found]] = {look.frame: [] for look in looks}
        for start in range(0, len(looks), LOOKS):
            progress(start, len(looks))
            some = looks[start:start + LOOKS]
            pictures = torch.stack([warp(images[look.frame], look.matrix, self.edge, self.edge, "zeros").clamp(0, 1) for look in some])
            outputs = self.model.run({self.model.inputs[0].name: encode(pictures, self.contract).cpu().numpy()}, chunk=LOOKS)
            for look, found in zip(some, DECODERS[self.contract.family](outputs, len(some), self.edge, threshold), strict=True):
                parts[look.frame].append(_in_frame(found, look.matrix))
        return {frame: _merged(found) for frame, found in parts.items()}


def whole_and_tiles(height: int, width: int, edge: int) -> list[np.ndarray]:
    """The looks at a frame of any size: the whole of it, and tiles where it is large."""
    looks = [_square_look((width / 2, height / 2), max(height, width), edge)]
    span = TILE * edge
    if max(height, width) > span:
        looks += [_square_look((x, y), span, edge) for y in _tile_centers(height, span) for x in _tile_centers(width, span)]
    return looks


def small(height: int, width: int, edge: int) -> list[np.ndarray]:
    """The frame in the middle of a much larger black picture."""
    return [_square_look((width / 2, height / 2), max(height, width) / SMALL, edge)]


def turned(height: int, width: int, edge: int) -> list[np.ndarray]:
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


def _in_frame(found: Found, matrix: np.ndarray) -> Found:
    back = invert(matrix)
    x0, y0, x1, y1 = found.boxes.astype(np.float64).T
    corners = transform(np.stack([np.stack([x0, y0], -1), np.stack([x1, y0], -1), np.stack([x0, y1], -1), np.stack([x1, y1], -1)], 1), back)
    return Found(np.concatenate([corners.min(1), corners.max(1)], -1), found.scores, transform(found.points, back))


def _merged(parts: Sequence[Found]) -> Found:
    boxes, scores, points = (np.concatenate(same) for same in zip(*parts, strict=True))
    best = np.argsort(-scores, kind="stable")[:CANDIDATES]
    kept = best[suppress(boxes[best], scores[best], SAME, NESTED)]
    return Found(boxes[kept], scores[kept], points[kept])


def _face(frame: int, box: np.ndarray, score: float, points: np.ndarray) -> Face:
    return Face(frame, box, points, float(min(score, 1.0)))


def load_detector(path_or_name: str | Path, *, folders: Folders | None = None, contract: NetContract | None = None,
                  providers: str | Sequence[str] = "auto") -> OnnxDetector:
    """The detector in a file, or of a catalogue name; a file the catalogue does not know is told by its outputs."""
    found = locate(path_or_name, "detector", folders)
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
