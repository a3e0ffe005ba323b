"""What engines around torch networks share: sampling their own alignment from the image, running it in chunks, drawing the outputs back."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import nn

from ..crops.crop import crop_faces
from ..errors import FaceLoomError, check_finite
from ..faces import Faces, Identity
from ..files.contents import Contents
from ..identity.photos import reference_photos
from ..pixels.sampling import sample_crops
from ..progress import Progress, silent
from ..runtime.devices import Net, TorchModel
from ..runtime.memory import run_chunks
from ..runtime.method import Loading
from ..runtime.options import Options, Value
from . import USUAL, SwapSettings
from .embeddings import mix
from .pixel_boost import finer, join_tiles
from .square import draw_outputs, join_outputs, sample_tiles

# Bytes one face of 256×256 takes in a network besides its weights, measured; larger pictures take as many times more.
BYTES_PER_FACE = 400 << 20

OwnOptions = TypeVar("OwnOptions", bound=Options)


def common_settings(file: Contents, loading: Loading, half: bool = False) -> dict[str, Any]:
    """Returns what every engine is made with: name, devices and dtype. half: whether the system may run in half precision."""
    return {"name": file.path.stem, "devices": loading.devices, "dtype": torch.float16 if loading.half and half else torch.float32}


class TorchEngine(ABC, Generic[Net, OwnOptions]):
    """A ``SwapEngine`` around torch networks: of a module that holds them, and with options of its own.

    size: edge of the square the network swaps. chunk: faces that go through it together. mixes: whether what ``encode_faces`` returns for
    a target lies in one space with what it returns for a source, so that strengths between can be had; else the outputs are faded.
    layout: how pictures and kernels lie in memory; the quicker one, measured. Pictures come as channels-last ones, and kernels of
    another layout take a quarter longer.
    options: the system's own. A subclass sets what ``check`` looks at before it calls this constructor.
    """

    size = 256
    chunk = 8
    mixes = True
    layout = torch.channels_last
    options: OwnOptions
    note = ""  # what the user should know about what is missing

    def __init__(self, name: str, model: TorchModel[Net], **options: Value) -> None:
        self.name = name
        self.model = model
        set_memory_format(model.net, self.layout)
        self.options = self.options.changed(name, **options)
        self.check()

    def with_options(self, **options: Value) -> TorchEngine[Net, OwnOptions]:
        """Returns an engine with the same networks and other options; this one stays as it is."""
        changed = copy.copy(self)
        changed.options = self.options.changed(self.name, **options)
        changed.check()
        return changed

    def check(self) -> None:
        """Raises FaceLoomError where an option needs what this engine was made without."""

    @abstractmethod
    def alignment(self, keypoints: np.ndarray) -> np.ndarray:
        """Returns image → square ``[N, 2, 3]`` for keypoints ``[N, 5, 2]``."""

    @abstractmethod
    def encode_faces(self, images: torch.Tensor, faces: Faces) -> torch.Tensor:
        """Returns ``[N, ...]`` on the CPU: what the generator takes of each face as a source."""

    @abstractmethod
    def generate(self, targets: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns pictures of the shape of ``targets`` ``[n, 3, size, size]`` 0..1 for one source each, and masks ``[n, size, size]`` if
        the network has any of its own."""

    def prepare(self, identity: Identity) -> torch.Tensor:
        """Returns ``[1, ...]``: ``encode_faces`` of the identity's photos, their mean."""
        return self.encode_faces(*reference_photos(identity, self.name)).mean(0, keepdim=True)

    def check_settings(self, settings: SwapSettings) -> None:
        """Raises FaceLoomError for settings that ``swap`` refuses."""
        settings.check("" if self.mixes else f"{self.name} has no latent space to go beyond the source in; use a strength from 0 to 1.")

    def swap(self, images: torch.Tensor, faces: Faces, source: torch.Tensor, settings: SwapSettings = USUAL, progress: Progress = silent
             ) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``SwapEngine.swap``. The network sees its own alignment of the face, sampled straight from the image, ``pixel_boost`` times
        as fine as it was trained for."""
        self.check_settings(settings)
        crops = crop_faces(images, faces, settings.edge(faces))
        masks = crops.new_zeros(crops.shape[:3])
        if settings.strength == 0 or not len(faces):
            return crops, masks

        def part(span: range) -> None:
            chosen, rows = faces.take(span), slice(span.start, span.stop)
            sources = self.mixed_sources(images, chosen, source, settings.strength)
            self._draw(images, chosen, crops[rows], masks[rows], sources, settings)

        run_chunks(part, range(len(faces)), max(1, self.chunk // settings.pixel_boost**2), progress)
        return crops, masks

    def mixed_sources(self, images: torch.Tensor, faces: Faces, source: torch.Tensor, strength: float) -> torch.Tensor:
        """Returns ``[N, ...]``: what each face is to become at this strength, where the network has something between."""
        sources = source.expand(len(faces), *source.shape[1:])
        if not self.mixes or strength == 1:
            return sources
        return torch.from_numpy(mix(self.encode_faces(images, faces).numpy(), sources.numpy(), strength))

    def _draw(self, images: torch.Tensor, faces: Faces, crops: torch.Tensor, masks: torch.Tensor, sources: torch.Tensor,
              settings: SwapSettings) -> None:
        """Draws the network's outputs into the faces' crops, and writes their masks."""
        boost = settings.pixel_boost
        to_square = finer(self.alignment(faces.keypoints), boost)
        tiles = sample_tiles(images, faces, to_square, self.size * boost, boost)
        outputs, own = self.run(tiles, sources.repeat_interleave(boost * boost, 0))
        own = None if own is None else join_tiles(own[..., None], boost)
        draw_outputs(join_outputs(outputs, tiles, boost), own, to_square, faces, crops, masks, 1.0 if self.mixes else settings.strength)

    @torch.inference_mode()
    def run(self, tiles: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Runs ``generate`` for tiles ``[n, size, size, 3]`` on any device; its outputs come back on theirs."""
        targets, sources = self.to_network(tiles.permute(0, 3, 1, 2), sources)
        pictures, masks = self.generate(targets, sources)
        if pictures.shape != targets.shape:
            raise FaceLoomError(f"{self.name} returned pictures of {tuple(pictures.shape[1:])}, not of {tuple(targets.shape[1:])}.")
        return self.from_network(pictures, masks, tiles.device)

    def from_network(self, pictures: torch.Tensor, masks: torch.Tensor | None, device: torch.device
                     ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns outputs of ``generate`` as pictures ``[n, size, size, 3]`` and masks, float32 0..1 on ``device``."""
        for values in (pictures, masks):
            check_finite(values, f"{self.name} returned NaN or infinite values; load it in full precision.")
        pictures = pictures.float().clamp(0, 1).permute(0, 2, 3, 1).to(device).clone()
        return pictures, None if masks is None else masks.float().clamp(0, 1).to(device).clone()

    def to_network(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Returns tensors where the network is, in its precision and layout."""
        net, device = self.model.ready(BYTES_PER_FACE * len(tensors[0]) * (self.size // 256) ** 2)
        kind = next(net.parameters()).dtype
        moved = [tensor.to(device, kind) for tensor in tensors]
        return [tensor.contiguous(memory_format=self.layout) if tensor.ndim == 4 else tensor for tensor in moved]


def set_memory_format(net: nn.Module, layout: torch.memory_format) -> None:
    """Lays the kernels of convolutions out as ``layout`` says; their values stay."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.weight.data = module.weight.data.contiguous(memory_format=layout)


def sample_squares(images: torch.Tensor, faces: Faces, matrices: np.ndarray, size: int) -> torch.Tensor:
    """Returns ``[N, 3, size, size]`` 0..1: the squares of the faces through image → square ``matrices`` ``[N, 2, 3]``."""
    return sample_crops(images, faces.frame_indices, matrices, size).clamp(0, 1).permute(0, 3, 1, 2)
