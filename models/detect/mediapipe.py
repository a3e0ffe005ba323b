"""MediaPipe's 478-point face mesh (Apache-2.0) through its Tasks API.

MediaPipe's own detector sees faces that take up a good part of the image. The others, and turned ones, are found with dlib and shown
to MediaPipe upright in a crop of their own.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..crops.crop import crop_matrix
from ..errors import FaceLoomError
from ..faces import Face
from ..pixels.affine import invert, scale_of, transform
from ..pixels.sampling import warp
from ..pixels.tensors import to_uint8
from ..progress import Progress, silent
from ..runtime.method import Method, has_suffix
from .core_landmarks import face_from_mesh
from .dlib import DlibDetector

_MAX_FACES = 64  # per frame
# The crop in which a face that MediaPipe missed is shown to it.
_CROP_EDGE = 384
_CROP_FRAMING = 1.5


class MediaPipeDetector:
    """A ``Detector`` whose faces have ``mesh``, and 68 points and keypoints from it. path: MediaPipe's ``face_landmarker.task``.

    MediaPipe does not tell how sure it is: a face that dlib found too has dlib's score, any other the threshold it passed.
    """

    name = "mediapipe"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FaceLoomError(f"There is no file {self.path}; put MediaPipe's face_landmarker.task there.")
        self._landmarkers: dict[float, object] = {}  # the last one opened, by its threshold
        self._landmarker(0.5)
        self._dlib = DlibDetector()

    def __repr__(self) -> str:
        return f"MediaPipeDetector({self.path.name})"

    def _landmarker(self, threshold: float):
        if threshold not in self._landmarkers:
            self._landmarkers = {threshold: self._open_landmarker(threshold)}
        return self._landmarkers[threshold]

    def _open_landmarker(self, threshold: float):
        try:
            from mediapipe.tasks.python import BaseOptions, vision
        except ImportError:
            raise FaceLoomError(f"mediapipe is not installed; run {install_commands()}.") from None
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(self.path)), num_faces=_MAX_FACES,
            min_face_detection_confidence=threshold, min_face_presence_confidence=threshold,
        )
        try:
            return vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise FaceLoomError(f"{self.path} cannot be used by MediaPipe ({error}); download face_landmarker.task again.") from error

    def detect(self, images: torch.Tensor, threshold: float = 0.5, progress: Progress = silent) -> list[list[Face]]:
        """Find the faces of every frame of ``[B, H, W, 3]`` float32 0..1, unsorted."""
        landmarker = self._landmarker(round(min(max(threshold, 0.05), 0.95), 2))
        found = []
        for frame, image in enumerate(images):
            found.append(self._faces_of_frame(landmarker, image, frame, threshold))
            progress(frame + 1, len(images))
        return found

    def _faces_of_frame(self, landmarker, image: torch.Tensor, frame: int, threshold: float) -> list[Face]:
        guides = self._dlib.detect(image[None], threshold)[0]
        meshes = _meshes(landmarker, np.ascontiguousarray(to_uint8(image))) if min(image.shape[:2]) >= 16 else []
        faces = []
        for guide in guides:
            mesh = _mesh_of(guide, meshes)
            if mesh is None:
                mesh = self._mesh_in_crop(landmarker, image, guide)
            else:
                meshes = [other for other in meshes if other is not mesh]
            if mesh is not None:
                faces.append(face_from_mesh(frame, mesh, guide.score))
        return faces + [face_from_mesh(frame, mesh, threshold) for mesh in meshes]

    def _mesh_in_crop(self, landmarker, image: torch.Tensor, guide: Face) -> np.ndarray | None:
        """Find the mesh ``[478, 3]`` of the face ``guide`` in an upright crop around it, in image pixels; None if there is none."""
        matrix = crop_matrix(guide, _CROP_EDGE, _CROP_FRAMING)
        crop = to_uint8(warp(image, matrix, _CROP_EDGE, _CROP_EDGE))
        to_image = invert(matrix)
        meshes = [np.concatenate([transform(mesh[:, :2], to_image), mesh[:, 2:] * float(scale_of(to_image))], 1)
                  for mesh in _meshes(landmarker, np.ascontiguousarray(crop))]
        return _mesh_of(guide, meshes)


def install_commands() -> str:
    """Return the commands that install MediaPipe. The package asks for an OpenCV of its own, which would overwrite any other: where
    one is there, MediaPipe is installed without its dependencies."""
    if find_spec("cv2") is None:
        return "`python -m pip install mediapipe`"
    return ("`python -m pip install --no-deps mediapipe` and `python -m pip install absl-py flatbuffers matplotlib`, which leave the "
            "OpenCV that is there")


def _meshes(landmarker, picture: np.ndarray) -> list[np.ndarray]:
    """Find the mesh ``[478, 3]`` in pixels of every face in ``[H, W, 3]`` uint8 (MediaPipe's coordinates count from the pixel's corner)."""
    import mediapipe

    untyped: Any = mediapipe
    height, width = picture.shape[:2]
    result = landmarker.detect(untyped.Image(image_format=untyped.ImageFormat.SRGB, data=picture))
    return [np.array([(p.x * width - 0.5, p.y * height - 0.5, p.z * width) for p in face]) for face in result.face_landmarks]


def _mesh_of(guide: Face, meshes: list[np.ndarray]) -> np.ndarray | None:
    """Return the mesh that lies on the same head as ``guide`` and the same way up; None where there is none."""
    eyes = np.stack([mesh[[33, 133, 362, 263], :2].reshape(2, 2, 2).mean(1) for mesh in meshes]) if meshes else np.zeros((0, 2, 2))
    distances = np.linalg.norm(eyes - guide.keypoints[:2], axis=-1).max(-1, initial=0)
    best = int(distances.argmin()) if len(distances) else -1
    return meshes[best] if best >= 0 and distances[best] < 0.4 * guide.eye_distance else None


METHOD = Method("MediaPipe", kind="landmarker", families=("mediapipe",), suffixes=(".task",), recognizes=has_suffix(".task"),
                open=lambda file, loading: MediaPipeDetector(file.path))
