"""GHOST as a method: what its files look like, what they need beside them, and what can be chosen about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...files.contents import Contents
from ...runtime.method import Companion, Loading, Method
from ...runtime.options import Options, option
from .words import MASK_HELP, OUTLINE

if TYPE_CHECKING:
    from .ghost_engine import GhostEngine

ARCFACE = Companion("ghost_arcface_backbone_pth", "GHOST's ArcFace")
SUPER_RESOLUTION = Companion("ghost_super_resolution", "GHOST's super-resolution")


@dataclass(frozen=True)
class GhostOptions(Options):
    """mask: its parameters are chosen for ``each face`` (as published for pictures), kept from the first frame over a ``whole clip`` while
    the face is in every frame (as published for video), or are ``own numbers``. ``face outline`` needs no landmarks."""

    enhance: str = option(
        "off", "The super-resolution network (10_net_G.pth). As published it runs in training mode, with the statistics of each picture; "
               "eval takes those that are stored.", choices=("off", "eval", "as published"))
    templates: str = option(
        "five", "As published the best of five templates aligns the face, from profile to profile. Frontal takes that one alone, as "
                "exports to ONNX have it.", choices=("five", "frontal"))
    mask: str = option("each face", MASK_HELP, choices=("each face", "whole clip", "own numbers", OUTLINE))
    shrink: int = option(
        5, "By how many pixels of 224 the mask shrinks; negative values grow it. 15 also raises the brows further, as published.",
        least=-30, most=60, step=1, unit="pixels", under=("mask", "own numbers"))
    blur_x: float = option(5.0, "How far the mask's border is blurred from left to right, in pixels of 224.",
                           least=0.5, most=40.0, step=0.5, unit="pixels", under=("mask", "own numbers"))
    blur_y: float = option(
        5.0, "How far the mask's border is blurred from top to bottom, in pixels of 224. Twice as much is cut off at the edges.",
        least=0.5, most=40.0, step=0.5, unit="pixels", under=("mask", "own numbers"))


def _recognizes(file: Contents) -> bool:
    return {"generator.up1.weight", "generator.AADBlk1.add_blocks.0.conv1.weight"} <= file.tensors.keys()


def _open(file: Contents, loading: Loading, **options: Any) -> GhostEngine:
    from ...files.checkpoints import load_weights
    from ..helpers import landmarker_for
    from ..torch_engine import common_settings
    from .ghost_engine import ghost_engine

    return ghost_engine(file.tensors, load_weights(ARCFACE.find(file.path, loading)),
                        lambda: load_weights(SUPER_RESOLUTION.find(file.path, loading)), landmarker=landmarker_for(loading),
                        **common_settings(file, loading, half=True), **options)


METHOD = Method("GHOST", kind="research", folders=("faceloom/ghost",), companions=(ARCFACE, SUPER_RESOLUTION), options=GhostOptions,
                recognizes=_recognizes, open=_open)
