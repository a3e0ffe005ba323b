"""ReliableSwap as a method, in its FaceShifter and its SimSwap form: what its files look like, what they need, and what can be chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...files.contents import Contents
from ...runtime.method import Companion, Loading, Method
from ...runtime.options import Options, option
from . import simswap
from .weights import under_prefix, without_prefix
from .words import MASK_HELP, OUTLINE, PUBLISHED

if TYPE_CHECKING:
    import torch

    from .reliableswap_engine import FfhqEngine

ARCFACE = Companion("reliableswap_arcface", "ReliableSwap's ArcFace")
FIXERNET = Companion("reliableswap_mouth_net_28_56_84_112", "FixerNet")


@dataclass(frozen=True)
class ReliableSwapOptions(Options):
    """mask: as published, hair and background stay the target's, which needs a face parser; or the face's outline."""

    align: bool = option(True, "Moves the source to ArcFace's alignment, as published in the demo. Off does as the command-line program, "
                               "which forgets to. For the FaceShifter form only.")
    mask: str = option(PUBLISHED, MASK_HELP, choices=(PUBLISHED, OUTLINE))


def _faceshifter(file: Contents) -> dict[str, torch.Tensor]:
    """Returns the weights of the FaceShifter form, which have a prefix in a training checkpoint; empty for another file."""
    own = without_prefix(file.tensors, "generator.")
    return own if "G.generator.up1.weight" in own else {}


def _simswap(file: Contents) -> dict[str, torch.Tensor]:
    """Returns the weights of the SimSwap form; empty for another file. They hold the alignment, which SimSwap's own files lack."""
    own = simswap.generator_in(file)
    return own if "trans_matrix" in own else {}


def _recognizes(file: Contents) -> bool:
    return bool(_faceshifter(file) or _simswap(file))


def _open(file: Contents, loading: Loading, **options: Any) -> FfhqEngine[Any]:
    from ..helpers import parser_for
    from ..torch_engine import common_settings
    from .reliableswap_engine import faceshifter_engine, simswap_engine

    settings = {"parser": parser_for(loading), **common_settings(file, loading), **options}
    if own := _faceshifter(file):
        return faceshifter_engine(own, **settings)
    own = _simswap(file)
    return simswap_engine(own, *_identity_networks(own, file, loading), **settings)


def _identity_networks(generator: Mapping[str, torch.Tensor], file: Contents, loading: Loading
                       ) -> tuple[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor] | None]:
    """Reads the weights of ArcFace and, where the generator was trained with it, of FixerNet: from the training checkpoint, else from
    companion files."""
    from ...files.checkpoints import load_weights

    arcface, mouth = under_prefix(file.tensors, "netArc."), under_prefix(file.tensors, "mouth_net.backbone.")
    if generator["BottleNeck.0.style1.linear.weight"].shape[1] == 512:  # trained without FixerNet, with SimSwap's own ArcFace
        return arcface or simswap.load_arcface(file, loading), None
    if not mouth:
        path = FIXERNET.find(file.path, loading, needed=False)
        mouth = None if path is None else load_weights(path)
    return arcface or load_weights(ARCFACE.find(file.path, loading)), mouth


METHOD = Method("ReliableSwap", kind="research", folders=("faceloom/reliableswap",), companions=(ARCFACE, FIXERNET, simswap.ARCFACE),
                options=ReliableSwapOptions, recognizes=_recognizes, open=_open)
