"""Segment Anything as an occluder: the network is given the face's box and points and returns the segment that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch

from ..crops.crop import crop_matrix
from ..errors import FaceLoomError
from ..faces import Faces
from ..files.contents import Contents
from ..files.kinds import check_kind, kind_of_weights
from ..pixels.affine import compose, invert, transform
from ..pixels.sampling import sample_crops
from ..progress import Progress, silent
from ..runtime.devices import DeviceManager, TorchModel
from ..runtime.method import Loading, Method, any_file
from .occlude import draw_mask

# The published networks by the width of their image encoder, which is the last dimension of a tensor of this name.
NETWORK_BY_WIDTH = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
WIDTH_TENSOR = "image_encoder.pos_embed"
# Edge of the square that the network sees, in edges of the crop around which it lies. A square of its own, so that a small face in a
# large image is seen in full detail.
SQUARE_PER_CROP = 1.3
# The first keypoints, eyes and nose, point at the face. Mouths are what hands, food and microphones cover, and a point on those would
# count them as face.
POINTING_KEYPOINTS = 3
# What the image encoder of the largest network needs for one square.
BYTES_PER_SQUARE = 3 << 30


class SamOccluder:
    """An ``Occluder`` around a SAM network (segment-anything's ``Sam``). Make it with ``load_occluder``."""

    def __init__(self, name: str, net: torch.nn.Module, devices: DeviceManager | None = None) -> None:
        self.name = name
        self.model = TorchModel(name, net, devices)

    def visible(self, images: torch.Tensor, faces: Faces, size: int, progress: Progress = silent) -> torch.Tensor:
        """Find the visible face in ``images`` ``[B, H, W, 3]`` as ``[N, size, size]`` 0..1: the segment that its box, eyes and nose point
        at, with a soft edge."""
        from segment_anything import SamPredictor

        faces.check_image(images.shape)
        module, device = self.model.ready(BYTES_PER_SQUARE)
        net = cast(Any, module)  # segment-anything's ``Sam``; the package is optional
        predictor = SamPredictor(net)
        edge = net.image_encoder.img_size
        visible = images.new_zeros((len(faces), size, size), dtype=torch.float32)
        for i, face in enumerate(faces):
            progress(i, len(faces))
            to_square = crop_matrix(face, edge, SQUARE_PER_CROP * faces.framing)
            square = sample_crops(images[..., :3], [face.frame], to_square[None], edge)
            predictor.set_torch_image(square.movedim(-1, 1).to(device) * 255, (edge, edge))
            points = transform(face.keypoints[:POINTING_KEYPOINTS], to_square)
            box = box_in_square(face.box, to_square, edge)
            logits = predictor.predict(point_coords=points, point_labels=np.ones(POINTING_KEYPOINTS, np.int64), box=box,
                                       multimask_output=False, return_logits=True)[0]
            mask = torch.sigmoid(torch.from_numpy(np.asarray(logits, np.float32))[0]).to(images.device)
            visible[i] = draw_mask(mask, compose(crop_matrix(face, size, faces.framing), invert(to_square)), size)
        progress(len(faces), len(faces))
        return visible


def box_in_square(box: np.ndarray, matrix: np.ndarray, edge: int) -> np.ndarray:
    """Return the upright box ``[4]`` (x0, y0, x1, y1) around an image box, through the image → square ``matrix`` ``[2, 3]`` and clipped to
    the square's ``edge`` pixels."""
    x0, y0, x1, y1 = box
    corners = transform(np.array([[x0, y0], [x1, y0], [x0, y1], [x1, y1]]), matrix)
    return np.concatenate([corners.min(0), corners.max(0)]).clip(0, edge - 1)


def sam_from(weights: Mapping[str, torch.Tensor], name: str) -> torch.nn.Module:
    """Build the network whose weights a checkpoint holds. name: the file's, for errors: FaceLoomError where it is no Segment Anything
    checkpoint, or the package segment-anything is missing."""
    kind = NETWORK_BY_WIDTH.get(weights[WIDTH_TENSOR].shape[-1]) if WIDTH_TENSOR in weights else None
    if kind is None:
        raise FaceLoomError(f"{name} holds no Segment Anything network FaceLoom knows; use sam_vit_b, sam_vit_l or sam_vit_h.")
    try:
        from segment_anything import sam_model_registry
    except ImportError as error:
        raise FaceLoomError(f"{name} needs the package segment-anything: run `pip install segment-anything`.") from error
    net = sam_model_registry[kind]()
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise FaceLoomError(f"{name} is not a whole Segment Anything checkpoint; fetch it again.") from error
    return net


def _open(file: Contents, loading: Loading) -> SamOccluder:
    check_kind(file.path.name, "occluder", kind_of_weights(file.weights) or "occluder")
    return SamOccluder(file.name, sam_from(file.weights, file.path.name), loading.devices)


METHOD = Method("Segment Anything", kind="occluder", suffixes=(".pth", ".safetensors"), recognizes=any_file, open=_open)
