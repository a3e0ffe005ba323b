"""One engine for every one-shot swap network that comes as an ONNX file; what differs between them is in their ``SwapContract``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..crops.crop import crop_faces
from ..crops.templates import template_matrix
from ..errors import FaceLoomError, check_finite, given
from ..faces import Faces, Identity
from ..files.catalogue import SwapContract
from ..pixels.sampling import sample_crops
from ..progress import Progress, silent
from ..runtime.input import from_network_output, to_network_input
from ..runtime.onnx import OnnxModel
from . import USUAL, SwapSettings
from .embeddings import Latents, best_photo, mix
from .inputs import Ports
from .pixel_boost import finer, join_tiles
from .square import draw_outputs, join_outputs, sample_tiles

# Tiles of up to so many pixels that are sampled and swapped before the next faces; bounds the memory of long clips.
TILES, TILE = 64, 256


class OnnxEngine:
    """A ``SwapEngine`` around one network. Open it with ``load_engine``."""

    def __init__(self, name: str, model: OnnxModel, contract: SwapContract, ports: Ports, latents: Latents | None) -> None:
        self.name = name
        self.model = model
        self.contract = contract
        self._ports = ports
        self._latents = latents

    def __repr__(self) -> str:
        return f"OnnxEngine({self.model.describe()})"

    @property
    def size(self) -> int:
        """Edge of the network's picture, pixels."""
        return self.contract.fixed_size

    def prepare(self, identity: Identity) -> np.ndarray | None:
        """Returns what goes into the network's source input for one tile: a latent ``[1, L]`` or a picture ``[1, 3, s, s]``; None for a
        network that holds the person in its weights."""
        if self._ports.source is None:
            return None
        return self._latents.of_identity(identity) if self._latents else self._source_picture(identity)

    def check_settings(self, settings: SwapSettings) -> None:
        """Raises FaceLoomError for settings that ``swap`` refuses."""
        settings.check("" if self._latents else f"{self.name} has no latent space to go beyond the source in; use a strength from 0 to 1.")

    def swap(self, images: torch.Tensor, faces: Faces, source: np.ndarray | None, settings: SwapSettings = USUAL,
             progress: Progress = silent) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``SwapEngine.swap``.

        The network sees its own alignment of the face, sampled straight from the image, ``pixel_boost`` times as fine as it was trained
        for. The mask is the network's own, or the face's outline, within the square it saw. ``strength``: how far the target turns into
        the source in the network's latent space; above 1 exaggerates. Networks without a latent space fade between 0 and 1.
        """
        self.check_settings(settings)
        crops = crop_faces(images, faces, settings.edge(faces))
        masks = crops.new_zeros(crops.shape[:3])
        if settings.strength == 0:
            return crops, masks
        tiles = settings.pixel_boost**2
        step = max(1, TILES // (tiles * max(1, self.size // TILE) ** 2))
        for start in range(0, len(faces), step):
            part = slice(start, min(start + step, len(faces)))
            chosen = faces.take(range(part.start, part.stop))
            feeds = self._source_feeds(source, images, chosen, settings.strength, tiles)
            self._draw(images, chosen, crops[part], masks[part], feeds, settings,
                       lambda done, _, start=start: progress(start * tiles + done, len(faces) * tiles))
        return crops, masks

    def _source_picture(self, identity: Identity) -> np.ndarray:
        contract = self.contract
        photo, face = best_photo(identity)
        unknown = f"{self.name} takes a picture, but its contract does not state which; fetch the file again."
        template, size = given(contract.source_template, unknown), given(contract.source_size, unknown)
        picture = sample_crops(photo, [0], template_matrix(face.keypoints, template, size)[None], size)
        return to_network_input(picture, replace(contract, mean=contract.source_mean, std=contract.source_std)).cpu().numpy()

    def _source_feeds(self, source: np.ndarray | None, images: torch.Tensor, faces: Faces, strength: float, tiles: int
                      ) -> dict[str, torch.Tensor]:
        """Returns the inputs besides the target's, by name: one row for each tile, or one for all."""
        feeds = {}
        if self._ports.source and source is not None:
            if self._latents and strength != 1:
                source = np.repeat(mix(self._latents.of_faces(images, faces), source, strength), tiles, 0)
            feeds[self._ports.source.name] = torch.from_numpy(source).to(images.device)
        if self._ports.morph:
            feeds[self._ports.morph.name] = torch.full(len(self._ports.morph.shape or ()) * (1,), float(strength), device=images.device)
        return feeds

    def _draw(self, images: torch.Tensor, faces: Faces, crops: torch.Tensor, masks: torch.Tensor, feeds: dict[str, torch.Tensor],
              settings: SwapSettings, progress: Progress) -> None:
        """Draws the network's outputs into the faces' crops, and writes their masks."""
        boost = settings.pixel_boost
        to_square = finer(template_matrix(faces.keypoints, self.contract.template, self.size), boost)
        tiles = sample_tiles(images, faces, to_square, self.size * boost, boost)
        outputs, own = self._run(tiles, feeds, progress)
        own = None if own is None else join_tiles(own, boost)
        share = settings.strength if self._latents is None and self._ports.morph is None else 1.0
        draw_outputs(join_outputs(outputs, tiles, boost), own, to_square, faces, crops, masks, share)

    def _run(self, tiles: torch.Tensor, feeds: dict[str, torch.Tensor], progress: Progress) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Runs the network for tiles ``[T, n, n, 3]``. Returns pictures of the same shape and, if it makes any, masks ``[T, n, n, 1]``."""
        outputs = self.model.run(feeds | {self._ports.target.name: to_network_input(tiles, self.contract)}, progress)
        picture = from_network_output(outputs[self.contract.picture_output], self.contract)
        if picture.shape != tiles.shape:
            raise FaceLoomError(f"{self.name} returned pictures of {tuple(picture.shape[1:])}, not of {tuple(tiles.shape[1:])}; "
                                "the file is not the model its name says.")
        masks = [outputs[number] for number in self.contract.mask_outputs]
        for values in (picture, *masks):
            check_finite(values, f"{self.name} returned NaN or infinite values; load it on the CPU, or use a file of full precision.")
        wrong = next((mask for mask in masks if mask.numel() != tiles[..., 0].numel()), None)
        if wrong is not None:
            raise FaceLoomError(f"{self.name} returned masks of {tuple(wrong.shape[1:])} for pictures of {tuple(tiles.shape[1:])}; "
                                "the file is not the model its name says.")
        if not masks:
            return picture, None
        return picture, torch.stack([mask.clamp(0, 1).reshape(*tiles.shape[:3], 1) for mask in masks]).amin(0)
