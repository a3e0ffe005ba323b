"""SimSwap as a method: what its authors' files look like, what they need beside them, and what can be chosen about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...files.contents import Contents
from ...runtime.method import Companion, Loading, Method
from ...runtime.options import Options, option
from .weights import without_prefix
from .words import MASK_HELP, OUTLINE, PUBLISHED

if TYPE_CHECKING:
    import torch

    from .simswap_engine import SimSwapEngine

ARCFACE = Companion("simswap_arcface_checkpoint", "SimSwap's ArcFace")


@dataclass(frozen=True)
class SimSwapOptions(Options):
    """mask: as published, the parsed face and mouth, eroded softly, which needs a face parser; or the face's outline."""

    mask: str = option(PUBLISHED, MASK_HELP, choices=(PUBLISHED, OUTLINE))


def generator_in(file: Contents) -> dict[str, torch.Tensor]:
    """Returns the weights of a SimSwap generator, which lie under a prefix in a training checkpoint; empty for another file."""
    own = without_prefix(file.tensors, "netG.")
    return own if "BottleNeck.0.style1.linear.weight" in own else {}


def load_arcface(file: Contents, loading: Loading) -> Mapping[str, torch.Tensor]:
    """Reads the companion ArcFace: the network among what training left in its file; it may have been saved alone."""
    from ...files.checkpoints import load_parts, load_weights

    path = ARCFACE.find(file.path, loading)
    return load_parts(path).get("model") or load_weights(path)


def _recognizes(file: Contents) -> bool:
    generator = generator_in(file)
    return bool(generator) and "trans_matrix" not in generator  # ReliableSwap's files hold an alignment


def _open(file: Contents, loading: Loading, **options: Any) -> SimSwapEngine:
    from ..helpers import parser_for
    from ..torch_engine import common_settings
    from .simswap_engine import simswap_engine

    return simswap_engine(generator_in(file), load_arcface(file, loading), parser=parser_for(loading),
                          **common_settings(file, loading, half=True), **options)


METHOD = Method("SimSwap", kind="research", folders=("faceloom/simswap",), companions=(ARCFACE,), options=SimSwapOptions,
                recognizes=_recognizes, open=_open)
