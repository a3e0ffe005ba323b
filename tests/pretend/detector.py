"""A pretend detector around an ONNX file, whole in one module: it finds one face in the middle of every frame."""

from __future__ import annotations

import numpy as np
from faceloom.models.faces import Face
from faceloom.models.runtime.method import Method
from faceloom.models.runtime.onnx import open_session


class MiddleDetector:
    """A ``Detector``."""

    def __init__(self, name, model) -> None:
        self.name, self.model = name, model

    def detect(self, images, threshold=0.5, progress=None):
        height, width = images.shape[1:3]
        middle, reach = np.array([width, height]) / 2, min(width, height) / 4
        points = middle + reach * np.array([(-.3, -.2), (.3, -.2), (0, 0), (-.2, .3), (.2, .3)])
        return [[Face(frame, [*(middle - reach), *(middle + reach)], points)] for frame in range(len(images))]


METHOD = Method("Middle", kind="detector", suffixes=(".onnx",),
                recognizes=lambda file: file.suffix == ".onnx" and file.graph.inputs[0].name == "anything",
                open=lambda file, loading: MiddleDetector(file.name, open_session(file.path, providers=loading.providers)))
