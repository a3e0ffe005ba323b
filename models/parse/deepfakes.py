"""The networks faceswap makes masks with, as occluders: each says how much of a face is seen, in faceswap's own square of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from ..crops.crop import crop_matrices
from ..crops.faceswap_square import square_matrix
from ..errors import FaceLoomError
from ..faces import Faces
from ..files.contents import Contents
from ..networks import build
from ..networks.deepfakes_masks import FaceFCN, FaceUNet
from ..pixels.affine import compose, invert
from ..pixels.sampling import sample_crops
from ..progress import Progress, silent
from ..runtime.devices import DeviceManager, TorchModel
from ..runtime.memory import run_chunks
from ..runtime.method import Loading, Method
from .landmarks import points_68
from .occlude import draw_mask

# The edge of the picture a network was trained with, by its number of classes.
EDGES = {1: 256, 2: 300, 21: 500}
# What the largest needs for one picture, bytes.
MEMORY = 1 << 30
BATCH = 4


class FaceNetOccluder:
    """An ``Occluder`` around ``FaceUNet``, which answers faces, or ``FaceFCN``, of whose two classes the second is the face, and of whose
    21 all but the first are. Make it with ``load_occluder``."""

    def __init__(self, name: str, net: FaceUNet | FaceFCN, devices: DeviceManager | None = None) -> None:
        self.name = name
        self.model = TorchModel(name, net, devices)
        self.classes = net.classes

    def visible(self, images: torch.Tensor, faces: Faces, size: int, progress: Progress = silent) -> torch.Tensor:
        """``[N, size, size]``: sampled from the image in the mean face's own square, and drawn into the canonical crop."""
        faces.check_image(images.shape)
        seen = images.new_zeros((len(faces), size, size), dtype=torch.float32)
        edge = EDGES[self.classes]

        def part(span: range) -> None:
            chosen = faces.take(span)
            to_square = np.stack([square_matrix(points_68(face), "legacy", edge) for face in chosen])
            squares = sample_crops(images[..., :3], chosen.frame_indices, to_square, edge).clamp(0, 1)
            for i, mask, matrix in zip(span, self.face_in(squares), compose(crop_matrices(chosen, size), invert(to_square)), strict=True):
                seen[i] = draw_mask(mask.to(images.device), matrix, size)

        run_chunks(part, range(len(faces)), BATCH, progress)
        return seen

    @torch.inference_mode()
    def face_in(self, squares: torch.Tensor) -> torch.Tensor:
        """``[n, S, S, 3]`` pictures to the share of face ``[n, S, S]``."""
        net, device = self.model.ready(MEMORY * len(squares))
        x = squares.permute(0, 3, 1, 2).flip(1).to(device, next(net.parameters()).dtype)
        if self.classes > 1:
            x = (x - x.mean((2, 3), keepdim=True)) * 255
        answer = net(x).float()
        return (1 - answer[:, 0] if self.classes == 21 else answer[:, -1]).clone()


def is_mask_net(weights: Mapping[str, torch.Tensor]) -> bool:
    return any(name in weights for name in ("dec1.conv_trans.weight", "upscore8.weight", "upscore8_r.weight"))


def mask_net_from(weights: Mapping[str, torch.Tensor], name: str) -> nn.Module:
    """The network with a checkpoint's weights."""
    if "dec1.conv_trans.weight" in weights:
        return build(FaceUNet, weights, name)
    end = "_r" if "upscore8_r.weight" in weights else ""
    classes = len(weights[f"upscore8{end}.weight"])
    if classes not in EDGES:
        raise FaceLoomError(f"{name} tells {classes} classes apart; use Nirkin_300_softmax_v2.pth (2) or Nirkin_500_softmax_v2.pth (21).")
    return build(lambda: FaceFCN(classes, end), weights, name)


def _open(file: Contents, loading: Loading) -> FaceNetOccluder:
    return FaceNetOccluder(file.name, mask_net_from(file.weights, file.path.name), loading.devices)


METHOD = Method("faceswap", kind="occluder", suffixes=(".pth", ".safetensors"), open=_open,
                recognizes=lambda file: is_mask_net(file.tensors))
