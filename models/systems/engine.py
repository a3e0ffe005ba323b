"""What the diffusion systems have in common where they run as swap engines, outside of ComfyUI."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch

from ..crops.squares import align_faces
from ..errors import FaceLoomError
from ..faces import Faces, Identity
from ..identity.photos import check_photos
from ..progress import Progress, silent
from ..runtime.method import Method
from ..runtime.options import Options
from ..swap import USUAL, SwapSettings


class SystemEngine(ABC):
    """A ``SwapEngine`` that paints whole faces. name: of the system. alignment: the one of ``crops.squares`` that the system was trained
    with, and size: the edge of its crops in pixels; without an alignment, faces stay as they are."""

    name: str
    alignment: str | None = None
    size: int

    def align(self, faces: Faces) -> Faces:
        """Returns the faces with the crops that the system paints; ``swap`` takes these."""
        return align_faces(faces, self.alignment, self.size) if self.alignment else faces

    def prepare(self, identity: Identity) -> Any:
        """Returns what painting needs of the identity: itself. FaceLoomError where it has no photo."""
        check_photos(identity, self.name)
        return identity

    def check_settings(self, settings: SwapSettings) -> None:
        """Raises where the settings ask for what no system can do."""
        settings.check()
        if settings.strength != 1 or settings.pixel_boost != 1:
            raise FaceLoomError(f"{self.name} paints whole new faces of one size; leave strength and pixel boost at 1.")

    def swap(self, images: torch.Tensor, faces: Faces, source: Any, settings: SwapSettings = USUAL, progress: Progress = silent
             ) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``SwapEngine.swap``; the faces are those that ``align`` returned."""
        self.check_settings(settings)
        if not len(faces):
            crops = images.new_zeros((0, faces.crop_size, faces.crop_size, 3))
            return crops, crops[..., 0]
        return self.paint_faces(images, faces, source, progress)

    @abstractmethod
    def paint_faces(self, images: torch.Tensor, faces: Faces, source: Any, progress: Progress) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns painted crops ``[N, S, S, 3]`` and masks ``[N, S, S]`` of at least one face."""


Engine = TypeVar("Engine", bound=SystemEngine)


def engine_method(system: Method[Any], open: Callable[..., Engine], options: type[Options]) -> Method[Engine]:
    """Returns the method that opens the same files as ``system`` as a swap engine. open: as ``Method.open``, with these options."""
    return replace(system, open=open, options=options)
