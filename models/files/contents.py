"""What a model file holds, read at the first question and kept until the file is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .find import FoundFile

if TYPE_CHECKING:
    import torch

    from .catalogue import Row
    from .onnx import OnnxFile

Read = TypeVar("Read")

# Suffixes of PyTorch checkpoints and of what ``models convert`` makes of them.
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin", ".tar", ".safetensors")


class Contents:
    """A model file that was found, and what is in it.

    A method recognizes its files by these properties, and opens them with what was read then, so that a large checkpoint is read once.
    """

    def __init__(self, found: FoundFile) -> None:
        self.found = found
        self._read: dict[Callable[[Path], Any], Any] = {}

    @property
    def path(self) -> Path:
        return self.found.path

    @property
    def row(self) -> Row | None:
        """The catalogue's row, None for a file it does not have."""
        return self.found.row

    @property
    def name(self) -> str:
        """What the model is called: the catalogue's name, else the file's without its suffix."""
        return self.row.name if self.row and "*" not in self.row.file else self.path.stem

    @property
    def suffix(self) -> str:
        """In small letters, with its dot."""
        return self.path.suffix.lower()

    @cached_property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """Tensors by name of a checkpoint of one network; empty for a file of several networks or of another format."""
        from .checkpoints import tensors_in, unwrapped

        return tensors_in(unwrapped(self._checkpoint)) if self.suffix in CHECKPOINTS else {}

    @cached_property
    def weights(self) -> Mapping[str, torch.Tensor]:
        """Tensors by name of a checkpoint of one network, whatever the file's suffix. FaceLoomError where it has none."""
        from .checkpoints import weights_of

        return weights_of(self._checkpoint, self.path.name)

    @cached_property
    def parts(self) -> Mapping[str, Mapping[str, torch.Tensor]]:
        """Tensors by name by part of a checkpoint of several networks; empty for a file of another format. See ``load_parts``."""
        from .checkpoints import parts_in

        return parts_in(self._checkpoint, self.suffix) if self.suffix in CHECKPOINTS else {}

    @cached_property
    def graph(self) -> OnnxFile:
        """The graph of an ONNX file: its inputs, outputs and initializers, without running it."""
        from .onnx import read_onnx

        return self.read(read_onnx)

    @property
    def _checkpoint(self) -> Any:
        from .checkpoints import read_checkpoint

        return self.read(read_checkpoint)

    def read(self, reader: Callable[[Path], Read]) -> Read:
        """Returns ``reader(path)``; the same reader reads once."""
        if reader not in self._read:
            self._read[reader] = reader(self.path)
        return self._read[reader]
