"""Faces to masks by region: the ``Parser`` protocol, and ``region_mask``, from landmarks (built in) or from a parsing network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ..crops.crop import check_crop_count
from ..errors import FaceLoomError
from ..faces import Faces
from ..options.regions import FACE_PARTS, LANDMARK_PARTS, LANDMARK_REGIONS, REGIONS
from ..pixels.drawing import color_regions, outline_masks
from ..pixels.masks import feather_mask, fit_mask, grow_mask
from ..progress import Progress, silent
from .landmarks import landmark_mask

__all__ = ["FACE_PARTS", "REGIONS", "MaskEdge", "Parser", "parse_preview", "region_labels", "region_mask"]


class Parser(Protocol):
    """Labels every pixel of canonical crops with a face region."""

    name: str

    def parse(self, crops: torch.Tensor, progress: Progress = silent) -> torch.Tensor:
        """Label crops ``[N, S, S, 3]`` 0..1 as ``[N, S, S]`` uint8, indices into ``REGIONS`` (never that of ``"face"``)."""
        ...


@dataclass(frozen=True)
class MaskEdge:
    """How the edge of a mask is moved and softened. grow: pixels by which the mask grows (shrinks where negative). feather: pixels over
    which the edge fades, 0 or more. side: where it fades, ``"inside"`` the mask or on ``"both"`` sides of its edge."""

    grow: float = 0.0
    feather: float = 0.0
    side: str = "both"

    def apply(self, masks: torch.Tensor) -> torch.Tensor:
        """Return masks ``[N, H, W]`` with their edge moved and softened (``grow_mask``, ``feather_mask``)."""
        return feather_mask(grow_mask(masks, self.grow), self.feather, self.side)


def region_mask(regions: Iterable[str], size: int, *, faces: Faces | None = None, crops: torch.Tensor | None = None,
                parser: Parser | None = None, edge: MaskEdge = MaskEdge(), occlusion: torch.Tensor | None = None,
                progress: Progress = silent) -> torch.Tensor:
    """Make masks ``[N, size, size]`` float32 0..1 in crop space of the union of ``regions``, one per face.

    regions: names of ``REGIONS``, or one. With a ``parser`` the ``crops`` ``[N, S, S, 3]`` are labelled by the network; without one the
    outlines come from the landmarks of ``faces``. occlusion: any mask of what is visible (1) and what hides the face (0), multiplied in
    last. Empty ``faces`` give one mask of zeros. A region that nobody knows or that landmarks cannot show, and missing faces or crops,
    are a FaceLoomError.
    """
    regions = _check_regions(regions)
    if faces is not None and len(faces) == 0:
        return torch.zeros((1, size, size))
    if faces is not None and crops is not None:
        check_crop_count(len(crops), faces)
    if parser is not None:
        if crops is None:
            raise FaceLoomError("A face parser needs the crops; connect the crops of Face Detect.")
        masks = _masks_from_labels(regions, parser.parse(crops, progress), size)
    elif faces is None:
        raise FaceLoomError("Connect the faces of Face Detect (regions from landmarks) or a parser from Load Face Parser.")
    else:
        masks = _masks_from_landmarks(regions, faces, size, progress)
        masks = masks if crops is None else masks.to(crops.device)
    masks = edge.apply(masks)
    if occlusion is not None:
        masks = masks * fit_mask(occlusion, len(masks), size, size, "occlusion mask").to(masks.device)
    return masks


def _check_regions(regions: Iterable[str]) -> tuple[str, ...]:
    """Return the regions as a tuple; FaceLoomError where one is unknown or there is none."""
    regions = (regions,) if isinstance(regions, str) else tuple(regions)
    unknown = [name for name in regions if name not in REGIONS]
    if unknown:
        raise FaceLoomError(f"There is no face region {', '.join(unknown)}; the regions are {', '.join(REGIONS)}.")
    if not regions:
        raise FaceLoomError("Choose at least one face region.")
    return regions


def _masks_from_landmarks(regions: Sequence[str], faces: Faces, size: int, progress: Progress) -> torch.Tensor:
    network_only = [name for name in regions if name not in LANDMARK_REGIONS]
    if network_only:
        raise FaceLoomError(f"Landmarks cannot show {', '.join(network_only)}; connect a parser from Load Face Parser, or leave them out.")
    masks = []
    for i in range(len(faces)):
        progress(i, len(faces))
        masks.append(landmark_mask(faces, i, size, regions))
    progress(len(faces), len(faces))
    return torch.stack(masks)


def _masks_from_labels(regions: Sequence[str], labels: torch.Tensor, size: int) -> torch.Tensor:
    wanted = {part for name in regions for part in (FACE_PARTS if name == "face" else (name,))}
    table = torch.tensor([name in wanted for name in REGIONS], dtype=torch.float32, device=labels.device)
    return fit_mask(table[labels.to(torch.int64)], len(labels), size, size)


def region_labels(faces: Faces, size: int) -> torch.Tensor:
    """Make labels ``[N, size, size]`` uint8 (indices into ``REGIONS``) from landmarks, as a parser would return them."""
    labels = torch.zeros((len(faces), size, size), dtype=torch.uint8)
    for i in range(len(faces)):
        for name in ("skin", *LANDMARK_PARTS):
            labels[i][landmark_mask(faces, i, size, (name,)) >= 0.5] = REGIONS.index(name)
    return labels


def parse_preview(crops: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Draw masks or labels ``[N, h, w]`` into crops ``[N, S, S, 3]`` 0..1.

    Integer ``masks`` are labels, drawn in a fixed colour per region with a legend; float masks are shown by dimming what they leave out
    and a line along their border. Masks of another size are fitted.
    """
    count, height, width = crops.shape[:3]
    if masks.dtype.is_floating_point:
        return outline_masks(crops, fit_mask(masks, count, height, width))
    if tuple(masks.shape) != (count, height, width):
        size = (height, width)
        masks = torch.nn.functional.interpolate(masks[:, None].to(torch.float32), size=size, mode="nearest-exact")[:, 0]
    return color_regions(crops, masks.to(torch.uint8), REGIONS)
