"""The built-in detector: dlib's HOG detector, searched so that close-ups, cut, small and turned faces are found too, and
dlib's face network where HOG is in doubt.

The networks' files come from the ``face_recognition_models`` package, which is located but never imported (it needs
``pkg_resources``, which new setuptools no longer brings).
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from ..errors import FaceLoomError
from ..faces import Face, box_from_68, keypoints_from_68
from ..progress import Progress, silent
from .dlib_many_starts import ConsensusFitter
from .dlib_network import FaceNetwork, NetworkFace
from .dlib_points import PointFitter, luma_uint8
from .dlib_search import search_faces

_FILE_NAMES = {
    "points68": "shape_predictor_68_face_landmarks.dat",
    "resnet": "dlib_face_recognition_resnet_model_v1.dat",
    "network": "mmod_human_face_detector.dat",
    "points5": "shape_predictor_5_face_landmarks.dat",
}


def import_dlib():
    """The dlib module, or one sentence about how to get it."""
    try:
        import dlib
    except ImportError:
        raise FaceLoomError("dlib is not installed; run `python -m pip install dlib-bin face_recognition_models`.") from None
    return dlib


@lru_cache(maxsize=1)
def model_folder() -> Path:
    """Where the ``face_recognition_models`` package keeps its files."""
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        raise FaceLoomError("dlib's model files are not installed; run `python -m pip install face_recognition_models`.")
    return Path(spec.submodule_search_locations[0]) / "models"


@lru_cache(maxsize=len(_FILE_NAMES))
def load_model(kind: str):
    """``"points68"`` and ``"points5"``: the point predictors; ``"resnet"``: the 128-d face network; ``"network"``: the detecting one.
    Loaded once, all are safe to share."""
    dlib = import_dlib()
    path = model_folder() / _FILE_NAMES[kind]
    make = {"resnet": dlib.face_recognition_model_v1, "network": dlib.cnn_face_detection_model_v1}.get(kind, dlib.shape_predictor)
    try:
        return make(str(path))
    except RuntimeError as error:
        raise FaceLoomError(f"{path} cannot be read ({error}); reinstall face_recognition_models.") from error


def load_face_network(fitter: PointFitter) -> FaceNetwork | None:
    """The second opinion; None where ``face_recognition_models`` is too old to bring its file."""
    if not (model_folder() / _FILE_NAMES["network"]).is_file():
        return None
    five = load_model("points5") if (model_folder() / _FILE_NAMES["points5"]).is_file() else None
    return FaceNetwork(load_model("network"), ConsensusFitter(fitter, five))


@lru_cache(maxsize=1)
def hog_detector():
    """dlib's frontal face detector, unpacked once."""
    return import_dlib().get_frontal_face_detector()


class DlibDetector:
    """HOG boxes or the face network's, 68 points. The score is the logistic of the HOG margin: 0.5 is dlib's own threshold (for the
    network a confidence of 0.4)."""

    name = "dlib"

    def __init__(self) -> None:
        self._hog = hog_detector()
        self._fitter = PointFitter(load_model("points68"))
        self._network = None  # loaded for the first frame on which HOG is in doubt

    def detect(self, images: torch.Tensor, threshold: float = 0.5, progress: Progress = silent) -> list[list[Face]]:
        """Faces of every frame of ``[B, H, W, 3]`` float32 0..1, unsorted."""
        found = []
        for index, image in enumerate(images):
            gray = luma_uint8(image)
            finds = search_faces(gray, self._hog, self._fitter, threshold, partial(self._second_opinion, image, gray))
            found.append([self._face(index, points, score) for points, score in finds])
            progress(index + 1, len(images))
        return found

    def _second_opinion(self, image: torch.Tensor, gray: np.ndarray, wanted: float, **how) -> list[NetworkFace]:
        self._network = self._network or load_face_network(self._fitter)
        return self._network.look(image, gray, wanted, **how) if self._network else []

    def faces_in_boxes(self, image: torch.Tensor, boxes: np.ndarray, scores: np.ndarray, frame: int) -> list[Face]:
        """One face for every box ``[K, 4]`` (x0, y0, x1, y1) of another detector, whatever is in it."""
        gray = luma_uint8(image)
        return [self._face(frame, self._fitter.fit_box(gray, box), float(score)) for box, score in zip(boxes, scores, strict=True)]

    @staticmethod
    def _face(frame: int, points: np.ndarray, score: float) -> Face:
        return Face(frame, box_from_68(points), keypoints_from_68(points), score, points68=points)
