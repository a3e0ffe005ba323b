"""From an author's original file to the engine for it: which system it is, and the files it needs beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import FaceLoomError
from ..parse import Parser
from ..weights import DeviceManager, load_parts, load_weights
from .ghost import Landmarker
from .torch_engine import TorchEngine

SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors", ".h5", ".hdf5")
# What each system's file needs from other files, by the names their authors gave them.
BESIDE = {
    "ArcFace": ("backbone.pth", "ms1mv3_arcface_r100_fp16.pth"), "FixerNet": ("mouth_net_28_56_84_112.pth",),
    "super-resolution": ("10_net_G.pth",), "StyleGAN2": ("stylegan2-ffhq-config-f.pth",), "pSp": ("psp_ffhq_encode.pt",),
    "FaceDancer's ArcFace": ("ArcFace-Res50.h5",),
}


def beside(path: Path, what: str, needed: bool = True) -> Path | None:
    """The companion file of ``path``, original or converted to safetensors, in its folder."""
    names = [name for file in BESIDE[what] for name in (file, f"{Path(file).stem}.safetensors")]
    found = next((path.parent / name for name in names if (path.parent / name).is_file()), None)
    if found is None and needed:
        raise FaceLoomError(f"{path.name} needs {what} ({BESIDE[what][0]}); put that file into {path.parent}.")
    return found


def load_published(path: Path, *, parser: Parser | None = None, landmarker: Landmarker | None = None,
                   devices: DeviceManager | None = None, dtype: torch.dtype = torch.float32, **options) -> TorchEngine:
    """The engine for an original file of GHOST, ReliableSwap, MegaFS, FaceDancer or FSLSD, recognised by what is in it.

    parser, landmarker (106 points): used for the systems' own masks. options: the engine's own, see its class.
    """
    common = {"name": path.stem, "devices": devices, "dtype": dtype}
    if path.suffix.lower() in (".h5", ".hdf5") or _is_keras(path):
        from ..networks.keras_graph import read_keras
        from .facedancer import facedancer_engine

        return facedancer_engine(read_keras(path), read_keras(beside(path, "FaceDancer's ArcFace")), **common, **options)
    parts = load_parts(path)
    if "e" in parts:
        from .megafs import megafs_engine

        generator = load_weights(beside(path, "StyleGAN2"))
        return megafs_engine(parts["e"], parts.get("s", {}), generator, parser=parser, **common, **options)
    if "encoder_lmk" in parts:
        from .fslsd import fslsd_engine

        if parser is None or landmarker is None:
            raise FaceLoomError("FSLSD needs a face parser and a 106-point landmarker; connect both.")
        inverter, average = _psp(beside(path, "pSp"))
        return fslsd_engine(parts, inverter, average, landmarker, parser, **common, **options)
    return _one_network(path, parser, landmarker, common, options)


def _one_network(path: Path, parser: Parser | None, landmarker: Landmarker | None, common: dict, options: Mapping) -> TorchEngine:
    weights = load_weights(path)
    if "generator.up1.weight" in weights and "generator.AADBlk1.add_blocks.0.conv1.weight" in weights:
        from .ghost import ghost_engine

        enhancer = load_weights(beside(path, "super-resolution")) if options.get("enhance", "off") != "off" else None
        return ghost_engine(weights, load_weights(beside(path, "ArcFace")), enhancer, landmarker=landmarker, **common, **options)
    from .reliableswap import faceshifter_engine, simswap_engine

    own = _without(weights, "generator.")
    if "G.generator.up1.weight" in own:
        return faceshifter_engine(own, parser=parser, **common, **options)
    own = _without(weights, "netG.")
    if "BottleNeck.0.style1.linear.weight" in own:
        inside = {part: _only(weights, prefix) for part, prefix in (("arcface", "netArc."), ("mouth", "mouth_net.backbone."))}
        mouth = inside["mouth"] or _optional(beside(path, "FixerNet", needed=False))
        return simswap_engine(own, inside["arcface"] or load_weights(beside(path, "ArcFace")), mouth, parser=parser, **common, **options)
    raise FaceLoomError(f"{path.name} is no swap model FaceLoom knows; its first weights are {', '.join(list(weights)[:3])}.")


def _without(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The part of a training checkpoint under ``prefix``; a file without it as it is."""
    return _only(weights, prefix) or dict(weights)


def _only(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def _optional(path: Path | None) -> dict[str, torch.Tensor] | None:
    return None if path is None else load_weights(path)


def _psp(path: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    parts = load_parts(path)
    weights = _only(parts.get("state_dict", {}), "encoder.") or parts.get("encoder", {})
    average = parts.get("", {}).get("latent_avg")
    if not weights or average is None:
        raise FaceLoomError(f"{path.name} lacks pSp's encoder or its average latent (latent_avg); use psp_ffhq_encode.pt.")
    return weights, average


def _is_keras(path: Path) -> bool:
    if path.suffix.lower() != ".safetensors":
        return False
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return "model_config" in (file.metadata() or {})
