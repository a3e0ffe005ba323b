"""Face-Adapter (Han et al., "Face Adapter for Pre-Trained Diffusion Models", arXiv 2405.12970): makes the conditions under which Stable
Diffusion 1.5 swaps or reenacts a face.

A source's ArcFace features become the prompt of the UNet; a crop's CLIP features become the prompt of the ControlNet, whose hint shows the
rest of that crop and, where it may change, coloured points of the target's expression and pose on the source's own head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..crops.crop import crop_matrices, crop_matrix
from ..crops.squares import box_square
from ..crops.templates import TEMPLATES
from ..errors import FaceLoomError, given
from ..face3d.basel_model import FaceModel
from ..faces import Faces, Identity
from ..identity.photos import reference_photos
from ..networks.face_adapter import TokenDecoder
from ..networks.iresnet import IResNet
from ..parse import Parser, region_labels
from ..pixels.affine import compose, invert, similarity
from ..pixels.resize import resize_bicubic
from ..pixels.sampling import sample_crops
from ..progress import Progress, silent
from ..runtime.devices import TorchModel
from ..runtime.memory import run_chunks
from .face_adapter_picture import CANVAS, SIZE, add_pupils, blend_mask, draw_points, swap_area

MODES = ("swap", "reenact")
ALIGNMENT = "box"
TEMPLATE = TEMPLATES["arcface_112_v2"] * 224 + (16, 0)  # of the five points, in the aligned crop of 256
_RECOGNIZER_SIZE = 128  # edge of what ArcFace sees
_NO_AREA = "Reenactment needs Face-Adapter's mask network; put net_seg_res18.pth beside the other files."
# Bytes one face takes in the networks besides their weights, and how many faces go through them together.
_BYTES_PER_FACE, _CHUNK = 400 << 20, 8

# Takes crops ``[n, S, S, 3]`` 0..1, returns CLIP ViT-H/14's last hidden state ``[n, 257, 1280]``, before its last norm.
Vision = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class FaceShape:
    """The coefficients of 3-D faces, float64: identity ``[N, 80]``, expression ``[N, 64]``, angles ``[N, 3]`` in radians, shift ``[N, 3]``
    and gaze ``[N, 4]``."""

    identity: np.ndarray
    expression: np.ndarray
    angles: np.ndarray
    shift: np.ndarray
    gaze: np.ndarray


def split_coefficients(coefficients: np.ndarray) -> FaceShape:
    """Split D3DFR's output ``[N, 261]``; what is about colour and light is left out."""
    values = np.asarray(coefficients, np.float64)
    return FaceShape(values[:, :80], values[:, 80:144], values[:, 224:227], values[:, 254:257], values[:, 257:261])


