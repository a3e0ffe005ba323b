"""The 68 landmarks of the Basel face model (Paysan et al. 2009), as D3DFR was trained with it (Deng et al. 2019, "Accurate 3D Face
Reconstruction with Weakly-Supervised Learning")."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import FaceLoomError
from ..faces import read_only
from ..files.matlab import read_matlab

# The camera that the coefficients belong to looks along z from 10 units away at a picture of 256 pixels; its focal length is 1015 pixels
# of a picture of 224.
FOCAL_LENGTH, PICTURE_SIZE, CAMERA_DISTANCE = 1015 * 256 / 224, 256, 10.0


@dataclass(frozen=True, eq=False)
class FaceModel:
    """The landmarks of the model.

    mean: ``[68, 3]``, relative to the centre of the whole mean face. identity ``[68, 3, I]``, expression ``[68, 3, E]``: what one unit of
    each coefficient adds.
    """

    mean: np.ndarray
    identity: np.ndarray
    expression: np.ndarray

    def __post_init__(self) -> None:
        for name, shape in (("mean", (68, 3)), ("identity", (68, 3, None)), ("expression", (68, 3, None))):
            object.__setattr__(self, name, read_only(getattr(self, name), shape, name, np.float64))

    def points(self, identity: np.ndarray, expression: np.ndarray, angles: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """Project the landmarks into the picture of 256 pixels: ``[N, 68, 2]`` pixels.

        identity, expression: coefficients ``[N, I]``, ``[N, E]``. angles: ``[N, 3]`` radians, see ``rotation_matrices``. shift: ``[N, 3]``.
        """
        shape = self.mean + np.einsum("pci,ni->npc", self.identity, identity) + np.einsum("pce,ne->npc", self.expression, expression)
        x, y, z = np.moveaxis(shape @ rotation_matrices(angles) + shift[:, None], -1, 0)
        scale = FOCAL_LENGTH / (CAMERA_DISTANCE - z)
        return np.stack([PICTURE_SIZE / 2 + scale * x, PICTURE_SIZE / 2 - 1 - scale * y], -1)


def rotation_matrices(angles: np.ndarray) -> np.ndarray:
    """Turn angles ``[N, 3]`` in radians about x, y and z, in this order, into matrices ``[N, 3, 3]`` to multiply row vectors by."""
    cos, sin = np.cos(angles).T, np.sin(angles).T
    one, zero = np.ones(len(angles)), np.zeros(len(angles))
    about_x = [[one, zero, zero], [zero, cos[0], -sin[0]], [zero, sin[0], cos[0]]]
    about_y = [[cos[1], zero, sin[1]], [zero, one, zero], [-sin[1], zero, cos[1]]]
    about_z = [[cos[2], -sin[2], zero], [sin[2], cos[2], zero], [zero, zero, one]]
    x, y, z = (np.moveaxis(np.array(rows), -1, 0) for rows in (about_x, about_y, about_z))
    return (z @ y @ x).swapaxes(1, 2)


def landmark_model(mean: np.ndarray, identity: np.ndarray, expression: np.ndarray, vertices: np.ndarray) -> FaceModel:
    """Take the landmarks out of the whole model of V vertices.

    mean: ``3 V`` numbers (x, y, z by vertex). identity, expression: ``[3 V, I]`` and ``[3 V, E]``. vertices: the indices of the 68.
    """
    mean = np.asarray(mean, np.float64).reshape(-1, 3)
    identity, expression = (np.asarray(base).reshape(len(mean), 3, -1)[vertices] for base in (identity, expression))
    return FaceModel((mean - mean.mean(0))[vertices], identity, expression)


def load_basel_model(path: str | os.PathLike) -> FaceModel:
    """Read the model from ``BFM_model_front.mat``, the file of D3DFR and Deep3DFaceRecon. Nothing in the file is executed."""
    path = Path(path)
    wanted = ("meanshape", "idBase", "exBase", "keypoints")
    data = read_matlab(path, wanted)
    lacking = [name for name in wanted if name not in data]
    if lacking:
        raise FaceLoomError(f"{path.name} lacks {', '.join(lacking)}; it must be BFM_model_front.mat.")
    mean, identity, expression, keypoints = (data[name] for name in wanted)
    vertices = keypoints.ravel() - 1.0
    fits = mean.size % 3 == 0 and all(base.ndim == 2 and len(base) == mean.size and base.size for base in (identity, expression))
    if not fits or len(vertices) != 68 or not bool(((vertices >= 0) & (vertices < mean.size // 3)).all()):
        raise FaceLoomError(f"{path.name} holds arrays of other sizes than BFM_model_front.mat; fetch it again.")
    if not all(np.isfinite(data[name]).all() for name in wanted):
        raise FaceLoomError(f"{path.name} holds values that are not numbers; fetch it again.")
    return landmark_model(mean, identity, expression, vertices.astype(np.int64))
