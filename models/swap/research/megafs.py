"""MegaFS as a method: what its files look like, what they need beside them, and what can be chosen about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...files.contents import Contents
from ...runtime.method import Companion, Loading, Method
from ...runtime.options import Options, option
from .words import MASK_HELP, OUTLINE, PUBLISHED

if TYPE_CHECKING:
    from .megafs_engine import MegaFSEngine

STYLEGAN2 = Companion("megafs_stylegan2", "StyleGAN2")


@dataclass(frozen=True)
class MegaFSOptions(Options):
    """mask: as published, the parsed face and mouth, eroded softly, which needs a face parser; or the face's outline."""

    stretch: bool = option(True, "Makes the darkest value of the picture black and the brightest white, as published. Off shows the "
                                 "colours the generator means.")
    refine: bool = option(False, "Encodes the pasted face again and draws it once more. The published program computes that and does not "
                                 "show it. It needs a face parser.")
    mask: str = option(PUBLISHED, MASK_HELP, choices=(PUBLISHED, OUTLINE))


def _open(file: Contents, loading: Loading, **options: Any) -> MegaFSEngine:
    from ...files.checkpoints import load_weights
    from ..helpers import parser_for
    from ..torch_engine import common_settings
    from .megafs_engine import megafs_engine

    return megafs_engine(file.parts["e"], file.parts.get("s", {}), load_weights(STYLEGAN2.find(file.path, loading)),
                         parser=parser_for(loading), **common_settings(file, loading), **options)


METHOD = Method("MegaFS", kind="research", folders=("faceloom/megafs",), companions=(STYLEGAN2,), options=MegaFSOptions,
                recognizes=lambda file: "e" in file.parts, open=_open)
