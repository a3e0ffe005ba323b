"""One engine for every one-shot swap network that comes as an ONNX file; what differs between them is in their ``SwapContract``."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import torch

from ..crops.crop import crop_faces, crop_matrices
from ..crops.draw_back import draw_back
from ..crops.templates import template_matrix
from ..errors import FaceLoomError, check_finite
from ..faces import Faces, Identity
from ..files.catalogue import SwapContract
from ..parse import region_mask
from ..pixels.affine import compose, invert
from ..pixels.sampling import sample_crops
from ..pixels.tensors import expand_rgb, sound
from ..progress import Progress, silent
from ..runtime.input import from_network_output, to_network_input
from ..runtime.onnx import OnnxModel
from .embeddings import Latents, mix, photo_of
from .inputs import Ports
from .pixel_boost import MAX_BOOST, even_tiles, finer, join_tiles, split_tiles

# Tiles of up to this many pixels sampled and answered before the next faces are looked at; bounds the memory of long clips.
TILES, TILE = 64, 256


class OnnxEngine:
    """A ``SwapEngine`` around one network. Make it with ``load_engine``."""

    def __init__(self, name: str, model: OnnxModel, contract: SwapContract, ports: Ports, latents: Latents | None) -> None:
        self.name = name
        self.model = model
        self.contract = contract
        self._ports = ports
        self._latents = latents
        self._sources: weakref.WeakKeyDictionary[Identity, np.ndarray] = weakref.WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"OnnxEngine({self.model.describe()})"

    @property
    def size(self) -> int:
        """Edge of the network's picture, pixels."""
        return self.contract.size

    def swap(self, images: torch.Tensor, faces: Faces, identity: Identity, size: int, *, strength: float = 1.0, pixel_boost: int = 1,
             progress: Progress = silent) -> tuple[torch.Tensor, torch.Tensor]:
        """Canonical crops ``[N, size, size, 3]`` with the swapped faces drawn in, and where: masks ``[N, size, size]``.

        The network sees its own alignment of the face, sampled straight from the image, ``pixel_boost`` (1–8) times as fine as it was
        trained for. The mask is the network's own, or the face's outline, within the square it saw; outside it the crops are the
        target's own. ``strength``: how far the target turns into the source in the network's latent space; 0 leaves the target as it
        is, with an empty mask, above 1 exaggerates. Networks without a latent space fade between 0 and 1.
        """
        self._check(strength, pixel_boost)
        if strength == 0:
            return crop_faces(images, faces, size), images.new_zeros((len(faces), size, size), dtype=torch.float32)
        crops = crop_faces(images, faces, size)
        masks = crops.new_empty(crops.shape[:3])
        images = expand_rgb(images)
        source = self._source(identity)
        tiles = pixel_boost * pixel_boost
        step = max(1, TILES // (tiles * max(1, self.size // TILE) ** 2))
        for start in range(0, len(faces), step):
            part = slice(start, min(start + step, len(faces)))
            chosen = faces.take(range(part.start, part.stop))
            feeds = self._identity_feeds(source, images, chosen, strength, tiles)
            self._draw(images, chosen, crops[part], masks[part], feeds, strength, pixel_boost,
                       lambda done, _, start=start: progress(start * tiles + done, len(faces) * tiles))
        return sound(crops), masks

    def _check(self, strength: float, pixel_boost: int) -> None:
        if not 1 <= pixel_boost <= MAX_BOOST or pixel_boost != int(pixel_boost):
            raise FaceLoomError(f"Pixel boost must be a whole number from 1 to {MAX_BOOST}, not {pixel_boost}.")
        if not 0 <= strength < float("inf"):
            raise FaceLoomError(f"Strength must be 0 or more, not {strength}.")
        if strength > 1 and self._latents is None:
            raise FaceLoomError(f"{self.name} has no latent space to go beyond the source in; use a strength from 0 to 1.")

    def _source(self, identity: Identity) -> np.ndarray | None:
        """What goes into the source input for one row, computed once per identity."""
        if self._ports.source is None:
            return None
        if identity not in self._sources:
            self._sources[identity] = self._latents.of_identity(identity) if self._latents else self._source_picture(identity)
        return self._sources[identity]

    def _source_picture(self, identity: Identity) -> np.ndarray:
        contract = self.contract
        photo, face = photo_of(identity)
        matrix = template_matrix(face.keypoints, contract.source_template, contract.source_size)
        picture = sample_crops(photo, [0], matrix[None], contract.source_size)
        return to_network_input(picture, replace(contract, mean=contract.source_mean, std=contract.source_std)).cpu().numpy()

    def _identity_feeds(self, source: np.ndarray | None, images: torch.Tensor, faces: Faces, strength: float, tiles: int
                        ) -> dict[str, torch.Tensor]:
        """One row per tile, or one for all."""
        feeds = {}
        if source is not None:
            if self._latents and strength != 1:
                source = np.repeat(mix(self._latents.of_faces(images, faces), source, strength), tiles, 0)
            feeds[self._ports.source.name] = torch.from_numpy(source).to(images.device)
        if self._ports.morph:
            feeds[self._ports.morph.name] = torch.full(len(self._ports.morph.shape or ()) * (1,), float(strength), device=images.device)
        return feeds

    def _draw(self, images: torch.Tensor, faces: Faces, crops: torch.Tensor, masks: torch.Tensor, feeds: dict[str, torch.Tensor],
              strength: float, boost: int, progress: Progress) -> None:
        """Draw the answers in the faces' crops, and write their masks."""
        edge, size = self.size * boost, crops.shape[1]
        to_square = finer(template_matrix(faces.keypoints, self.contract.template, self.size), boost)
        tiles = split_tiles(sample_crops(images, faces.frame_indices, to_square, edge), boost)
        answers, own = self._answer(tiles, feeds, progress)
        answers = join_tiles(even_tiles(answers, tiles, boost), boost)
        outlines = region_mask(("face",), size, faces=faces).to(images.device) if own is None else join_tiles(own, boost)
        share = strength if self._latents is None and self._ports.morph is None else 1.0
        for each in zip(crops, masks, answers, compose(crop_matrices(faces, size), invert(to_square)), outlines, strict=True):
            draw_back(*each, share)

    def _answer(self, tiles: torch.Tensor, feeds: dict[str, torch.Tensor], progress: Progress) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The network's pictures ``[T, n, n, 3]`` and, if it makes them, masks ``[T, n, n, 1]`` for all tiles."""
        outputs = self.model.run(feeds | {self._ports.target.name: to_network_input(tiles, self.contract)}, progress)
        picture = from_network_output(outputs[self.contract.picture_output], self.contract)
        if picture.shape != tiles.shape:
            raise FaceLoomError(f"{self.name} answered pictures of {tuple(picture.shape[1:])}, not of {tuple(tiles.shape[1:])}; "
                                "the file is not the model its name says.")
        masks = [outputs[number] for number in self.contract.mask_outputs]
        for values in (picture, *masks):
            check_finite(values, f"{self.name} answered NaN or infinite values; load it on the CPU, or use a file of full precision.")
        wrong = next((mask for mask in masks if mask.numel() != tiles[..., 0].numel()), None)
        if wrong is not None:
            raise FaceLoomError(f"{self.name} answered masks of {tuple(wrong.shape[1:])} for pictures of {tuple(tiles.shape[1:])}; "
                                "the file is not the model its name says.")
        if not masks:
            return picture, None
        return picture, torch.stack([mask.clamp(0, 1).reshape(*tiles.shape[:3], 1) for mask in masks]).amin(0)
