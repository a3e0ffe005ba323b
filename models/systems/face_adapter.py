"""Face-Adapter (Han et al., "Face Adapter for Pre-Trained Diffusion Models", arXiv 2405.12970): what it tells Stable Diffusion 1.5.

A source's ArcFace features become the prompt of the UNet; a picture's CLIP features become the prompt of the ControlNet, whose hint shows
the rest of that picture and, where it may change, coloured points of the target's expression and pose on the source's own head.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..crops.crop import crop_matrices, crop_matrix
from ..crops.squares import box_square
from ..crops.templates import TEMPLATES
from ..errors import FaceLoomError
from ..face3d.basel_model import FaceModel
from ..faces import Faces, Identity
from ..networks.iresnet import IResNet
from ..parse import Parser, region_labels
from ..pixels.affine import compose, invert, similarity
from ..pixels.resize import resize_bicubic
from ..pixels.sampling import sample_crops
from ..progress import Progress, silent
from ..runtime.devices import TorchModel
from ..runtime.memory import run_chunks
from .face_adapter_picture import CANVAS, SIZE, blend_mask, draw_points, swap_area, with_gaze

MODES = ("swap", "reenact")
ALIGNMENT = "box"
TEMPLATE = TEMPLATES["arcface_112_v2"] * 224 + (16, 0)  # of the five points, in the aligned picture of 256
_RECOGNISED = 128  # edge of the picture ArcFace sees
# Bytes one face takes in the networks besides their weights, and faces that go through them together.
_PER_FACE, _CHUNK = 400 << 20, 8

# Crops ``[n, S, S, 3]`` 0..1 to CLIP ViT-H/14's last hidden state ``[n, 257, 1280]``, before its last norm.
Vision = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Shape:
    """What a 3-D face is made of, float64, one row per face: identity 80, expression 64, angles 3 (radians), shift 3, gaze 4."""

    identity: np.ndarray
    expression: np.ndarray
    angles: np.ndarray
    shift: np.ndarray
    gaze: np.ndarray


def shape_of(coefficients: np.ndarray) -> Shape:
    """The parts of D3DFR's ``[N, 261]``; those about colour and light are left out."""
    values = np.asarray(coefficients, np.float64)
    return Shape(values[:, :80], values[:, 80:144], values[:, 224:227], values[:, 254:257], values[:, 257:261])


@dataclass(frozen=True, eq=False)
class Conditions:
    """What the sampler needs for N faces, float32 on the CPU.

    tokens: ``[N, 77, W]``, the UNet's prompt. image_tokens: ``[N, 77, W]``, the ControlNet's. hint: ``[N, 512, 512, 3]``, 0..1; the
    ControlNet is fed twice it minus one. mask: ``[N, 512, 512]``, where the result belongs, with a soft edge, over ``background``
    ``[N, 512, 512, 3]``: the target's crop in a swap, the source's where it is reenacted.
    """

    tokens: Tensor
    image_tokens: Tensor
    hint: Tensor
    mask: Tensor
    background: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, index: int) -> Conditions:
        """One face's."""
        return Conditions(*(getattr(self, name)[index : index + 1] for name in self.__dataclass_fields__))


class FaceAdapterNets(nn.Module):
    """The networks, as one thing that moves between devices. area: for reenactment only."""

    def __init__(self, arcface: IResNet, id_tokens: nn.Module, image_tokens: nn.Module, coefficients: nn.Module,
                 area: nn.Module | None = None) -> None:
        super().__init__()
        self.arcface, self.id_tokens, self.image_tokens = arcface, id_tokens, image_tokens
        self.coefficients, self.area = coefficients, area


