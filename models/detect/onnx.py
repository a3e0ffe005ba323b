"""Detectors that come as ONNX files: SCRFD, RetinaFace, YOLOv8-face, YuNet.

The networks see square views of a frame: all of it, tiles of a large one, a small copy for close-ups, quarter turns where nothing else
is found, and a turned square around every tilted face.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import FaceLoomError
from ..faces import Face
from ..files.catalogue import NetContract, as_net_contract, catalogue
from ..files.contents import Contents
from ..options.ranges import check_range
from ..pixels.affine import invert, transform
from ..pixels.sampling import warp
from ..progress import Progress, silent
from ..runtime.input import find_image_input, to_network_input
from ..runtime.method import Loading, Method, any_file
from ..runtime.onnx import OnnxModel, open_session
from .boxes import overlaps, suppress
from .decode import DECODERS, Detections

# Edge in pixels of the view shown to a network that takes any size, and of a second, small one in which faces that fill the frame have
# a size the network knows (insightface looks at these two as well). The small one costs a twenty-fifth.
USUAL_EDGE, CLOSE_UP_EDGE = 640, 128
# Where the graph has one size, the share of the view that the frame takes up in the one for close-ups.
CLOSE_UP_SHARE = CLOSE_UP_EDGE / USUAL_EDGE
# A frame whose longer side is more than this many times the network's edge is also seen in tiles of that size, which overlap by this
# share: faces of 32 pixels in a 4K frame are 16 pixels in a tile, which is what these networks can do.
TILE_PER_EDGE, TILE_OVERLAP = 2, 0.2
# Two boxes are the same face from this intersection over union on; where the border of a view cuts one, from this share of the smaller.
SAME_FACE_UNION, SAME_FACE_SMALLER = 0.4, 0.6
# A box that comes this near to the border of its view is taken to be cut by it, as a share of the view's edge.
CUT_RIM = 1 / 64
# The longer side of a face, in network pixels, at which its points are placed best: SCRFD's are off by 1 to 1.5 % of the face at 40 to 80
# pixels, by 0.6 % at 200 to 300 and by 1 % at 400; beyond 450 it loses the face.
BEST_FACE_EDGE = 210
# Cosine of the tilt (50 degrees) from which a face is detected again upright, in a square of so many longer sides of its box.
TILTED_COSINE, TILTED_SQUARE = 0.64, 3
# Views in one call of the network, and candidates per view that are compared with one another.
VIEWS_PER_BATCH = 16
MAX_CANDIDATES = 2000


@dataclass(frozen=True)
class View:
    """A square of a frame that the network sees. frame: its index. matrix: ``[2, 3]`` image → view. edge: of the view, pixels."""

    frame: int
    matrix: np.ndarray
    edge: int


@dataclass(frozen=True)
class ViewDetections:
    """What the network found in one view, in image pixels, every face once.

    cut: ``[K]``, whether the view's border cuts the face, though the frame goes on beyond it. rank: ``[K]``, by which the best of several
    views of a face is chosen, higher is better: those that show it whole, then the size nearest to ``BEST_FACE_EDGE``. (The score says
    little there: it is highest for views that are too small for good points.)
    """

    detections: Detections
    cut: np.ndarray
    rank: np.ndarray


class OnnxDetector:
    """A ``Detector`` around one network. Make it with ``load_detector``."""

    def __init__(self, name: str, model: OnnxModel, contract: NetContract) -> None:
        self.name = name
        self.model = model
        self._input, self.contract = find_image_input(model, contract, exact=False)
        self.has_one_size = isinstance((self._input.shape or (None,) * 4)[2], int)
        self.edge = self.contract.size or USUAL_EDGE

    def __repr__(self) -> str:
        return f"OnnxDetector({self.model.describe()})"

    def detect(self, images: torch.Tensor, threshold: float = 0.5, progress: Progress = silent) -> list[list[Face]]:
        """Find the faces of every frame of ``[B, H, W, 3]`` float32 0..1, unsorted.

        Every frame is seen whole, small (close-ups that fill the frame), and in tiles where it is large; frames where that finds
        nothing are turned by quarters. Where the graph has one size the small view costs as much as any other, and only frames where
        nothing else is found get it. Faces that lie on their side or upside down are detected again upright: the networks find them,
        but misplace their points.
        """
        check_range("threshold", threshold)
        found: dict[int, Detections] = {}
        empty = range(len(images))
        for views in self._rounds(*images.shape[1:3]):
            report = silent if found else lambda done, total: progress(done * len(images) // max(total, 1), len(images))
            found.update(self._detect_in_views(images, [View(frame, *view) for frame in empty for view in views], threshold, report))
            empty = [frame for frame, detections in found.items() if not len(detections.scores)]
            progress(len(images), len(images))
        found = self._detect_tilted_upright(images, found, threshold)
        return [[_as_face(frame, *values) for values in zip(*found[frame], strict=True)] for frame in range(len(images))]

    def _rounds(self, height: int, width: int) -> list[list[tuple[np.ndarray, int]]]:
        """Return matrix and edge of the views of a frame, round by round; later rounds are for frames without a face so far."""
        size = height, width
        usual, close_up, turned = ([(matrix, self.edge) for matrix in views(*size, self.edge)]
                                   for views in (whole_and_tile_views, close_up_views, turned_views))
        if self.has_one_size:
            return [usual, close_up, turned]
        return [[*usual, (whole_view(*size, CLOSE_UP_EDGE), CLOSE_UP_EDGE)],
                [*turned, *((matrix, CLOSE_UP_EDGE) for matrix in turned_views(*size, CLOSE_UP_EDGE))]]

    def _detect_tilted_upright(self, images: torch.Tensor, found: dict[int, Detections], threshold: float) -> dict[int, Detections]:
        """Detect faces that are far from upright again in views that show them upright; where that fails, keep what there is."""
        out = {frame: Detections(*(values.copy() for values in detections)) for frame, detections in found.items()}
        tilted, views = [], []
        for frame, (boxes, _, keypoints) in out.items():
            across = keypoints[:, 1] - keypoints[:, 0]
            for i in np.flatnonzero(across[:, 0] < TILTED_COSINE * np.linalg.norm(across, axis=1)):
                span = TILTED_SQUARE * float((boxes[i, 2:] - boxes[i, :2]).max())
                middle = tuple((boxes[i, :2] + boxes[i, 2:] + 1) / 2)
                tilted.append((frame, i))
                views.append(View(frame, _view_matrix(middle, span, self.edge, -np.arctan2(across[i, 1], across[i, 0])), self.edge))
        for (frame, i), view in zip(tilted, self._run_views(images, views, threshold, silent), strict=True):
            iou = overlaps(out[frame].boxes[i], view.detections.boxes)[0]
            if iou.max(initial=0) > SAME_FACE_UNION:
                for values, better in zip(out[frame], view.detections, strict=True):
                    values[i] = better[int(np.argmax(iou))]
        return out

    def _detect_in_views(self, images: torch.Tensor, views: Sequence[View], threshold: float, progress: Progress) -> dict[int, Detections]:
        """Find the faces of every frame in its views, every face once."""
        parts: dict[int, list[ViewDetections]] = {view.frame: [] for view in views}
        for view, detections in zip(views, self._run_views(images, views, threshold, progress), strict=True):
            parts[view.frame].append(detections)
        return {frame: _merge(detections) for frame, detections in parts.items()}

    def _run_views(self, images: torch.Tensor, views: Sequence[View], threshold: float, progress: Progress) -> list[ViewDetections]:
        """Run the network on every view; results in the views' order."""
        size = images.shape[2], images.shape[1]
        found: dict[int, ViewDetections] = {}
        for edge in dict.fromkeys(view.edge for view in views):
            same_edge = [i for i, view in enumerate(views) if view.edge == edge]
            for start in range(0, len(same_edge), VIEWS_PER_BATCH):
                progress(len(found), len(views))
                batch = same_edge[start:start + VIEWS_PER_BATCH]
                crops = torch.stack([warp(images[views[i].frame], views[i].matrix, edge, edge, "zeros").clamp(0, 1) for i in batch])
                outputs = self.model.run({self._input.name: to_network_input(crops, self.contract).cpu().numpy()}, chunk=VIEWS_PER_BATCH)
                decoded = DECODERS[self.contract.family](outputs, len(batch), edge, threshold)
                found.update({i: _to_frame(detections, views[i], size) for i, detections in zip(batch, decoded, strict=True)})
        return [found[i] for i in range(len(views))]


