"""How swapped faces are made to look like the clip: measured once in a few frames for each person, and blended in between.

Measured in every frame, grain, sharpness and colours would tremble; a whole clip's mean would not follow its light.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..crops.crop import crop_matrices
from ..faces import Face, Faces
from ..options.paste import PasteSettings
from ..paste import reference_crop
from ..paste.color import ColorMap, apply_colors, measure_colors
from ..progress import Progress, silent
from ..restore import mix_restored
from ..restore.grain import Look, match_photo, measure_looks

_REFERENCE_EDGE = 128  # pixels of the crops in which colours are measured


@dataclass(frozen=True)
class Appearance:
    """What was measured on one face. frame: its number in the clip. look: of sharpness and grain. colors: what gives the crop the clip's
    colours. Each None where it was not asked for, or nothing could be measured."""

    frame: int
    look: Look | None = None
    colors: ColorMap | None = None

    def towards(self, other: Appearance, frame: int) -> Appearance:
        """Return the appearance in a frame between this one and a later one; where only one has something, that holds."""
        part = (frame - self.frame) / (other.frame - self.frame)
        look = self.look.towards(other.look, part) if self.look and other.look else self.look or other.look
        colors = self.colors.towards(other.colors, part) if self.colors and other.colors else self.colors or other.colors
        return Appearance(frame, look, colors)


def track_of(face: Face) -> int:
    """Return the number of a face's track; faces without one are nobody's, -1."""
    return -1 if face.track is None else face.track


def measure_appearances(images: torch.Tensor, faces: Faces, crops: torch.Tensor, masks: torch.Tensor, *, color: str, grain: bool,
                        first: int) -> dict[int, Appearance]:
    """Measure the first face of each track: the appearance by the track's number.

    images: ``[B, H, W, 3]``, in which ``faces`` are and frame 0 is the clip's ``first``. crops, masks: the swapped faces. color: of
    ``PasteSettings``. grain: whether sharpness and grain are asked for.
    """
    firsts: dict[int, int] = {}
    for i, face in enumerate(faces):
        firsts.setdefault(track_of(face), i)
    chosen = list(firsts.values())
    here = faces.take(chosen)
    looks: Sequence[Look | None] = [None] * len(chosen)
    colors: Sequence[ColorMap | None] = [None] * len(chosen)
    crops, masks = crops[chosen], masks[chosen]
    if color != PasteSettings.color:
        size = crops.shape[1]
        edge = min(size, _REFERENCE_EDGE)
        references = [reference_crop(images[face.frame], matrix, size, edge) for face, matrix in zip(here, crop_matrices(here, size))]
        colors = measure_colors(crops, torch.stack(references), masks, color)
        crops = apply_colors(crops, colors)
    if grain:
        looks = measure_looks(crops, images, here, masks)
    return {track: Appearance(first + face.frame, look, mapping)
            for track, face, look, mapping in zip(firsts, here, looks, colors, strict=True)}


def give_appearances(images: torch.Tensor, faces: Faces, crops: torch.Tensor, masks: torch.Tensor, appearances: Sequence[Appearance], *,
                     amount: float, progress: Progress = silent) -> torch.Tensor:
    """Return the crops ``[N, S, S, 3]`` with each one's appearance. amount: of sharpness and grain, 0..1; see ``measure_appearances``."""
    if any(each.colors is not None for each in appearances):
        crops = apply_colors(crops, [each.colors for each in appearances])
    looks = [each.look for each in appearances]
    if amount == 0 or not any(looks):
        return crops
    return mix_restored(crops, match_photo(crops, images, faces, masks, progress, looks=looks), masks, amount)


def appearance_at(face: Face, frame: int, known: Mapping[int, Appearance], later: Mapping[int, Appearance]) -> Appearance:
    """Return the appearance of a face in a frame. known, later: by track, of the frames worked on together with it and of those after."""
    here, then = known[track_of(face)], later.get(track_of(face))
    return here if then is None or frame == here.frame else here.towards(then, frame)