class FaceAdapter:
    """Makes ``Conditions``. shape: the 3-D face the coefficients belong to. parser: the one the system was trained with, if it is there."""

    def __init__(self, name: str, model: TorchModel, shape: FaceModel, parser: Parser | None = None) -> None:
        self.name, self.model, self.shape, self.parser = name, model, shape, parser
        self._sources: weakref.WeakKeyDictionary[Identity, tuple[Tensor, np.ndarray]] = weakref.WeakKeyDictionary()

    def conditions(self, crops: Tensor, faces: Faces, identity: Identity, vision: Vision, *, mode: str = "swap",
                   parser: Parser | None = None, progress: Progress = silent) -> Conditions:
        """For target crops ``[N, S, S, 3]`` of these faces, meant to be cut by the alignment ``box``.

        mode ``swap``: the target's picture with the source's face. ``reenact``: the source's picture (the identity's first photo, by
        the same alignment) with the target's expression and pose. ``parser`` tells where a swap may paint; without it and without one
        of its own the adapter takes the outlines of the landmarks. No faces: one row of zeros.
        """
        if mode not in MODES:
            raise FaceLoomError(f"Face-Adapter's mode must be {' or '.join(MODES)}, not {mode!r}.")
        if mode == "reenact" and self.model.net.area is None:
            raise FaceLoomError("Reenactment needs Face-Adapter's mask network; put net_seg_res18.pth beside the other files.")
        if not len(faces):
            return self._nothing()
        pictures = resize_bicubic(crops[..., :3], SIZE)
        if len(pictures) != len(faces):
            raise FaceLoomError(f"There are {len(pictures)} crops for {len(faces)} faces; connect those that come with the faces.")
        source = source_crop(identity) if mode == "reenact" else None
        seen = self.image_tokens(source, vision) if mode == "reenact" else None
        tokens, own = self.source(identity)

        def part(span: range) -> Conditions:
            chosen, targets = faces.take(span), pictures[span.start : span.stop]
            points = self.draw(targets, chosen, own)
            if mode == "reenact":
                area, background, image_tokens = self.moved_area(source, points), source, seen
            else:
                area, background = swap_area(self.labels(targets, chosen, parser)).cpu(), targets.cpu()
                image_tokens = self.image_tokens(targets, vision)
            hint = points * area[..., None] + background * (1 - area[..., None])
            rows = [tokens, image_tokens, hint, blend_mask(area), background]
            return Conditions(*(row.expand(len(chosen), *row.shape[1:]) for row in rows))

        parts = run_chunks(part, range(len(faces)), _CHUNK, progress)
        return Conditions(*(torch.cat([getattr(each, name) for each in parts]) for name in Conditions.__dataclass_fields__))

    @torch.inference_mode()
    def source(self, identity: Identity) -> tuple[Tensor, np.ndarray]:
        """The UNet's prompt ``[1, 77, W]`` and the identity's share of the 3-D face ``[1, 80]``, over all reference photos; made once."""
        if identity not in self._sources:
            if not len(identity.crops):
                raise FaceLoomError("Face-Adapter looks at a photo of the source, and this identity has none; make it with ArcFace Embed.")
            photos = torch.from_numpy(np.array(identity.crops))
            points = np.stack([face.keypoints for face in identity.faces])
            (aligned,) = self._moved(aligned_pictures(photos, similarity(points, TEMPLATE)))
            features = arcface_features(self.model.net.arcface, aligned).mean(0, keepdim=True)
            shape = shape_of(self.model.net.coefficients(aligned).cpu().numpy())
            self._sources[identity] = _kept(self.model.net.id_tokens(features)), shape.identity.mean(0, keepdims=True)
        return self._sources[identity]

    @torch.inference_mode()
    def draw(self, targets: Tensor, faces: Faces, identity: np.ndarray) -> Tensor:
        """``[n, 512, 512, 3]``: the points of the targets' expression, pose and gaze on a head of this identity ``[1, 80]``, on black."""
        to_canvas = canvas_matrices(faces)
        (aligned,) = self._moved(aligned_pictures(targets, to_canvas))
        shape = shape_of(self.model.net.coefficients(aligned).cpu().numpy())
        points = self.shape.points(identity.repeat(len(faces), 0), shape.expression, shape.angles, shape.shift)
        return draw_points(with_gaze(points, shape.gaze), to_canvas)

    @torch.inference_mode()
    def image_tokens(self, pictures: Tensor, vision: Vision) -> Tensor:
        """``[n, 77, W]``: the ControlNet's prompt for pictures ``[n, 512, 512, 3]``."""
        (features,) = self._moved(vision(pictures))
        wanted = self.model.net.image_tokens.features
        if features.shape[-1] != wanted:
            raise FaceLoomError(f"Face-Adapter needs a CLIP vision model {wanted} numbers wide, and this one has {features.shape[-1]}; "
                                "use its own vision_encoder, or CLIP ViT-H/14.")
        return _kept(self.model.net.image_tokens(features))

    @torch.inference_mode()
    def moved_area(self, source: Tensor, points: Tensor) -> Tensor:
        """``[n, 512, 512]`` of 0 and 1: what changes of a source ``[1, 512, 512, 3]`` that moves to these points."""
        pair = torch.cat([source.expand_as(points), points], -1).movedim(-1, 1) * 2 - 1
        (pair,) = self._moved(pair)
        return (_kept(self.model.net.area(pair))[:, 0] > 0.5).float()

    def labels(self, targets: Tensor, faces: Faces, parser: Parser | None) -> Tensor:
        parser = parser or self.parser
        return region_labels(faces, SIZE) if parser is None else parser.parse(targets)

    def _moved(self, *tensors: Tensor) -> list[Tensor]:
        net, device = self.model.ready(_PER_FACE * len(tensors[0]))
        kind = next(net.parameters()).dtype
        return [tensor.to(device, kind) for tensor in tensors]

    def _nothing(self) -> Conditions:
        tokens = torch.zeros_like(self.model.net.id_tokens.query, device="cpu", dtype=torch.float32)
        picture = torch.zeros(1, SIZE, SIZE, 3)
        return Conditions(tokens, tokens, picture, picture[..., 0], picture)


def canvas_matrices(faces: Faces) -> np.ndarray:
    """``[N, 2, 3]``: the faces' crops at 512 → the aligned pictures of 256."""
    return compose(similarity(faces.keypoints, TEMPLATE), invert(crop_matrices(faces, SIZE)))


def aligned_pictures(crops: Tensor, matrices: np.ndarray) -> Tensor:
    """``[N, 3, 256, 256]`` in [-1, 1]."""
    return sample_crops(crops, range(len(crops)), matrices, CANVAS).movedim(-1, 1) * 2 - 1


def arcface_features(arcface: IResNet, aligned: Tensor) -> Tensor:
    """Aligned pictures ``[N, 3, 256, 256]`` in [-1, 1] to ArcFace's last feature map, place by place: ``[N, 64, 512]``."""
    small = functional.interpolate(aligned, size=(_RECOGNISED, _RECOGNISED), mode="bilinear", align_corners=False)
    return arcface.maps(small).flatten(2).transpose(1, 2)


def source_crop(identity: Identity) -> Tensor:
    """``[1, 512, 512, 3]``: the identity's first photo, by the alignment ``box``."""
    if not len(identity.crops):
        raise FaceLoomError("Reenactment shows a photo of the source, and this identity has none; make it with ArcFace Embed.")
    photo = torch.from_numpy(np.array(identity.crops[:1]))
    face = replace(identity.faces[0], square=box_square(identity.faces[0]))
    return sample_crops(photo, [0], crop_matrix(face, SIZE)[None], SIZE)


def _kept(tensor: Tensor) -> Tensor:
    """On the CPU, and no longer of inference mode."""
    return tensor.float().cpu().clone()
