"""What hides a face: hands, hair, microphones. Masks of the visible part, made once on the photograph and honoured by every later stage."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from ..crops.crop import crop_matrices
from ..crops.templates import template_matrix
from ..crops.transformed import transform_face
from ..errors import FaceLoomError
from ..faces import Faces
from ..files.catalogue import NetContract, catalogue
from ..files.contents import Contents
from ..pixels.affine import compose, invert
from ..pixels.masks import feather_mask, fit_mask, grow_mask, is_placeholder
from ..pixels.sampling import sample_crops, warp
from ..progress import Progress, silent
from ..runtime.input import describe_ports, find_image_input, to_network_input
from ..runtime.method import Loading, Method, has_suffix
from ..runtime.onnx import OnnxModel, open_session

# A file the catalogue does not know is held to the contract of the occluder that most people have.
USUAL = "xseg_3"
# Faces sampled before the network is called.
FACES = 64
# What is hidden but for so much is hidden.
EXACT = 1e-5


class Occluder(Protocol):
    """Something that tells the visible part of a face from what hides it."""

    name: str

    def visible(self, images: torch.Tensor, faces: Faces, size: int, progress: Progress = silent) -> torch.Tensor:
        """``[N, size, size]`` float32 in crop space for ``images`` ``[B, H, W, 3]``: 1 = the face is seen, 0 = something covers it."""
        ...


def occlusion_mask(images: torch.Tensor, faces: Faces, size: int, occluder: Occluder | None = None, mask: torch.Tensor | None = None,
                   grow: float = 0.0, feather: float = 0.0, progress: Progress = silent) -> torch.Tensor:
    """``[N, size, size]`` float32 in crop space: 1 = the face is seen, 0 = it is hidden. To be multiplied into any mask of the face.

    ``occluder`` looks at the photograph; ``mask`` is in image space (of any size, one for all frames or one each) and white where
    something lies over the face, as a segmentation node gives it for "hand". With both, what either finds is hidden. ``grow``: crop pixels
    by which the hidden part grows (shrinks where negative); ``feather``: crop pixels over which the visible part fades in beside it,
    never reaching over what hides it. No faces give one mask of zeros.
    """
    faces.check_image(images.shape)
    if len(faces) == 0:
        return images.new_zeros((1, size, size), dtype=torch.float32)
    seen = images.new_ones((len(faces), size, size), dtype=torch.float32)
    if occluder is not None:
        seen = torch.minimum(seen, occluder.visible(images, faces, size, progress).to(images.device))
    if mask is not None:
        seen = torch.minimum(seen, MaskOccluder(mask).visible(images, faces, size, progress))
    return feather_mask(grow_mask(seen, -grow), feather, "inside")


def faces_in_crops(faces: Faces, size: int) -> Faces:
    """The faces as they lie in their own canonical crops, one crop a frame, for occluders where only the crops are at hand:
    ``occlusion_mask(crops, faces_in_crops(faces, size), size, occluder)``. What a crop leaves out of the photograph is not seen then."""
    matrices = crop_matrices(faces, size)
    return Faces(tuple(transform_face(face, matrix, i) for i, (face, matrix) in enumerate(zip(faces, matrices, strict=True))),
                 len(faces), size, size, faces.framing, size)


class MaskOccluder:
    """An ``Occluder`` that was painted or made by any other node: a mask in image space, white where something hides the face."""

    name = "mask"

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask

    def visible(self, images: torch.Tensor, faces: Faces, size: int, progress: Progress = silent) -> torch.Tensor:
        """``[N, size, size]``, sampled from the mask in one step. Outside the photograph nothing hides the face."""
        if is_placeholder(self.mask):
            return images.new_ones((len(faces), size, size), dtype=torch.float32)
        hidden = fit_mask(self.mask, faces.frames, faces.height, faces.width, "occluder mask").to(images.device)
        seen = hidden.new_ones((len(faces), size, size))
        for i, matrix in enumerate(crop_matrices(faces, size)):
            progress(i, len(faces))
            covered = warp(hidden[faces[i].frame][..., None], matrix, size, size, "zeros", mode="bilinear")[..., 0]
            seen[i] = torch.where(covered > 1 - EXACT, 0, 1 - covered)  # the weights of a sample add up to 1 but for rounding
        progress(len(faces), len(faces))
        return seen


class OnnxOccluder:
    """An ``Occluder`` around an XSeg-like network. Make it with ``load_occluder``.

    It answers with the share of visible face at every pixel of its own alignment; hair and background are no face to it either. Beyond
    the square it sees, its border goes on.
    """

    def __init__(self, name: str, model: OnnxModel, contract: NetContract, exact: bool = True) -> None:
        self.name = name
        self.model = model
        self._input, self.contract = find_image_input(model, contract, exact)

    def visible(self, images: torch.Tensor, faces: Faces, size: int, progress: Progress = silent) -> torch.Tensor:
        """``[N, size, size]``: sampled from the image in the network's alignment, and drawn into the canonical crop."""
        faces.check_image(images.shape)
        seen = images.new_zeros((len(faces), size, size), dtype=torch.float32)
        edge = self.contract.size
        for start in range(0, len(faces), FACES):
            chosen = faces.take(range(start, min(start + FACES, len(faces))))
            to_square = template_matrix(chosen.keypoints, self.contract.template, edge)
            squares = sample_crops(images[..., :3], chosen.frame_indices, to_square, edge)
            answers = self._answer(squares, lambda done, _, start=start: progress(start + done, len(faces)))
            to_crop = compose(crop_matrices(chosen, size), invert(to_square))
            for i, (answer, matrix) in enumerate(zip(answers, to_crop, strict=True)):
                seen[start + i] = draw_mask(answer.to(images.device), matrix, size)
        return seen

    def _answer(self, squares: torch.Tensor, progress: Progress) -> torch.Tensor:
        """``[n, edge, edge]``."""
        answer = self.model.run({self._input.name: to_network_input(squares, self.contract)}, progress)[0]
        if answer.numel() != squares[..., 0].numel():
            raise FaceLoomError(f"{self.name} should answer one mask per picture, but answers {describe_ports(self.model.outputs)}.")
        mask = answer.reshape(squares.shape[:3])
        return torch.sigmoid(mask) if self.contract.family == "occluder" else mask


def draw_mask(mask: torch.Tensor, to_crop: np.ndarray, size: int) -> torch.Tensor:
    """``mask`` ``[E, E]`` through ``to_crop`` ``[2, 3]`` as ``[size, size]``, its border going on outside."""
    return warp(mask[..., None], to_crop, size, size, mode="bilinear")[..., 0].clamp(0, 1)


def _open(file: Contents, loading: Loading) -> OnnxOccluder:
    model = open_session(file.path, providers=loading.providers, kind="occluder")
    contract = file.row.contract if file.row else None
    return OnnxOccluder(file.name, model, contract or catalogue()[USUAL].contract, exact=contract is not None)


METHOD = Method("ONNX", kind="occluder", suffixes=(".onnx",), recognizes=has_suffix(".onnx"), open=_open)
