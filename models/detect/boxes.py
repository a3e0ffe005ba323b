"""Boxes: how much they overlap, which of them stand for the same face, and the shapes in which other nodes hand them over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..errors import FaceLoomError, brief


class FaceBoxes(list):
    """The boxes of every frame, as most core nodes take them, which also is the one box of a mapping that others take (Crop Image): that of
    the first face there is, or the whole picture where there is none."""

    def __init__(self, frames: Iterable[list[dict]], width: int, height: int) -> None:
        super().__init__(frames)
        self.picture = {"x": 0, "y": 0, "width": width, "height": height}

    def get(self, key: str, default: object = None) -> object:
        """Return what a mapping of one box would."""
        return next((boxes[0] for boxes in self if boxes), self.picture).get(key, default)


def overlaps(box: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compare one box ``[4]`` with others ``[K, 4]`` (x0, y0, x1, y1).

    Returns intersection over union ``[K]`` and intersection over the smaller of the two ``[K]``, both 0..1.
    """
    box, boxes = np.asarray(box, np.float64), np.asarray(boxes, np.float64)
    inner = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.clip(inner, 0, None).prod(-1)
    area = np.clip(box[2:] - box[:2], 0, None).prod()
    areas = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(-1)
    tiny = np.finfo(np.float64).tiny
    return shared / np.maximum(area + areas - shared, tiny), shared / np.maximum(np.minimum(area, areas), tiny)


def surroundings(box: np.ndarray, shape: Sequence[int], reach: float = 1.0) -> tuple[int, int, int, int]:
    """Return the part x0, y0, x1, y1 (exclusive) of a picture ``[H, W, ...]`` that reaches ``reach`` edges of a box ``[4]`` beyond it; at
    least one pixel."""
    edge = float(max(box[2] - box[0], box[3] - box[1])) * reach
    x0, y0 = (int(np.clip(low - edge, 0, most - 1)) for low, most in zip(box[:2], (shape[1], shape[0])))
    x1, y1 = (int(np.clip(np.ceil(high + edge), low + 1, most)) for high, low, most in zip(box[2:], (x0, y0), (shape[1], shape[0])))
    return x0, y0, x1, y1


def suppress(boxes: np.ndarray, scores: np.ndarray, union: float = 0.35, smaller: float | np.ndarray = 0.6) -> list[int]:
    """Return the indices of the boxes ``[K, 4]`` that remain when doubles are removed, best score first.

    A box goes when a better one overlaps it by more than ``union`` (intersection over union), or shares more than ``smaller`` (one
    number, or ``[K]``) of the area of the smaller of the two (boxes nested in one head).
    """
    kept: list[int] = []
    smaller = np.broadcast_to(smaller, len(boxes))
    for i in np.argsort(-np.asarray(scores), kind="stable"):
        if kept:
            iou, nested = overlaps(boxes[i], boxes[kept])
            if (iou > union).any() or (nested > smaller[i]).any():
                continue
        kept.append(int(i))
    return kept


def boxes_per_frame(bboxes: Sequence | Mapping, frames: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Convert a core BOUNDING_BOX in any of its shapes to boxes ``[K, 4]`` (x0, y0, x1, y1) and scores ``[K]`` for every frame.

    One dict, or one flat list of dicts, is used for every frame; a list per frame must have as many lists as there are frames,
    or one for all. FaceLoomError where it has another number or form, or where a box lacks a number or has one that is not finite.
    Boxes may lie anywhere and have any size, also none.
    """
    if isinstance(bboxes, Mapping):
        bboxes = [bboxes]
    if not isinstance(bboxes, Sequence) or isinstance(bboxes, str | bytes):
        raise FaceLoomError(f"bboxes must be bounding boxes, not {brief(bboxes)}; connect the boxes of a detection node.")
    bboxes = list(bboxes)
    if all(isinstance(item, Mapping) for item in bboxes):
        bboxes = [bboxes]
    if len(bboxes) == 1:
        bboxes = bboxes * frames
    if len(bboxes) != frames:
        raise FaceLoomError(
            f"The bboxes are for {len(bboxes)} image(s), but {frames} are connected; connect the images they were found in."
        )
    return [_boxes_and_scores(items) for items in bboxes]


def _boxes_and_scores(items: Sequence | Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Convert the dicts of one frame (or a single one)."""
    items = [items] if isinstance(items, Mapping) or not isinstance(items, Sequence) else items
    boxes, scores = [], []
    for item in items:
        try:
            x, y, width, height = (float(item[key]) for key in ("x", "y", "width", "height"))
            score = item.get("score")
            score = 1.0 if score is None else float(score)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError):
            raise FaceLoomError(f"A bounding box must have numbers x, y, width and height, not {brief(item)}.") from None
        if not np.isfinite([x, y, width, height, score]).all():
            raise FaceLoomError(f"A bounding box must have finite numbers, not {brief(item)}; remove that box, or repair the node that "
                                "made it.")
        boxes.append((x, y, x + width, y + height))
        scores.append(min(max(score, 0.0), 1.0))
    return np.array(boxes, np.float64).reshape(-1, 4), np.array(scores, np.float64)
