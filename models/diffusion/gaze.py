"""Where eyes look, with a gradient: DiffFace's gaze estimator, and the loss that keeps the target's gaze."""

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
from ..runtime.method import Method, is_row
from .guidance import eye_crops, gaze_loss

# Half the width and height of an eye's box, in distances between the eyes. DiffFace's boxes (the eye and 5 pixels to the sides, 9 up and
# down, of 256) on an FFHQ crop, where the eyes are 63 pixels apart and an eye is 26 wide.
_HALF_BOX = (0.29, 0.14)


class GazeEstimator:
    """EyeNet and the manager that moves it between devices. Made by ``load_gaze_estimator``."""

    def __init__(self, name: str, net: EyeNet, devices: DeviceManager | None = None) -> None:
        self.model = TorchModel(name, net, devices)

    def __repr__(self) -> str:
        return f"GazeEstimator({self.model.name})"

    def differentiable(self) -> EyeNet:
        """Return a copy of the network with weights of its own, which any autograd mode may use."""
        with torch.inference_mode(False):
            return copy.deepcopy(self.model.net).eval().requires_grad_(False)


def load_gaze_estimator(path_or_name: str | Path | FoundFile, *, folders: Folders | None = None, devices: DeviceManager | None = None
                        ) -> GazeEstimator:
    """Open the estimator in ``GazeEstimator.pt``; its size is read from its weights."""
    path = find_by_path_or_name(path_or_name, "research", folders).path
    return GazeEstimator(path.stem, build_eyenet(load_weights(path), path.name), devices)


def build_eyenet(weights: Mapping[str, Tensor], name: str) -> EyeNet:
    """Build the network of these weights, with any number of stacks, features and landmarks. name: of the file, for errors."""
    stacks = len({match[1] for key in weights if (match := re.match(r"hgs\.(\d+)\.", key))})
    last = weights.get("outs.0.conv.weight")
    if not stacks or last is None or last.ndim != 4:
        raise FaceLoomError(f"{name} is not DiffFace's gaze estimator; use GazeEstimator.pt.")
    points, width = last.shape[:2]
    return build(lambda: EyeNet(stacks, width, points), weights, name)


def eye_boxes(count: int, size: int, faces: Faces | None = None) -> np.ndarray:
    """Return boxes ``[count, 2, 4]`` around both eyes of crops of ``size`` pixels: whole pixels x0, y0, x1, y1 (ends excluded) inside the
    crop.

    Without ``faces`` the eyes are taken to be where the FFHQ template has them.
    """
    if faces is None:
        eyes = np.broadcast_to((TEMPLATES["ffhq_512"] * size - 0.5)[:2], (count, 2, 2))
    else:
        eyes = np.stack([transform(face.keypoints[:2], crop_matrix(face, size, faces.framing)) for face in faces])
    distance = np.linalg.norm(eyes[:, 1] - eyes[:, 0], axis=-1)[:, None, None]
    half = np.maximum(distance * _HALF_BOX, 1)
    low, high = np.floor(eyes - half), np.ceil(eyes + half) + 1
    boxes = np.concatenate([np.clip(low, 0, size - 2), np.clip(high, 2, size)], -1)
    return boxes.astype(int)


class GazeLoss:
    """Mean difference in radians between the gaze and the target's gaze, summed over both eyes (Kim et al. 2022, section 3.3).

    net: grey eyes ``[N, 96, 160]`` to (…, gaze ``[N, 2]``). targets: crops ``[N, 3, S, S]`` 0..1. boxes: ``[N, 2, 4]``, as
    ``eye_boxes`` makes them. covered_share: ``[N]``, the share of the crop that the boxes cover.
    """

    nan_message = "The gaze estimator returned NaN; connect another one or set gaze_strength to 0."

    def __init__(self, net: EyeNet, targets: Tensor, boxes: np.ndarray) -> None:
        self.net, self.boxes = net, boxes
        edges = boxes[..., 2:] - boxes[..., :2]
        self.covered_share = torch.from_numpy(edges.prod(-1).sum(-1) / (targets.shape[2] * targets.shape[3]))
        with torch.no_grad():
            self.target_gazes = self._estimate(targets)

    def __call__(self, crops: Tensor) -> Tensor:
        return gaze_loss(self._estimate(crops), self.target_gazes)

    def _estimate(self, crops: Tensor) -> Tensor:
        """Return pitch and yaw ``[N, 2, 2]`` of both eyes."""
        eyes = eye_crops(crops, self.boxes)
        return self.net(eyes.flatten(0, 1))[2].reshape(len(crops), 2, 2)


METHOD = Method("GazeEstimator", kind="research",
                recognizes=is_row("diffface_gaze", lambda file: "outs.0.conv.weight" in file.tensors),
                open=lambda file, loading: load_gaze_estimator(file.path, folders=loading.folders, devices=loading.devices))
