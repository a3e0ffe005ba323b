"""dlib's 128-d face network (ResNet, D. King 2017; files in the public domain)."""

from __future__ import annotations

import numpy as np
import torch

from ..detect.dlib import import_dlib, load_model
from ..detect.dlib_points import PointFitter, dlib_square, luma_uint8, upright_matrix
from ..faces import Face, Faces
from ..pixels.affine import transform
from ..pixels.sampling import warp
from ..pixels.tensors import to_uint8
from ..progress import Progress, silent
from ..runtime.method import Method

_CHIP = 150  # what the network was trained on
_PADDING = 0.25
_BATCH = 16
_REGION = 320


class DlibRecognizer:
    """128 numbers per face. Two photos of one person usually reach a cosine of 0.91 (dlib's own distance 0.6)."""

    space = "dlib128"

    def __init__(self) -> None:
        self._dlib = import_dlib()
        self._net = load_model("recognizer")

    def embed(self, images: torch.Tensor, faces: Faces, progress: Progress = silent) -> np.ndarray:
        """``[N, 128]`` float32 unit rows for ``faces`` of ``images`` ``[B, H, W, 3]``."""
        faces.check_image(images.shape)
        out = np.empty((len(faces), 128), np.float32)
        for start in range(0, len(faces), _BATCH):
            chips = [self._chip(images[face.frame], face) for face in faces.items[start:start + _BATCH]]
            rows = np.array(self._net.compute_face_descriptor(chips), np.float64)
            out[start:start + len(chips)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            progress(start + len(chips), len(faces))
        return out

    def _chip(self, image: torch.Tensor, face: Face) -> np.ndarray:
        """dlib's own aligned chip, cut from an upright region so that a 4K frame is neither copied nor aliased."""
        points = face.points68
        if points is None:
            points = PointFitter(load_model("points68")).fit_box(luma_uint8(image), face.box)
        matrix = upright_matrix(*dlib_square(points))
        region = np.ascontiguousarray(to_uint8(warp(image, matrix, _REGION, _REGION)))
        # Rounded to whole pixels by dlib; a face fills half of the region, more than the chip resolves.
        corners = [self._dlib.point(int(x), int(y)) for x, y in np.rint(transform(points, matrix))]
        whole = self._dlib.rectangle(0, 0, _REGION - 1, _REGION - 1)
        return self._dlib.get_face_chip(region, self._dlib.full_object_detection(whole, corners), _CHIP, _PADDING)


METHOD = Method("dlib", label="dlib (built in)", open=lambda file, loading: DlibRecognizer())
