"""The built-in recognizer: dlib's 128-d face network (ResNet, D. King 2017; files in the public domain)."""

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

_CROP_EDGE = 150  # pixels, and padding of the crops that the network was trained on
_CROP_PADDING = 0.25
_REGION_EDGE = 320  # of the upright region of the image from which dlib cuts them
_FACES_PER_BATCH = 16


class DlibRecognizer:
    """A ``Recognizer`` of 128 numbers per face. Two photos of one person usually reach a cosine of 0.91 (dlib's own distance 0.6)."""

    space = "dlib128"

    def __init__(self) -> None:
        self._dlib = import_dlib()
        self._net = load_model("recognizer")

    def embed(self, images: torch.Tensor, faces: Faces, progress: Progress = silent) -> np.ndarray:
        """Embed the ``faces`` of ``images`` ``[B, H, W, 3]`` 0..1 as unit rows ``[N, 128]`` float32."""
        faces.check_image(images.shape)
        out = np.empty((len(faces), 128), np.float32)
        for start in range(0, len(faces), _FACES_PER_BATCH):
            crops = [self._aligned_crop(images[face.frame], face) for face in faces.items[start:start + _FACES_PER_BATCH]]
            rows = np.array(self._net.call("compute_face_descriptor", crops), np.float64)
            out[start:start + len(crops)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            progress(start + len(crops), len(faces))
        return out

    def _aligned_crop(self, image: torch.Tensor, face: Face) -> np.ndarray:
        """Cut dlib's own aligned crop ``[150, 150, 3]`` uint8, from an upright region so that a 4K frame is neither copied nor aliased."""
        points = face.points68
        if points is None:
            points = PointFitter(load_model("points68")).fit_box(luma_uint8(image), face.box)
        matrix = upright_matrix(*dlib_square(points))
        region = np.ascontiguousarray(to_uint8(warp(image, matrix, _REGION_EDGE, _REGION_EDGE)))
        # Rounded to whole pixels by dlib; a face fills half of the region, more than the crop resolves.
        points_in_region = [self._dlib.point(int(x), int(y)) for x, y in np.rint(transform(points, matrix))]
        whole = self._dlib.rectangle(0, 0, _REGION_EDGE - 1, _REGION_EDGE - 1)
        return self._dlib.get_face_chip(region, self._dlib.full_object_detection(whole, points_in_region), _CROP_EDGE, _CROP_PADDING)


METHOD = Method("dlib", label="dlib (built in)", open=lambda file, loading: DlibRecognizer())
