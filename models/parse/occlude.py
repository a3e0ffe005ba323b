"""What hides a face: hands, hair, microphones. Masks of the visible part, made from the image and used by every later stage."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch

from ..crops.crop import check_edge, crop_matrices
from ..crops.templates import template_matrix
from ..crops.transformed import transform_face
from ..errors import FaceLoomError
from ..faces import Faces
from ..files.catalogue import NetContract, as_net_contract, catalogue
from ..files.contents import Contents
from ..pixels.affine import compose, invert
from ..pixels.masks import check_edge_moves, feather_mask, fit_mask, grow_mask, is_placeholder
from ..pixels.sampling import sample_crops, warp
from ..progress import Progress, silent
from ..runtime.input import describe_ports, find_image_input, to_network_input
from ..runtime.method import Loading, Method, has_suffix
from ..runtime.onnx import OnnxModel, open_session

# A file the catalogue does not know is held to the contract of the occluder that most people have.
USUAL = "xseg_3"
# Faces sampled before the network is called.
FACES_PER_BATCH = 64
# A pixel of which no more than this is visible counts as hidden: the weights of a sample add up to 1 but for rounding.
ROUNDING = 1e-5


@runtime_checkable
class Occluder(Protocol):
    """Tells the visible part of a face from what hides it."""

    name: str

    def visible(self, images: torch.Tensor, faces: Faces, size: int, progress: Progress = silent) -> torch.Tensor:
        """Find the visible face in ``images`` ``[B, H, W, 3]``: ``[N, size, size]`` float32 in crop space, 1 where the face is visible, 0
        where something hides it."""
        ...


def occlusion_mask(images: torch.Tensor, faces: Faces, size: int, occluder: Occluder | None = None, mask: torch.Tensor | None = None,
                   grow: float = 0.0, feather: float = 0.0, progress: Progress = silent) -> torch.Tensor:
    """Make masks ``[N, size, size]`` float32 in crop space, 1 where the face is visible, 0 where it is hidden, to be multiplied into any
    mask of the face.

    images: ``[B, H, W, 3]`` 0..1, at which the ``occluder`` looks. mask: in image space (of any size, one for all frames or one each), 1
    where something lies over the face, as a segmentation node gives it for "hand". With both, what either finds is hidden. grow: crop
    pixels by which the hidden part grows (shrinks where negative). feather: crop pixels over which the visible part fades in beside the
    hidden one, never reaching over it. No faces give one mask of zeros.
    """
    faces.check_image(images.shape)
    check_edge(size)
    check_edge_moves(grow, feather)
    if len(faces) == 0:
        return images.new_zeros((1, size, size), dtype=torch.float32)
    visible = images.new_ones((len(faces), size, size), dtype=torch.float32)
    if occluder is not None:
        visible = torch.minimum(visible, occluder.visible(images, faces, size, progress).to(images.device))
    if mask is not None:
        visible = torch.minimum(visible, MaskOccluder(mask).visible(images, faces, size, progress))
    return feather_mask(grow_mask(visible, -grow), feather, "inside")


def faces_in_crops(faces: Faces, size: int) -> Faces:
    """Return the faces as they lie in their own canonical crops of ``size`` pixels, one crop a frame.

    For occluders where only the crops are at hand: ``occlusion_mask(crops, faces_in_crops(faces, size), size, occluder)``. The occluder
    then does not see what the crops leave out of the image.
    """
    matrices = crop_matrices(faces, size)
    return Faces(tuple(transform_face(face, matrix, i) for i, (face, matrix) in enumerate(zip(faces, matrices, strict=True))),
                 len(faces), size, size, faces.framing, size)


class MaskOccluder:
    """An ``Occluder`` that was painted or made by any other node: a mask in image space, 1 where something hides the face."""

    name = "mask"

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask

    def visible(self, images: torch.Tensor, faces: Faces, size: int, progress: Progress = silent) -> torch.Tensor:
        """Return the visible face as ``[N, size, size]``, sampled from the mask in one step. Outside the image nothing hides the face."""
        if is_placeholder(self.mask):
            return images.new_ones((len(faces), size, size), dtype=torch.float32)
        hidden = fit_mask(self.mask, faces.frames, faces.height, faces.width, "occluder mask").to(images.device)
        visible = hidden.new_ones((len(faces), size, size))
        for i, matrix in enumerate(crop_matrices(faces, size)):
            progress(i, len(faces))
            covered = warp(hidden[faces[i].frame][..., None], matrix, size, size, "zeros", mode="bilinear")[..., 0]
            visible[i] = torch.where(covered > 1 - ROUNDING, 0, 1 - covered)
        progress(len(faces), len(faces))
        return visible


class OnnxOccluder:
    """An ``Occluder`` around a network of XSeg's kind. Make it with ``load_occluder``.

    The network returns the share of visible face at every pixel of its own alignment; hair and background are no face to it either.
    Beyond the square that it sees, the border of its mask is repeated.
    """

    def __init__(self, name: str, model: OnnxModel, contract: NetContract, exact: bool = True) -> None:
        self.name = name
        self.model = model
        self._input, self.contract = find_image_input(model, contract, exact)

    def visible(self, images: torch.Tensor, faces: Faces, size: int, progress: Progress = silent) -> torch.Tensor:
        """Find the visible face as ``[N, size, size]`` 0..1: sampled from ``images`` ``[B, H, W, 3]`` in the network's alignment, and drawn
        into the canonical crop."""
        faces.check_image(images.shape)
        visible = images.new_zeros((len(faces), size, size), dtype=torch.float32)
        edge = self.contract.fixed_size
        for start in range(0, len(faces), FACES_PER_BATCH):
            batch = faces.take(range(start, min(start + FACES_PER_BATCH, len(faces))))
            to_square = template_matrix(batch.keypoints, self.contract.crop_template, edge)
            squares = sample_crops(images[..., :3], batch.frame_indices, to_square, edge)
            masks = self._masks(squares, lambda done, _, start=start: progress(start + done, len(faces)))
            to_crop = compose(crop_matrices(batch, size), invert(to_square))
            for i, (mask, matrix) in enumerate(zip(masks, to_crop, strict=True)):
                visible[start + i] = draw_mask(mask.to(images.device), matrix, size)
        return visible

    def _masks(self, squares: torch.Tensor, progress: Progress) -> torch.Tensor:
        """Run the network on squares ``[n, edge, edge, 3]``: masks ``[n, edge, edge]`` of the visible face."""
        output = self.model.run({self._input.name: to_network_input(squares, self.contract)}, progress)[0]
        if output.numel() != squares[..., 0].numel():
            raise FaceLoomError(f"{self.name} should return one mask per picture, but returns {describe_ports(self.model.outputs)}.")
        masks = output.reshape(squares.shape[:3])
        return torch.sigmoid(masks) if self.contract.family == "occluder" else masks


def draw_mask(mask: torch.Tensor, to_crop: np.ndarray, size: int) -> torch.Tensor:
    """Draw a mask ``[E, E]`` into a crop, through ``to_crop`` ``[2, 3]``: ``[size, size]``, outside of which its border is repeated."""
    return warp(mask[..., None], to_crop, size, size, mode="bilinear")[..., 0].clamp(0, 1)


def _open(file: Contents, loading: Loading) -> OnnxOccluder:
    model = open_session(file.path, providers=loading.providers, kind="occluder")
    contract = file.row.contract if file.row else None
    return OnnxOccluder(file.name, model, as_net_contract(contract or catalogue()[USUAL].contract), exact=contract is not None)


METHOD = Method("ONNX", kind="occluder", suffixes=(".onnx",), recognizes=has_suffix(".onnx"), open=_open)
