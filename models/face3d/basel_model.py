"""68 points of the Basel face model (Paysan et al. 2009) in the form Deng et al. 2019 ("Accurate 3D Face Reconstruction") trained with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import FaceLoomError
from ..faces import _frozen

# The camera the coefficients belong to: looking along z from 10 units away at a picture of 256, as 1015 pixels at 224.
FOCAL, EDGE, DISTANCE = 1015 * 256 / 224, 256, 10.0


@dataclass(frozen=True, eq=False)
class FaceModel:
    """The points' part of the model. mean: ``[68, 3]``, about the middle of the whole mean face. identity ``[68, 3, I]`` and
    expression ``[68, 3, E]``: what a unit of each coefficient adds."""

    mean: np.ndarray
    identity: np.ndarray
    expression: np.ndarray

    def __post_init__(self) -> None:
        for name, shape in (("mean", (68, 3)), ("identity", (68, 3, None)), ("expression", (68, 3, None))):
            object.__setattr__(self, name, _frozen(getattr(self, name), shape, name, np.float64))

    def points(self, identity: np.ndarray, expression: np.ndarray, angles: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """``[N, 68, 2]`` pixels of the 256 picture for coefficients ``[N, I]``, ``[N, E]``, angles ``[N, 3]`` in radians and a shift
        ``[N, 3]``."""
        shape = self.mean + np.einsum("pci,ni->npc", self.identity, identity) + np.einsum("pce,ne->npc", self.expression, expression)
        x, y, z = np.moveaxis(shape @ rotation(angles) + shift[:, None], -1, 0)
        scale = FOCAL / (DISTANCE - z)
        return np.stack([EDGE / 2 + scale * x, EDGE / 2 - 1 - scale * y], -1)


def rotation(angles: np.ndarray) -> np.ndarray:
    """``[N, 3]`` radians about x, y and z, in this order, to matrices ``[N, 3, 3]`` for points that stand on their left."""
    cos, sin = np.cos(angles).T, np.sin(angles).T
    one, zero = np.ones(len(angles)), np.zeros(len(angles))
    about_x = [[one, zero, zero], [zero, cos[0], -sin[0]], [zero, sin[0], cos[0]]]
    about_y = [[cos[1], zero, sin[1]], [zero, one, zero], [-sin[1], zero, cos[1]]]
    about_z = [[cos[2], -sin[2], zero], [sin[2], cos[2], zero], [zero, zero, one]]
    x, y, z = (np.moveaxis(np.array(rows), -1, 0) for rows in (about_x, about_y, about_z))
    return (z @ y @ x).swapaxes(1, 2)


def face_model(mean: np.ndarray, identity: np.ndarray, expression: np.ndarray, vertices: np.ndarray) -> FaceModel:
    """From the whole model: mean of ``3 V`` numbers (x, y, z by vertex), bases ``[3 V, I]`` and ``[3 V, E]``, and the 68
    vertices by number."""
    mean = np.asarray(mean, np.float64).reshape(-1, 3)
    identity, expression = (np.asarray(base).reshape(len(mean), 3, -1)[vertices] for base in (identity, expression))
    return FaceModel((mean - mean.mean(0))[vertices], identity, expression)


def load_bfm(path: str | os.PathLike) -> FaceModel:
    """The model in ``BFM_model_front.mat``, as D3DFR and Deep3DFaceRecon have it. Only numbers are read; nothing in it runs."""
    from scipy.io import loadmat

    path = Path(path)
    wanted = ("meanshape", "idBase", "exBase", "keypoints")
    try:
        data = loadmat(path, variable_names=wanted)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise FaceLoomError(f"{path.name} is not a MATLAB file this can read; fetch it again.") from error
    lacking = [name for name in wanted if name not in data]
    if lacking:
        raise FaceLoomError(f"{path.name} lacks {', '.join(lacking)}; it must be BFM_model_front.mat.")
    return face_model(data["meanshape"], data["idBase"], data["exBase"], data["keypoints"].ravel().astype(np.int64) - 1)
