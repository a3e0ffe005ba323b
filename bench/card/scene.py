"""The frames, faces and networks that are measured. All are made here: neither a photograph nor a detector is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from faceloom.models.crops.templates import TEMPLATES
from faceloom.models.faces import Face, Faces, Identity
from faceloom.models.runtime.devices import PlainDevices, TorchModel
from faceloom.models.swap.research.ghost_engine import GhostEngine, GhostNets
from faceloom.models.swap.research.simswap_engine import SimSwapEngine, SimSwapNets
from faceloom.models.swap.torch_engine import TorchEngine
from torch import nn
from torch.nn import functional

from bench.card.tools import Setup, need
from bench.doubles import LATENT, save_full_cost, save_trivial
from bench.paste import build_frame
from bench.systems import SYSTEMS, randomized

PORTRAIT = 512
ONNX_NAMES = ("trivial", "full cost")


def make_portrait() -> tuple[torch.Tensor, Face]:
    """Makes a photograph ``[1, 512, 512, 3]`` of smooth colours with some grain, and the face that fills it."""
    random = torch.Generator().manual_seed(0)
    smooth = functional.interpolate(torch.rand(1, 3, 12, 12, generator=random), (PORTRAIT, PORTRAIT), mode="bicubic", align_corners=False)
    photo = (smooth + 0.02 * torch.randn(smooth.shape, generator=random)).clamp(0, 1).permute(0, 2, 3, 1).contiguous()
    return photo, Face(0, [100, 80, 412, 450], TEMPLATES["ffhq_512"] * PORTRAIT)


def make_frame(setup: Setup, count: int, device: str | None = None) -> tuple[torch.Tensor, Faces]:
    """Makes a frame ``[1, H, W, 3]`` on the device (None: the setup's) with ``count`` faces."""
    images, faces = build_frame(*make_portrait(), setup.frame, count)
    return images.to(device or setup.device), replace(faces, crop_size=setup.crop)


def make_identity() -> Identity:
    """Makes a person whom every engine can take: a photograph and an embedding."""
    photo, face = make_portrait()
    return Identity({"w600k": np.full(LATENT, LATENT**-0.5, np.float32)}, photo.flip(2).numpy().copy(), (face,))


def onnx_file(setup: Setup, name: str) -> Path:
    """Writes a double of inswapper_128 for this run, unless a section before did: ``trivial`` or ``full cost``."""
    need("onnx", "onnxruntime")
    path = setup.folder / f"inswapper_128 {name}.onnx"
    if not path.exists():
        whole = path.with_suffix(".part")
        if name == "trivial":
            save_trivial(whole)
        else:
            save_full_cost(whole, *(((16, 32, 64, 64), 1) if setup.tiny else ()))
        whole.rename(path)
    return path


class TinyGenerator(nn.Module):
    """Two convolutions with the source between them. as_list: the picture comes with other things, as GHOST's generator has it."""

    def __init__(self, as_list: bool) -> None:
        super().__init__()
        self.as_list = as_list
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.gain = nn.Linear(512, 16)

    def forward(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, list]:
        x = functional.instance_norm(self.first(target)) * (1 + self.gain(source)[..., None, None])
        picture = self.last(x.relu()).tanh()
        return (picture, []) if self.as_list else picture


class TinyEmbedder(nn.Module):
    """512 numbers of the mean colours of eight by eight fields."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(192, 512)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(functional.adaptive_avg_pool2d(x, 8).flatten(1))


def _tiny_ghost() -> tuple[type[TorchEngine], nn.Module, dict]:
    return GhostEngine, GhostNets(randomized(lambda: TinyGenerator(True)), randomized(TinyEmbedder)), {}


def _tiny_simswap() -> tuple[type[TorchEngine], nn.Module, dict]:
    return SimSwapEngine, SimSwapNets(randomized(lambda: TinyGenerator(False)), randomized(TinyEmbedder)), {"size": 224}


def torch_systems(setup: Setup) -> dict[str, Callable[[], tuple[type[TorchEngine], nn.Module, dict]]]:
    """Returns what makes each research system's engine class, networks and options."""
    return {"GHOST": _tiny_ghost, "SimSwap 224": _tiny_simswap} if setup.tiny else SYSTEMS


def make_engine(setup: Setup, name: str) -> TorchEngine:
    """Makes a research system's engine on the setup's device."""
    kind, nets, options = torch_systems(setup)[name]()
    return kind(name, TorchModel(name, nets, PlainDevices(setup.device)), **options)