@dataclass(frozen=True, eq=False)
class Conditions:
    """What the sampler needs for N faces, float32 on the CPU.

    tokens: the UNet's prompt ``[N, 77, W]``. image_tokens: the ControlNet's prompt ``[N, 77, W]``. hint: ``[N, 512, 512, 3]`` 0..1, which
    the ControlNet takes in -1..1. mask: ``[N, 512, 512]`` with a soft edge, where the result belongs on ``background``
    ``[N, 512, 512, 3]``: the target's crop in a swap, the source's in a reenactment.
    """

    tokens: Tensor
    image_tokens: Tensor
    hint: Tensor
    mask: Tensor
    background: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, index: int) -> Conditions:
        """Return the conditions of one face."""
        return Conditions(*(getattr(self, name)[index : index + 1] for name in self.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class Source:
    """What Face-Adapter needs of an identity, on the CPU.

    tokens: ``[1, 77, W]``, the UNet's prompt. coefficients: ``[1, 80]``, of the head's shape. Both are means over the identity's photos.
    crop: ``[1, 512, 512, 3]`` of the first photo, by the alignment ``box``.
    """

    tokens: Tensor
    coefficients: np.ndarray
    crop: Tensor


class FaceAdapterNets(nn.Module):
    """The networks as one module that moves between devices. area: for reenactment only."""

    def __init__(self, arcface: IResNet, id_tokens: TokenDecoder, image_tokens: TokenDecoder, coefficients: nn.Module,
                 area: nn.Module | None = None) -> None:
        super().__init__()
        self.arcface, self.id_tokens, self.image_tokens = arcface, id_tokens, image_tokens
        self.coefficients, self.area = coefficients, area


class FaceAdapter:
    """Makes ``Conditions``. Opened by ``load_face_adapter``.

    shape: the 3-D face model that the coefficients belong to. parser: the one the system was trained with, where its file is there.
    """

    def __init__(self, name: str, model: TorchModel[FaceAdapterNets], shape: FaceModel, parser: Parser | None = None) -> None:
        self.name, self.model, self.shape, self.parser = name, model, shape, parser

    def conditions(self, crops: Tensor, faces: Faces, source: Identity | Source, vision: Vision, *, mode: str = "swap",
                   parser: Parser | None = None, progress: Progress = silent) -> Conditions:
        """Make the conditions for target crops ``[N, S, S, 3]`` 0..1 of these faces, which are best aligned by ``ALIGNMENT``.

        source: an identity, or what ``prepare`` made of one, which spares working it out for every call. mode: ``swap`` paints the source's
        face into the target's crop; ``reenact`` paints the source's crop (of the identity's first photo, in the same alignment) with the
        target's expression and pose. parser: decides where a swap may paint; None takes the adapter's own parser, and without that the
        outlines of the landmarks. Without faces there is one row of zeros.
        """
        if mode not in MODES:
            raise FaceLoomError(f"Face-Adapter's mode must be {' or '.join(MODES)}, not {mode!r}.")
        if mode == "reenact":
            given(self.model.net.area, _NO_AREA)
        if not len(faces):
            return self._empty_conditions()
        resized = resize_bicubic(crops[..., :3], SIZE)
        if len(resized) != len(faces):
            raise FaceLoomError(f"There are {len(resized)} crops for {len(faces)} faces; connect those that come with the faces.")
        source = self.prepare(source) if isinstance(source, Identity) else source
        source_tokens = self.image_tokens(source.crop, vision) if mode == "reenact" else None

        def condition_chunk(span: range) -> Conditions:
            chunk, targets = faces.take(span), resized[span.start : span.stop]
            points = self.draw(targets, chunk, source.coefficients)
            if mode == "reenact":
                area, background, image_tokens = self.reenacted_area(source.crop, points), source.crop, source_tokens
            else:
                area, background = swap_area(self.labels(targets, chunk, parser)).cpu(), targets.cpu()
                image_tokens = self.image_tokens(targets, vision)
            hint = points * area[..., None] + background * (1 - area[..., None])
            rows = [source.tokens, image_tokens, hint, blend_mask(area), background]
            return Conditions(*(row.expand(len(chunk), *row.shape[1:]) for row in rows))

        chunks = run_chunks(condition_chunk, range(len(faces)), _CHUNK, progress)
        return Conditions(*(torch.cat([getattr(each, name) for each in chunks]) for name in Conditions.__dataclass_fields__))

    @torch.inference_mode()
    def prepare(self, identity: Identity) -> Source:
        """Return what ``conditions`` needs of an identity; the caller keeps it as long as this person is painted."""
        photos, faces = reference_photos(identity, "Face-Adapter")
        (aligned,) = self._to_device(aligned_crops(photos, similarity(faces.keypoints, TEMPLATE)))
        features = arcface_features(self.model.net.arcface, aligned).mean(0, keepdim=True)
        shape = split_coefficients(self.model.net.coefficients(aligned).cpu().numpy())
        return Source(_to_cpu(self.model.net.id_tokens(features)), shape.identity.mean(0, keepdims=True), source_crop(identity))

    @torch.inference_mode()
    def draw(self, targets: Tensor, faces: Faces, identity: np.ndarray) -> Tensor:
        """Draw coloured points on black, ``[n, 512, 512, 3]``: a head with the targets' expression, pose and gaze, and this identity's
        coefficients ``[1, 80]``."""
        to_canvas = canvas_matrices(faces)
        (aligned,) = self._to_device(aligned_crops(targets, to_canvas))
        shape = split_coefficients(self.model.net.coefficients(aligned).cpu().numpy())
        points = self.shape.points(identity.repeat(len(faces), 0), shape.expression, shape.angles, shape.shift)
        return draw_points(add_pupils(points, shape.gaze), to_canvas)

    @torch.inference_mode()
    def image_tokens(self, crops: Tensor, vision: Vision) -> Tensor:
        """Return the ControlNet's prompt ``[n, 77, W]`` for crops ``[n, 512, 512, 3]``."""
        (features,) = self._to_device(vision(crops))
        wanted = self.model.net.image_tokens.features
        if features.shape[-1] != wanted:
            raise FaceLoomError(f"Face-Adapter needs a CLIP vision model {wanted} numbers wide, and this one has {features.shape[-1]}; "
                                "use its own vision_encoder, or CLIP ViT-H/14.")
        return _to_cpu(self.model.net.image_tokens(features))

    @torch.inference_mode()
    def reenacted_area(self, source: Tensor, points: Tensor) -> Tensor:
        """Return ``[n, 512, 512]`` of 0 and 1: what changes in a source crop ``[1, 512, 512, 3]`` when its face moves to these points."""
        pair = torch.cat([source.expand_as(points), points], -1).movedim(-1, 1) * 2 - 1
        (pair,) = self._to_device(pair)
        return (_to_cpu(given(self.model.net.area, _NO_AREA)(pair))[:, 0] > 0.5).float()

    def labels(self, targets: Tensor, faces: Faces, parser: Parser | None) -> Tensor:
        """Return labels ``[n, 512, 512]`` (indices into ``REGIONS``) by ``parser``, the adapter's own parser, or the landmarks."""
        parser = parser or self.parser
        return region_labels(faces, SIZE) if parser is None else parser.parse(targets)

    def _to_device(self, *tensors: Tensor) -> list[Tensor]:
        """Load the networks, and move tensors of one row per face to their device and type."""
        net, device = self.model.ready(_BYTES_PER_FACE * len(tensors[0]))
        dtype = next(net.parameters()).dtype
        return [tensor.to(device, dtype) for tensor in tensors]

    def _empty_conditions(self) -> Conditions:
        """Return one row of zeros."""
        tokens = torch.zeros_like(self.model.net.id_tokens.query, device="cpu", dtype=torch.float32)
        crop = torch.zeros(1, SIZE, SIZE, 3)
        return Conditions(tokens, tokens, crop, crop[..., 0], crop)


def canvas_matrices(faces: Faces) -> np.ndarray:
    """Return the matrices ``[N, 2, 3]`` from the faces' crops at 512 pixels to the aligned crops of 256."""
    return compose(similarity(faces.keypoints, TEMPLATE), invert(crop_matrices(faces, SIZE)))


def aligned_crops(crops: Tensor, matrices: np.ndarray) -> Tensor:
    """Cut aligned crops out of ``[N, S, S, 3]`` 0..1: ``[N, 3, 256, 256]`` in [-1, 1]. matrices: ``[N, 2, 3]`` from crop to aligned."""
    return sample_crops(crops, range(len(crops)), matrices, CANVAS).movedim(-1, 1) * 2 - 1


def arcface_features(arcface: IResNet, aligned: Tensor) -> Tensor:
    """Return ArcFace's last feature map, flattened to ``[N, 64, 512]``, for aligned crops ``[N, 3, 256, 256]`` in [-1, 1]."""
    small = functional.interpolate(aligned, size=(_RECOGNIZER_SIZE, _RECOGNIZER_SIZE), mode="bilinear", align_corners=False)
    return arcface.maps(small).flatten(2).transpose(1, 2)


def source_crop(identity: Identity) -> Tensor:
    """Cut the face out of the identity's first photo by the alignment ``box``: ``[1, 512, 512, 3]``."""
    photo, (face,) = reference_photos(identity, "Reenactment", 1)
    face = replace(face, square=box_square(face))
    return sample_crops(photo, [0], crop_matrix(face, SIZE)[None], SIZE)


def _to_cpu(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU in float32."""
    return tensor.float().cpu().clone()
