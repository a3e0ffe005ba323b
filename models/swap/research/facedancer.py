"""FaceDancer as a method: what its files look like, what they need beside them, and what can be chosen about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...files.contents import Contents
from ...runtime.method import Companion, Loading, Method
from ...runtime.options import Options, option
from .keras_files import is_keras, keras_net, sees_two_pictures
from .words import MASK_HELP, OUTLINE

if TYPE_CHECKING:
    from .facedancer_engine import FaceDancerEngine

ARCFACE = Companion("facedancer_arcface", "FaceDancer's ArcFace")


@dataclass(frozen=True)
class FaceDancerOptions(Options):
    """mask: the published soft rectangle, the ``low rectangle`` of the older video program, or the face's outline."""

    mask: str = option("rectangle", MASK_HELP, choices=("rectangle", "low rectangle", OUTLINE))


def _recognizes(file: Contents) -> bool:
    return is_keras(file) and not sees_two_pictures(file)


def _open(file: Contents, loading: Loading, **options: Any) -> FaceDancerEngine:
    from ...networks.keras_net import load_keras
    from ..torch_engine import common_settings
    from .facedancer_engine import facedancer_engine

    return facedancer_engine(keras_net(file), load_keras(ARCFACE.find(file.path, loading)), **common_settings(file, loading, half=True),
                             **options)


METHOD = Method("FaceDancer", kind="research", folders=("faceloom/facedancer",), companions=(ARCFACE,), options=FaceDancerOptions,
                recognizes=_recognizes, open=_open)
