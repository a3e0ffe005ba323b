"""A pretend recognizer around an ONNX file, whole in one module: a face is the vector of its frame's number."""

from __future__ import annotations

import numpy as np
from faceloom.models.runtime.method import Method
from faceloom.models.runtime.onnx import open_session


class FrameRecognizer:
    """A ``Recognizer``."""

    def __init__(self, space, model) -> None:
        self.space, self.model = space, model

    def embed(self, images, faces, progress=None):
        return np.eye(8, dtype=np.float32)[faces.frame_indices]


METHOD = Method("Frame", kind="recognizer", suffixes=(".onnx",),
                recognizes=lambda file: file.suffix == ".onnx" and file.graph.inputs[0].name == "frame",
                open=lambda file, loading: FrameRecognizer(file.name, open_session(file.path, providers=loading.providers)))
