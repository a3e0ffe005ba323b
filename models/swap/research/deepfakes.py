"""deepfakes/faceswap as a method: what the program's files look like, and what can be chosen about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...files.contents import Contents
from ...runtime.method import Loading, Method
from ...runtime.options import Options, option
from .keras_files import is_keras, keras_net, sees_two_pictures
from .words import MASK_HELP, OUTLINE

if TYPE_CHECKING:
    from .deepfakes_engine import DeepfakesEngine


@dataclass(frozen=True)
class DeepfakesOptions(Options):
    """mask: hulls of the landmarks with (``extended``) or without (``components``) raised brows, what the network ``predicted``, what a
    face parser ``parsed``, the ``whole square``, or the face's outline."""

    swap: str = option("A to B", "Whose face is drawn, of the two people the file was trained on. A to B draws B over A.",
                       choices=("A to B", "B to A"))
    mask: str = option("extended", MASK_HELP, choices=("extended", "components", "predicted", "parsed", "whole square", OUTLINE))
    erode: float = option(0.0, "By how many per cent of its radius the mask shrinks; negative values grow it.",
                          least=-100.0, most=100.0, step=1.0, unit="per cent")
    color: str = option("average", "Average gives the drawn face the mean colour of the target's, where the mask is.",
                        choices=("average", "none"))
    centering: str = option(
        "face", "How faces were cut out when the file was trained. Face is faceswap's default; head takes in the whole head, "
                "legacy the face alone.", choices=("face", "legacy", "head"))
    coverage: float = option(100.0, "The share of the cut-out square, in per cent, that the file was trained on.",
                             least=62.5, most=100.0, step=0.5, unit="per cent")


def _recognizes(file: Contents) -> bool:
    return is_keras(file) and sees_two_pictures(file)


def _open(file: Contents, loading: Loading, **options: Any) -> DeepfakesEngine:
    from ..helpers import parser_for
    from ..torch_engine import common_settings
    from .deepfakes_engine import deepfakes_engine

    return deepfakes_engine(keras_net(file), parser=parser_for(loading), **common_settings(file, loading), **options)


METHOD = Method("deepfakes", kind="research", folders=("faceloom/deepfakes",), options=DeepfakesOptions, recognizes=_recognizes, open=_open)
