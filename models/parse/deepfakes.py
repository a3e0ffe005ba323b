"""The networks with which faceswap makes masks, as occluders: each shows the visible face in faceswap's own square."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

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
from .landmarks import points68_of
from .occlude import draw_mask

# Edge in pixels of the square with which a network was trained, by its number of classes.
EDGE_BY_CLASSES = {1: 256, 2: 300, 21: 500}
# What the largest network needs for one square.
BYTES_PER_SQUARE = 1 << 30
FACES_PER_BATCH = 4


class FaceNetOccluder:
    """An ``Occluder`` around ``FaceUNet``, whose output is the face, or ``FaceFCN``: of its two classes the second is the face, of its 21
    all but the first. Make it with ``load_occluder``."""

    def __init__(self, name: str, net: FaceUNet | FaceFCN, devices: DeviceManager | None = None) -> None:
        self.name = name
        self.model = TorchModel(name, net, devices)
        self.classes = net.classes

    def visible(self, images: torch.Tensor, faces: Faces, size: int, progress: Progress = silent) -> torch.Tensor:
        """Find the visible face as ``[N, size, size]`` 0..1: sampled from ``images`` ``[B, H, W, 3]`` in faceswap's square, and drawn into
        the canonical crop."""
        faces.check_image(images.shape)
        visible = images.new_zeros((len(faces), size, size), dtype=torch.float32)
        edge = EDGE_BY_CLASSES[self.classes]

        def run_batch(span: range) -> None:
            batch = faces.take(span)
            to_square = np.stack([square_matrix(points68_of(face), "legacy", edge) for face in batch])
            squares = sample_crops(images[..., :3], batch.frame_indices, to_square, edge).clamp(0, 1)
            to_crop = compose(crop_matrices(batch, size), invert(to_square))
            for i, mask, matrix in zip(span, self.face_masks(squares), to_crop, strict=True):
                visible[i] = draw_mask(mask.to(images.device), matrix, size)

        run_chunks(run_batch, range(len(faces)), FACES_PER_BATCH, progress)
        return visible

    @torch.inference_mode()
    def face_masks(self, squares: torch.Tensor) -> torch.Tensor:
        """Run the network on ``[n, S, S, 3]`` 0..1: masks ``[n, S, S]`` 0..1 of the face."""
        net, device = self.model.ready(BYTES_PER_SQUARE * len(squares))
        x = squares.permute(0, 3, 1, 2).flip(1).to(device, next(net.parameters()).dtype)
        if self.classes > 1:
            x = (x - x.mean((2, 3), keepdim=True)) * 255
        output = net(x).float()
        return (1 - output[:, 0] if self.classes == 21 else output[:, -1]).clone()


def is_mask_net(weights: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether a checkpoint holds one of these networks."""
    return any(name in weights for name in ("dec1.conv_trans.weight", "upscore8.weight", "upscore8_r.weight"))


def mask_net_from(weights: Mapping[str, torch.Tensor], name: str) -> FaceUNet | FaceFCN:
    """Build the network whose weights a checkpoint holds. name: the file's, for errors: FaceLoomError where weights are missing, or the
    classes are other than 2 or 21."""
    if "dec1.conv_trans.weight" in weights:
        return build(FaceUNet, weights, name)
    end = "_r" if "upscore8_r.weight" in weights else ""
    classes = len(weights[f"upscore8{end}.weight"])
    if classes not in EDGE_BY_CLASSES:
        raise FaceLoomError(f"{name} tells {classes} classes apart; use Nirkin_300_softmax_v2.pth (2) or Nirkin_500_softmax_v2.pth (21).")
    return build(lambda: FaceFCN(classes, end), weights, name)


def _open(file: Contents, loading: Loading) -> FaceNetOccluder:
    return FaceNetOccluder(file.name, mask_net_from(file.weights, file.path.name), loading.devices)


METHOD = Method("faceswap", kind="occluder", suffixes=(".pth", ".safetensors"), open=_open,
                recognizes=lambda file: is_mask_net(file.tensors))
