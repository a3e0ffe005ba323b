"""What detectors answer, cell by cell at every stride, against the rules their authors publish."""

from __future__ import annotations

import numpy as np
import pytest
from faceloom.models.detect.decode import DECODERS
from faceloom.models.errors import FaceLoomError

EDGE, STRIDES, COUNT = 160, (8, 16, 32), 2
# Row, column and picture of the one sure cell at each stride.
CELLS = {8: (13, 4, 0), 16: (2, 7, 1), 32: (3, 1, 1)}
VALUES = {1: [.9], 4: [.5, .25, 1.5, .75], 10: np.linspace(-1, 1.25, 10)}


def answers(family: str) -> list[np.ndarray]:
    anchors = 2 if family == "scrfd" else 1
    kinds = [(1, .9), (4, None), (10, None)] if family == "scrfd" else [(1, .9), (1, .8), (4, None), (10, None)]
    outputs = []
    for width, score in kinds:
        for stride in STRIDES:
            side = EDGE // stride
            values = np.zeros((COUNT, side * side * anchors, width), np.float32)
            row, column, picture = CELLS[stride]
            values[picture, (row * side + column) * anchors + anchors - 1] = VALUES[width] if score is None else score
            outputs.append(values)
    return outputs


@pytest.mark.parametrize("family, score", [("scrfd", .9), ("yunet", .72)])
@pytest.mark.parametrize("order", [1, -1], ids=["as published", "backwards"])
def test_every_stride(family, score, order):
    """YuNet's class and object score are multiplied, its sizes are exponents; both scale everything by the stride."""
    outputs = answers(family)
    if order < 0 and family == "yunet":
        outputs = outputs[3:6] + outputs[:3] + outputs[:5:-1]
    elif order < 0:
        outputs = outputs[::-1]
    found = DECODERS[family](outputs, COUNT, EDGE, .7)
    assert [len(seen.scores) for seen in found] == [1, 2]
    for stride, (row, column, picture) in CELLS.items():
        corner, low, high = np.array([column, row]) * stride, np.array(VALUES[4][:2]), np.array(VALUES[4][2:])
        if family == "scrfd":
            box = np.concatenate([corner - low * stride, corner + high * stride])
        else:
            middle, half = corner + low * stride, np.exp(high) * stride / 2
            box = np.concatenate([middle - half, middle + half])
        seen = found[picture]
        at = int(np.abs(seen.boxes - box).sum(1).argmin())
        assert seen.scores[at] == pytest.approx(score)
        assert np.allclose(seen.boxes[at], box, atol=1e-3)
        assert np.allclose(seen.keypoints[at], corner + np.reshape(VALUES[10], (5, 2)) * stride, atol=1e-3)


@pytest.mark.parametrize("transposed", [False, True])
def test_yolo_in_pixels(transposed):
    values = np.zeros((1, 525, 20), np.float32)
    values[0, 300] = [80, 60, 40, 20, .9, *np.ravel([[x, x + 1, .5] for x in range(10, 60, 10)])]
    (found,) = DECODERS["yolov8"]([values if transposed else values.transpose(0, 2, 1)], 1, EDGE, .5)
    assert np.allclose(found.boxes, [[60, 50, 100, 70]]) and found.scores == pytest.approx([.9])
    assert np.allclose(found.keypoints, [[[x, x + 1] for x in range(10, 60, 10)]])


@pytest.mark.parametrize("family", ["scrfd", "yunet"])
def test_retinaface_with_its_priors_outside(family):
    """The three outputs of Pytorch_Retinaface, whose boxes need priors that the graph does not hold."""
    outputs = [np.zeros((1, 1050, width), np.float32) for width in (4, 2, 10)]
    with pytest.raises(FaceLoomError, match="does not return scores, boxes and five keypoints as SCRFD, YOLOv8-face and YuNet do"):
        DECODERS[family](outputs, 1, EDGE, .5)
