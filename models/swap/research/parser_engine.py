"""What engines share whose published mask takes a face parser: MegaFS, SimSwap and ReliableSwap."""

from __future__ import annotations

from typing import TypeVar

from ...options.swap import SwapSettings
from ...parse import Parser
from ...runtime.devices import Net, TorchModel
from ...runtime.options import Value
from .. import open_files
from ..torch_engine import TorchEngine
from .megafs import MegaFSOptions
from .reliableswap import ReliableSwapOptions
from .simswap import SimSwapOptions
from .words import OUTLINE, PUBLISHED

NO_PARSER = "Its mask is the face's outline: the face parser for its own is neither connected nor on this machine."

Masked = TypeVar("Masked", MegaFSOptions, ReliableSwapOptions, SimSwapOptions)


class ParserEngine(TorchEngine[Net, Masked]):
    """An engine of one size, whose mask is the published one where there is a parser, else the face's outline."""

    def __init__(self, name: str, model: TorchModel[Net], size: int, parser: Parser | None = None, **options: Value) -> None:
        self.size, self.parser = size, parser
        super().__init__(name, model, **options)

    @property
    def note(self) -> str:
        return NO_PARSER if self.parser is None and self.options.mask == PUBLISHED else ""

    def open_helpers(self, settings: SwapSettings) -> None:
        """See ``OpensLate``."""
        open_files(self.mask_parser)

    @property
    def mask_parser(self) -> Parser | None:
        """The parser for the published mask; None where the face's outline is wanted or no parser is at hand."""
        return None if self.options.mask == OUTLINE else self.parser