def whole_view(height: int, width: int, edge: int) -> np.ndarray:
    """Return ``[2, 3]`` image → a view of ``edge`` pixels that shows all of the frame."""
    return _view_matrix((width / 2, height / 2), max(height, width), edge)


def whole_and_tile_views(height: int, width: int, edge: int) -> list[np.ndarray]:
    """Return the matrices ``[2, 3]`` of the views for a frame of any size: the whole of it, and tiles where it is large."""
    matrices = [whole_view(height, width, edge)]
    span = TILE_PER_EDGE * edge
    if max(height, width) > span:
        matrices += [_view_matrix((x, y), span, edge) for y in _tile_centers(height, span) for x in _tile_centers(width, span)]
    return matrices


def close_up_views(height: int, width: int, edge: int) -> list[np.ndarray]:
    """Return the one matrix ``[2, 3]`` that shows the frame in the middle of a much larger black square."""
    return [_view_matrix((width / 2, height / 2), max(height, width) / CLOSE_UP_SHARE, edge)]


def turned_views(height: int, width: int, edge: int) -> list[np.ndarray]:
    """Return the matrices ``[2, 3]`` that show the whole frame turned by 90, 270 and 180 degrees."""
    return [_view_matrix((width / 2, height / 2), max(height, width), edge, quarter * np.pi / 2) for quarter in (1, 3, 2)]


