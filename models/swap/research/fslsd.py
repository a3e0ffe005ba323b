"""FSLSD as a method: what its file looks like, what it needs beside it, and what can be chosen about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FaceLoomError
from ...files.contents import Contents
from ...files.terminal import command
from ...runtime.method import Companion, Loading, Method
from ...runtime.options import Options, option
from .weights import under_prefix

if TYPE_CHECKING:
    import torch

    from .fslsd_engine import FSLSDEngine

PSP = Companion("psp_ffhq_encode", "pSp")
PARSER = f"a face parser (connect one from Load Face Parser, or run `{command('models', 'get', '79999_iter')}`)"
LANDMARKER = f"a 106-point landmarker (connect a detector that has one, or run `{command('models', 'get', '2d106det')}`)"


@dataclass(frozen=True)
class FSLSDOptions(Options):
    """What is drawn anew: the parsed face, with the hair or without it, grown."""

    hair: bool = option(True, "Draws the hair anew with the face, as published. Off keeps the target's.")
    grow: int = option(50, "By how many pixels of 1024 the area that is drawn anew is larger than what was parsed. Published is 50.",
                       least=0, most=512, step=2, unit="pixels")


def _open(file: Contents, loading: Loading, **options: Any) -> FSLSDEngine:
    from ..helpers import landmarker_for, parser_for
    from ..torch_engine import common_settings
    from .fslsd_engine import fslsd_engine

    parser, landmarker = parser_for(loading), landmarker_for(loading)
    if parser is None or landmarker is None:
        missing = [what for what, helper in ((PARSER, parser), (LANDMARKER, landmarker)) if helper is None]
        raise FaceLoomError(f"{file.path.name} is FSLSD, which needs {' and '.join(missing)}.")
    inverter, average = _load_psp(PSP.find(file.path, loading))
    return fslsd_engine(file.parts, inverter, average, landmarker, parser, **common_settings(file, loading), **options)


def _load_psp(path: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Reads the weights of pSp's encoder and its average latent."""
    from ...files.checkpoints import load_parts

    parts = load_parts(path)
    weights = under_prefix(parts.get("state_dict", {}), "encoder.") or parts.get("encoder", {})
    average = parts.get("", {}).get("latent_avg")
    if not weights or average is None:
        raise FaceLoomError(f"{path.name} lacks pSp's encoder or its average latent (latent_avg); use psp_ffhq_encode.pt.")
    return weights, average


METHOD = Method("FSLSD", kind="research", folders=("faceloom/fslsd",), companions=(PSP,), options=FSLSDOptions,
                recognizes=lambda file: "encoder_lmk" in file.parts, open=_open)
