"""Which parts of a face: masks by region, from landmarks (built in) or from a parsing network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch

from ..errors import FaceLoomError
from ..faces import Faces
from ..pixels.drawing import color_regions, outline_masks
from ..pixels.masks import feather_mask, fit_mask, grow_mask
from ..progress import Progress, silent
from .landmarks import LANDMARK_REGIONS, PARTS, landmark_masks

# A parser's labels are indices into this table. Left and right are the viewer's; "mouth" is what lies between the lips.
REGIONS: tuple[str, ...] = (
    "background", "skin", "left_brow", "right_brow", "left_eye", "right_eye", "glasses", "nose", "mouth", "upper_lip", "lower_lip",
    "left_ear", "right_ear", "hair", "hat", "neck", "cloth", "necklace", "earring", "face",
)  # fmt: skip

# "face" is the whole face with the forehead and what is worn on it; no label of its own.
FACE_PARTS: tuple[str, ...] = REGIONS[1:11]


class Parser(Protocol):
    """A network that labels every pixel of canonical crops."""

    name: str

    def parse(self, crops: torch.Tensor, progress: Progress = silent) -> torch.Tensor:
        """``[N, S, S, 3]`` crops to ``[N, S, S]`` uint8 labels, indices into ``REGIONS`` (never ``"face"``)."""
        ...


def region_mask(regions: Iterable[str], size: int, *, faces: Faces | None = None, crops: torch.Tensor | None = None,
                parser: Parser | None = None, grow: float = 0.0, feather: float = 0.0, side: str = "both",
                occlusion: torch.Tensor | None = None, progress: Progress = silent) -> torch.Tensor:
    """``[N, size, size]`` float32: the union of ``regions`` in crop space, one mask per face.

    With a ``parser`` the ``crops`` are labelled by the network; without one the outlines come from the landmarks of ``faces``. ``grow``
    and ``feather`` are crop pixels (masks.grow_mask, masks.feather_mask). ``occlusion`` is any mask of what is visible (1) and what
    hides the face (0); it is multiplied in last. Empty ``faces`` give one mask of zeros.
    """
    regions = _checked(regions)
    if faces is not None and len(faces) == 0:
        return torch.zeros((1, size, size))
    if parser is not None:
        if crops is None:
            raise FaceLoomError("A face parser needs the crops; connect the crops of Face Detect.")
        masks = _from_labels(regions, parser.parse(crops, progress), size)
    elif faces is None:
        raise FaceLoomError("Connect the faces of Face Detect (regions from landmarks) or a parser from Load Face Parser.")
    else:
        masks = _from_landmarks(regions, faces, size, progress)
        masks = masks if crops is None else masks.to(crops.device)
    masks = feather_mask(grow_mask(masks, grow), feather, side)
    if occlusion is not None:
        masks = masks * fit_mask(occlusion, len(masks), size, size, "occlusion mask").to(masks.device)
    return masks


def _checked(regions: Iterable[str]) -> tuple[str, ...]:
    regions = (regions,) if isinstance(regions, str) else tuple(regions)
    unknown = [name for name in regions if name not in REGIONS]
    if unknown:
        raise FaceLoomError(f"There is no face region {', '.join(unknown)}; the regions are {', '.join(REGIONS)}.")
    if not regions:
        raise FaceLoomError("Choose at least one face region.")
    return regions


def _from_landmarks(regions: Sequence[str], faces: Faces, size: int, progress: Progress) -> torch.Tensor:
    network_only = [name for name in regions if name not in LANDMARK_REGIONS]
    if network_only:
        raise FaceLoomError(f"Landmarks cannot show {', '.join(network_only)}; connect a parser from Load Face Parser, or leave them out.")
    masks = []
    for i in range(len(faces)):
        progress(i, len(faces))
        masks.append(landmark_masks(faces, i, size, regions))
    progress(len(faces), len(faces))
    return torch.stack(masks)


def _from_labels(regions: Sequence[str], labels: torch.Tensor, size: int) -> torch.Tensor:
    wanted = {part for name in regions for part in (FACE_PARTS if name == "face" else (name,))}
    table = torch.tensor([name in wanted for name in REGIONS], dtype=torch.float32, device=labels.device)
    return fit_mask(table[labels.to(torch.int64)], len(labels), size, size)


def region_labels(faces: Faces, size: int) -> torch.Tensor:
    """``[N, size, size]`` uint8 labels (indices into ``REGIONS``) from landmarks, as a parser would give them."""
    labels = torch.zeros((len(faces), size, size), dtype=torch.uint8)
    for i in range(len(faces)):
        for name in ("skin", *PARTS):
            labels[i][landmark_masks(faces, i, size, (name,)) >= 0.5] = REGIONS.index(name)
    return labels


def parse_preview(crops: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """``[N, S, S, 3]``: integer ``masks`` are labels, drawn in a fixed colour per region with a legend; float masks are shown by
    dimming what they leave out and a line along their border. Masks of another size are fitted."""
    count, height, width = crops.shape[:3]
    if masks.dtype.is_floating_point:
        return outline_masks(crops, fit_mask(masks, count, height, width))
    if tuple(masks.shape) != (count, height, width):
        size = (height, width)
        masks = torch.nn.functional.interpolate(masks[:, None].to(torch.float32), size=size, mode="nearest-exact")[:, 0]
    return color_regions(crops, masks.to(torch.uint8), REGIONS)
