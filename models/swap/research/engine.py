"""What engines around torch networks share: sampling their own alignment from the image, running it in chunks, drawing the answer back."""

from __future__ import annotations

import copy
import weakref
from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ...crops.crop import crop_faces, crop_matrices
from ...crops.draw_back import draw_back
from ...errors import FaceLoomError, check_finite
from ...faces import Faces, Identity
from ...parse import region_mask
from ...pixels.affine import compose, invert
from ...pixels.sampling import sample_crops
from ...pixels.tensors import expand_rgb, sound
from ...progress import Progress, silent
from ...runtime.devices import TorchModel
from ...runtime.memory import run_chunks
from ..embeddings import mix
from ..pixel_boost import MAX_BOOST, even_tiles, finer, join_tiles, split_tiles
from .options import Options

# Bytes one face of 256×256 takes in a network besides its weights, measured; larger pictures take as many times more.
PER_FACE = 400 << 20


class TorchEngine(ABC):
    """A ``SwapEngine`` around torch networks.

    size: edge of the square the network swaps. chunk: faces that go through it together. mixes: whether what ``of_photos`` says of a
    target lies in one space with what it says of a source, so that strengths between can be had; else the answer is faded.
    layout: how pictures and kernels lie in memory; the quicker one, measured. Pictures come as channels-last ones, and kernels of
    another layout take a quarter longer.
    options: the system's own, see ``options.py``. A subclass sets what ``check`` looks at before it calls this constructor.
    """

    size = 256
    chunk = 8
    mixes = True
    layout = torch.channels_last
    options: Options = Options()
    note = ""  # what the user should know about what is missing

    def __init__(self, name: str, model: TorchModel, **options) -> None:
        self.name = name
        self.model = model
        set_memory_format(model.net, self.layout)
        self.options = self.options.changed(name, **options)
        self._sources: weakref.WeakKeyDictionary[Identity, torch.Tensor] = weakref.WeakKeyDictionary()
        self.check()

    def with_options(self, **options) -> TorchEngine:
        """The same networks with other options; this engine stays as it is."""
        changed = copy.copy(self)
        changed.options = self.options.changed(self.name, **options)
        changed._sources = weakref.WeakKeyDictionary()
        changed.check()
        return changed

    def check(self) -> None:  # noqa: B027  (most need nothing)
        """Raise where an option needs what this engine was made without."""

    @abstractmethod
    def alignment(self, keypoints: np.ndarray) -> np.ndarray:
        """``[N, 5, 2]`` keypoints to image → square ``[N, 2, 3]``."""

    @abstractmethod
    def of_photos(self, images: torch.Tensor, faces: Faces) -> torch.Tensor:
        """``[N, ...]`` on the CPU: what the generator takes of each face as a source."""

    @abstractmethod
    def answer(self, targets: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Targets ``[n, 3, size, size]`` 0..1 and one source each to pictures of the same shape, and masks ``[n, size, size]`` if it has
        any of its own."""

    def swap(self, images: torch.Tensor, faces: Faces, identity: Identity, size: int, *, strength: float = 1.0, pixel_boost: int = 1,
             progress: Progress = silent) -> tuple[torch.Tensor, torch.Tensor]:
        """Canonical crops ``[N, size, size, 3]`` with the swapped faces drawn in, and where: masks ``[N, size, size]``.

        The network sees its own alignment of the face, sampled straight from the image, ``pixel_boost`` (1–8) times as fine as it was
        trained for. ``strength`` 0 leaves the target as it is, with an empty mask.
        """
        if not 1 <= pixel_boost <= MAX_BOOST or pixel_boost != int(pixel_boost):
            raise FaceLoomError(f"Pixel boost must be a whole number from 1 to {MAX_BOOST}, not {pixel_boost}.")
        if not 0 <= strength <= (float("inf") if self.mixes else 1):
            raise FaceLoomError(f"Strength must be 0 or more, not {strength}." if self.mixes
                                else f"{self.name} has no latent space to go beyond the source in; use a strength from 0 to 1.")
        crops = crop_faces(images, faces, size)
        images = expand_rgb(images)
        masks = crops.new_zeros(crops.shape[:3])
        if strength == 0 or not len(faces):
            return crops, masks
        source = self.source(identity)

        def part(span: range) -> None:
            chosen = faces.take(span)
            sources = self.sources(images, chosen, source, strength)
            part = slice(span.start, span.stop)
            self._draw(images, chosen, crops[part], masks[part], sources, strength, pixel_boost)

        run_chunks(part, range(len(faces)), max(1, self.chunk // pixel_boost**2), progress)
        return sound(crops), masks

    def sources(self, images: torch.Tensor, faces: Faces, source: torch.Tensor, strength: float) -> torch.Tensor:
        """``[N, ...]``: what each face is to become at this strength, where there is something between."""
        sources = source.expand(len(faces), *source.shape[1:])
        if not self.mixes or strength == 1:
            return sources
        return torch.from_numpy(mix(self.of_photos(images, faces).numpy(), sources.numpy(), strength))

    def source(self, identity: Identity) -> torch.Tensor:
        """``[1, ...]``, the mean over the reference photos; computed once per identity."""
        if identity not in self._sources:
            if not len(identity.crops):
                raise FaceLoomError(f"{self.name} looks at a photo of the source, and this identity has none; make it with ArcFace Embed.")
            crops = torch.from_numpy(np.array(identity.crops))
            items = tuple(replace(face, frame=i) for i, face in enumerate(identity.faces))
            self._sources[identity] = self.of_photos(crops, Faces(items, len(crops), *crops.shape[1:3])).mean(0, keepdim=True)
        return self._sources[identity]

    def _draw(self, images: torch.Tensor, faces: Faces, crops: torch.Tensor, masks: torch.Tensor, sources: torch.Tensor, strength: float,
              boost: int) -> None:
        size, edge = crops.shape[1], self.size * boost
        to_square = finer(self.alignment(faces.keypoints), boost)
        tiles = split_tiles(sample_crops(images, faces.frame_indices, to_square, edge).clamp(0, 1), boost)
        answers, own = self.run(tiles, sources.repeat_interleave(boost * boost, 0))
        answers = join_tiles(even_tiles(answers, tiles, boost), boost)
        outlines = region_mask(("face",), size, faces=faces).to(crops) if own is None else join_tiles(own[..., None], boost)
        to_crop = compose(crop_matrices(faces, size), invert(to_square))
        share = 1.0 if self.mixes else strength
        for each in zip(crops, masks, answers, to_crop, outlines, strict=True):
            draw_back(*each, share)

    @torch.inference_mode()
    def run(self, tiles: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``answer`` for tiles ``[n, size, size, 3]`` on any device, back on theirs."""
        targets, sources = self.moved(tiles.permute(0, 3, 1, 2), sources)
        pictures, masks = self.answer(targets, sources)
        if pictures.shape != targets.shape:
            raise FaceLoomError(f"{self.name} answered pictures of {tuple(pictures.shape[1:])}, not of {tuple(targets.shape[1:])}.")
        return self.answered(pictures, masks, tiles.device)

    def answered(self, pictures: torch.Tensor, masks: torch.Tensor | None, device: torch.device
                 ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What ``answer`` gave as pictures ``[n, size, size, 3]`` and masks, float32 0..1 on ``device``."""
        for values in (pictures, masks):
            check_finite(values, f"{self.name} answered NaN or infinite values; load it in full precision.")
        pictures = pictures.float().clamp(0, 1).permute(0, 2, 3, 1).to(device).clone()
        return pictures, None if masks is None else masks.float().clamp(0, 1).to(device).clone()

    def moved(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Tensors where the network is, in its precision and layout."""
        net, device = self.model.ready(PER_FACE * len(tensors[0]) * (self.size // 256) ** 2)
        kind = next(net.parameters()).dtype
        moved = [tensor.to(device, kind) for tensor in tensors]
        return [tensor.contiguous(memory_format=self.layout) if tensor.ndim == 4 else tensor for tensor in moved]


def set_memory_format(net: nn.Module, layout: torch.memory_format) -> None:
    """Convolutions' kernels as ``layout`` says; their values stay."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.weight.data = module.weight.data.contiguous(memory_format=layout)


def sampled(images: torch.Tensor, faces: Faces, matrices: np.ndarray, size: int) -> torch.Tensor:
    """``[N, 3, size, size]`` 0..1: squares of the faces."""
    return sample_crops(images[..., :3], faces.frame_indices, matrices, size).clamp(0, 1).permute(0, 3, 1, 2)