def _view_matrix(center: tuple[float, float], span: float, edge: int, angle: float = 0.0) -> np.ndarray:
    """Return ``[2, 3]`` image → view for a square of ``span`` image pixels around ``center`` (counted from the frame's corner), turned by
    ``angle`` (radians; positive: clockwise on the screen)."""
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]]) * (edge / span)
    middle = np.array(center) - 0.5
    return np.concatenate([linear, ((edge - 1) / 2 - linear @ middle)[:, None]], 1)


def _tile_centers(length: int, span: int) -> Iterable[float]:
    """Return the middles, along one axis, of the tiles of ``span`` pixels that cover ``length`` pixels."""
    if length <= span:
        return [length / 2]
    count = 1 + int(np.ceil((length - span) / (span * (1 - TILE_OVERLAP))))
    return np.linspace(span / 2, length - span / 2, count)


def _to_frame(candidates: Detections, view: View, size: tuple[int, int]) -> ViewDetections:
    """Remove doubles among the candidates of a view and bring them to image pixels. size: the frame's width and height."""
    best = np.argsort(-candidates.scores, kind="stable")[:MAX_CANDIDATES]
    kept = best[suppress(candidates.boxes[best], candidates.scores[best], SAME_FACE_UNION, np.inf)]
    boxes, scores, keypoints = (values[kept] for values in candidates)
    to_image = invert(view.matrix)
    x0, y0, x1, y1 = boxes.astype(np.float64).T
    corners = np.stack([np.stack([x0, y0], -1), np.stack([x1, y0], -1), np.stack([x0, y1], -1), np.stack([x1, y1], -1)], 1)
    corners = transform(corners, to_image)
    low, high = corners.min(1), corners.max(1)
    border = transform(np.array([[-0.5, -0.5], [view.edge - 0.5, view.edge - 0.5]]), to_image)
    first, last = border.min(0), border.max(0)
    rim = CUT_RIM * (last - first)
    cut = ((first > 0) & (low < first + rim)).any(1) | ((last < np.array(size) - 1) & (high > last - rim)).any(1)
    rank = -np.abs(np.log(np.maximum((boxes[:, 2:] - boxes[:, :2]).max(-1), 1) / BEST_FACE_EDGE)) - 9 * cut
    return ViewDetections(Detections(np.concatenate([low, high], -1), scores, transform(keypoints, to_image)), cut, rank)


def _merge(views: Sequence[ViewDetections]) -> Detections:
    """Join what several views of a frame show, every face once, as its best view shows it."""
    boxes, scores, keypoints = (np.concatenate(same) for same in zip(*(view.detections for view in views), strict=True))
    cut, rank = (np.concatenate([getattr(view, name) for view in views]) for name in ("cut", "rank"))
    kept = suppress(boxes, rank, SAME_FACE_UNION, np.where(cut, SAME_FACE_SMALLER, np.inf))
    return Detections(boxes[kept], scores[kept], keypoints[kept])


def _as_face(frame: int, box: np.ndarray, score: float, keypoints: np.ndarray) -> Face:
    return Face(frame, box, keypoints, float(min(score, 1.0)))


def _open(file: Contents, loading: Loading) -> OnnxDetector:
    """Open a detector; for a file that the catalogue does not know, the form of its outputs decides how they are decoded."""
    model = open_session(file.path, providers=loading.providers, kind="detector")
    contract = as_net_contract(loading.contract or (file.row or catalogue()[_row_with_such_outputs(model)]).contract)
    if contract.family not in DECODERS:
        raise FaceLoomError(f"FaceLoom cannot read detectors of the {contract.family} family; use SCRFD, YOLOv8-face or YuNet.")
    return OnnxDetector(file.name, model, contract)


def _row_with_such_outputs(model: OnnxModel) -> str:
    """Return the name of a catalogue row whose network has outputs of the same form."""
    if len(model.outputs) == 1:
        return "yoloface_8n"
    return "yunet_2023_mar" if len(model.outputs) == 12 else "det_10g"


METHOD = Method("ONNX", kind="detector", suffixes=(".onnx",), recognizes=any_file, open=_open)
