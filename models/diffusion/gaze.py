"""Where eyes look, with a gradient: DiffFace's gaze estimator and the loss that holds the target's gaze."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..crops.crop import crop_matrix
from ..crops.templates import TEMPLATES
from ..errors import FaceLoomError
from ..faces import Faces
from ..files.checkpoints import load_weights
from ..files.find import FoundFile, find_by_path_or_name
from ..files.folders import Folders
from ..networks import build
from ..networks.eyenet import EyeNet
from ..pixels.affine import transform
from ..runtime.devices import DeviceManager, TorchModel
from .guidance import eye_pictures, gaze_loss

# Half the box of an eye in distances between the eyes: DiffFace's boxes (the eye and 5 pixels to the sides, 9 up and down, of 256) on an
# FFHQ crop, where the eyes are 63 pixels apart and an eye is 26 wide.
_HALF_BOX = (0.29, 0.14)


class GazeEstimator:
    """EyeNet and the manager that moves it. Make it with ``load_gaze_estimator``."""

    def __init__(self, name: str, net: EyeNet, devices: DeviceManager | None = None) -> None:
        self.model = TorchModel(name, net, devices)

    def __repr__(self) -> str:
        return f"GazeEstimator({self.model.name})"

    def differentiable(self) -> EyeNet:
        """The network with weights of its own, which any autograd mode may use."""
        with torch.inference_mode(False):
            return copy.deepcopy(self.model.net).eval().requires_grad_(False)


def load_gaze_estimator(path_or_name: str | Path | FoundFile, *, folders: Folders | None = None, devices: DeviceManager | None = None
                        ) -> GazeEstimator:
    """The estimator in ``GazeEstimator.pt``, whose size is read from its weights."""
    path = find_by_path_or_name(path_or_name, "research", folders).path
    return GazeEstimator(path.stem, eyenet_from(load_weights(path), path.name), devices)


def eyenet_from(weights: Mapping[str, Tensor], name: str) -> EyeNet:
    """The network of these weights, any number of stacks, features and landmarks."""
    stacks = len({found[1] for key in weights if (found := re.match(r"hgs\.(\d+)\.", key))})
    last = weights.get("outs.0.conv.weight")
    if not stacks or last is None or last.ndim != 4:
        raise FaceLoomError(f"{name} is not DiffFace's gaze estimator; use GazeEstimator.pt.")
    points, width = last.shape[:2]
    return build(lambda: EyeNet(stacks, width, points), weights, name)


def eye_boxes(count: int, size: int, faces: Faces | None = None) -> np.ndarray:
    """``[count, 2, 4]`` whole pixels x0, y0, x1, y1 (ends excluded) around both eyes of crops of ``size``, inside them.

    Without ``faces`` the eyes are taken to be where the FFHQ template has them.
    """
    if faces is None:
        eyes = np.broadcast_to((TEMPLATES["ffhq_512"] * size - 0.5)[:2], (count, 2, 2))
    else:
        eyes = np.stack([transform(face.keypoints[:2], crop_matrix(face, size, faces.framing)) for face in faces])
    apart = np.linalg.norm(eyes[:, 1] - eyes[:, 0], axis=-1)[:, None, None]
    half = np.maximum(apart * _HALF_BOX, 1)
    low, high = np.floor(eyes - half), np.ceil(eyes + half) + 1
    boxes = np.concatenate([np.clip(low, 0, size - 2), np.clip(high, 2, size)], -1)
    return boxes.astype(int)


class GazeLoss:
    """Mean difference in radians between where the eyes look and where the target's did, summed over both eyes (Kim et al. 2022, §3.3).

    net: grey eyes ``[N, 96, 160]`` to (…, gaze ``[N, 2]``). targets: pictures ``[N, 3, S, S]`` 0..1. boxes: ``[N, 2, 4]``. share: ``[N]``
    of the picture that the boxes cover.
    """

    fault = "The gaze estimator answered NaN; connect another one or set gaze_strength to 0."

    def __init__(self, net: EyeNet, targets: Tensor, boxes: np.ndarray) -> None:
        self.net, self.boxes = net, boxes
        edges = boxes[..., 2:] - boxes[..., :2]
        self.share = torch.from_numpy(edges.prod(-1).sum(-1) / (targets.shape[2] * targets.shape[3]))
        with torch.no_grad():
            self.wanted = self._looks(targets)

    def __call__(self, pictures: Tensor) -> Tensor:
        return gaze_loss(self._looks(pictures), self.wanted)

    def _looks(self, pictures: Tensor) -> Tensor:
        eyes = eye_pictures(pictures, self.boxes)
        return self.net(eyes.flatten(0, 1))[2].reshape(len(pictures), 2, 2)
