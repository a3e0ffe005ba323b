"""From an author's original file to the engine for it: which system it is, and the files it needs beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import FaceLoomError
from ...face3d.points106 import Landmarker
from ...files.checkpoints import load_parts, load_weights
from ...files.find import find_companion
from ...files.folders import Folders
from ...files.terminal import command
from ...parse import Parser
from ...runtime.devices import DeviceManager
from .engine import TorchEngine

SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors", ".keras", ".h5", ".hdf5")
# What a system's file needs from other files: their rows in the catalogue, whose names they are known by.
BESIDE = {
    "GHOST's ArcFace": "ghost_arcface_backbone_pth", "GHOST's super-resolution": "ghost_super_resolution",
    "ReliableSwap's ArcFace": "reliableswap_arcface", "FixerNet": "reliableswap_mouth_net_28_56_84_112",
    "SimSwap's ArcFace": "simswap_arcface_checkpoint",
    "StyleGAN2": "megafs_stylegan2", "pSp": "psp_ffhq_encode", "FaceDancer's ArcFace": "facedancer_arcface",
}  # fmt: skip

HELPERS = {
    "parser": f"a face parser (connect one from Load Face Parser, or run `{command('models', 'get', '79999_iter')}`)",
    "landmarker": f"a 106-point landmarker (connect a detector that has one, or run `{command('models', 'get', '2d106det')}`)",
}


def beside(path: Path, what: str, folders: Folders | None = None, needed: bool = True) -> Path | None:
    """The companion file of ``path``, original or converted to safetensors: in its folder, else where the models folders have it."""
    found = find_companion(path, BESIDE[what], folders=folders, what=what, needed=needed)
    converted = found and found.with_suffix(".safetensors")
    return converted if converted and converted.is_file() else found


@dataclass(frozen=True)
class Source:
    """A file to load and what is at hand for it. half: the networks of systems that were published in half precision may be."""

    path: Path
    folders: Folders | None = None
    parser: Parser | None = None
    landmarker: Landmarker | None = None
    devices: DeviceManager | None = None
    half: bool = False

    def common(self, half: bool = False) -> dict:
        """What every engine is made with. half: whether this system may be in half precision."""
        return {"name": self.path.stem, "devices": self.devices, "dtype": torch.float16 if self.half and half else torch.float32}

    def beside(self, what: str, needed: bool = True) -> Path | None:
        return beside(self.path, what, self.folders, needed)


def load_published(path: Path, *, folders: Folders | None = None, parser: Parser | None = None, landmarker: Landmarker | None = None,
                   devices: DeviceManager | None = None, half: bool = False, **options) -> TorchEngine:
    """The engine for an original file of GHOST, ReliableSwap, MegaFS, FaceDancer, FSLSD or faceswap, recognized by what is in it.

    folders: where companion files are looked for that do not lie beside it. parser, landmarker (106 points): used for the systems' own
    masks. half: float16 where it was published so or proven. options: the system's own, see ``options.py``.
    """
    source = Source(path, folders, parser, landmarker, devices, half)
    if path.suffix.lower() in (".keras", ".h5", ".hdf5") or _is_keras(path):
        from ...networks.keras_net import load_keras
        from .deepfakes import deepfakes_engine, is_autoencoder
        from .facedancer import facedancer_engine

        net = load_keras(path)
        if is_autoencoder(net):
            return deepfakes_engine(net, parser=parser, **source.common(), **options)
        return facedancer_engine(net, load_keras(source.beside("FaceDancer's ArcFace")), **source.common(True), **options)
    parts = load_parts(path)
    if "e" in parts:
        from .megafs import megafs_engine

        generator = load_weights(source.beside("StyleGAN2"))
        return megafs_engine(parts["e"], parts.get("s", {}), generator, parser=parser, **source.common(), **options)
    if "encoder_lmk" in parts:
        from .fslsd import fslsd_engine

        missing = [what for what, given in (("parser", parser), ("landmarker", landmarker)) if given is None]
        if missing:
            raise FaceLoomError(f"{path.name} is FSLSD, which needs {' and '.join(HELPERS[what] for what in missing)}.")
        inverter, average = _psp(source.beside("pSp"))
        return fslsd_engine(parts, inverter, average, landmarker, parser, **source.common(), **options)
    return _one_network(source, options)


def _one_network(source: Source, options: Mapping) -> TorchEngine:
    path, weights = source.path, load_weights(source.path)
    if "generator.up1.weight" in weights and "generator.AADBlk1.add_blocks.0.conv1.weight" in weights:
        from .ghost import ghost_engine

        return ghost_engine(weights, load_weights(source.beside("GHOST's ArcFace")),
                            lambda: load_weights(source.beside("GHOST's super-resolution")), landmarker=source.landmarker,
                            **source.common(True), **options)
    from .reliableswap import faceshifter_engine

    own = _without(weights, "generator.")
    if "G.generator.up1.weight" in own:
        return faceshifter_engine(own, parser=source.parser, **source.common(), **options)
    own = _without(weights, "netG.")
    if "BottleNeck.0.style1.linear.weight" in own:
        return _simswap(source, weights, own, options)
    raise FaceLoomError(f"{path.name} is no swap model FaceLoom knows; its first weights are {', '.join(list(weights)[:3])}.")


def _simswap(source: Source, weights: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], options: Mapping) -> TorchEngine:
    """SimSwap's own file, or one of ReliableSwap's: those hold an alignment that nothing uses."""
    if "trans_matrix" not in own:
        from .simswap import simswap_engine as official

        return official(own, _simswap_arcface(source), parser=source.parser, **source.common(True), **options)
    from .reliableswap import simswap_engine

    inside = {part: _only(weights, prefix) for part, prefix in (("arcface", "netArc."), ("mouth", "mouth_net.backbone."))}
    plain = own["BottleNeck.0.style1.linear.weight"].shape[1] == 512  # trained without FixerNet, with SimSwap's own ArcFace
    mouth = None if plain else inside["mouth"] or _optional(source.beside("FixerNet", needed=False))
    arcface = inside["arcface"] or (_simswap_arcface(source) if plain else load_weights(source.beside("ReliableSwap's ArcFace")))
    return simswap_engine(own, arcface, mouth, parser=source.parser, **source.common(), **options)


def _simswap_arcface(source: Source) -> dict[str, torch.Tensor]:
    """The network among what training left in the file; it may have been saved alone."""
    path = source.beside("SimSwap's ArcFace")
    return load_parts(path).get("model") or load_weights(path)


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
