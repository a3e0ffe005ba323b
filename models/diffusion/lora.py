"""LoRA (Hu et al. 2021): pairs of small matrices beside linear layers, files of them, and those of Face Swap via Diffusion."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FaceLoomError
from ..files.checkpoints import load_data

_TEXT_WIDTH, _TEXT_LAYERS = 768, 12
# Where Stable Diffusion's UNet has transformers: block, how many, channels; in the order the lists have them.
_PLACES = (("down_blocks.0", 2, 320), ("down_blocks.1", 2, 640), ("down_blocks.2", 2, 1280), ("up_blocks.1", 3, 1280),
           ("up_blocks.2", 3, 640), ("up_blocks.3", 3, 320), ("mid_block", 1, 1280))
_PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te"}
_ENTRY = re.compile(r"(unet|text_encoder):(\d+):(up|down)$")


def linears() -> Iterator[tuple[str, int, int]]:
    """(name as diffusers has it, inputs, outputs) of the UNet's layers that cloneofsimo's LoRA trains, in its order."""
    for place, count, width in _PLACES:
        for i in range(count):
            block = f"{place}.attentions.{i}.transformer_blocks.0"
            for part, context in (("attn1", width), ("attn2", _TEXT_WIDTH)):
                yield f"{block}.{part}.to_q", width, width
                yield f"{block}.{part}.to_k", context, width
                yield f"{block}.{part}.to_v", context, width
                yield f"{block}.{part}.to_out.0", width, width
            yield f"{block}.ff.net.0.proj", width, 8 * width


def text_linears() -> Iterator[tuple[str, int, int]]:
    """Likewise of the text encoder, CLIP ViT-L."""
    for i in range(_TEXT_LAYERS):
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield f"text_model.encoder.layers.{i}.self_attn.{part}", _TEXT_WIDTH, _TEXT_WIDTH


def ordinary(pairs: Mapping[str, tuple[Tensor, Tensor]], part: str) -> dict[str, Tensor]:
    """(up ``[outputs, rank]``, down ``[rank, inputs]``) by layer under kohya's keys, which LoRA loaders read. part: unet or
    text_encoder."""
    made = {}
    for name, (up, down) in pairs.items():
        layer = f"{_PREFIXES[part]}_{name.replace('.', '_')}"
        made |= {f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down}
    return made


def load_flat_lora(path: Path) -> dict[str, Tensor] | None:
    """``flat_lora`` of a file."""
    return flat_lora(load_data(path), path)


def flat_lora(data: Any, path: Path) -> dict[str, Tensor] | None:
    """The LoRA that a file holds as a flat list (``.pt``) or under numbers (``unet:0:up``), under ordinary keys; None of other files."""
    if isinstance(data, (list, tuple)) and data and all(isinstance(value, Tensor) and value.ndim == 2 for value in data):
        part = "text_encoder" if "text_encoder" in path.name else "unet"
        return _named(dict(enumerate(zip(data[::2], data[1::2], strict=False))), part, path)
    entries = {key: _ENTRY.match(key) for key in data} if isinstance(data, Mapping) else {}
    if not entries or not all(entries.values()):
        return None
    made: dict[str, Tensor] = {}
    for part in _PREFIXES:
        numbers = sorted({int(entry[2]) for entry in entries.values() if entry[1] == part})
        pairs = {i: tuple(data.get(f"{part}:{i}:{which}") for which in ("up", "down")) for i in numbers}
        made |= _named(pairs, part, path) if pairs else {}
    return made


def _named(pairs: Mapping[int, tuple[Tensor, Tensor]], part: str, path: Path) -> dict[str, Tensor]:
    layers = list(linears() if part == "unet" else text_linears())
    fits = [i < len(layers) and None not in (up, down) and (down.shape[1], up.shape[0]) == layers[i][1:] and up.shape[1] == down.shape[0]
            for i, (up, down) in pairs.items()]
    if len(pairs) != len(layers) or not all(fits):
        raise FaceLoomError(f"{path.name} is a LoRA of another model than Stable Diffusion 1.x, or of other layers than Face Swap via "
                            "Diffusion trains.")
    return ordinary({layers[i][0]: (up.detach().contiguous(), down.detach().contiguous()) for i, (up, down) in pairs.items()}, part)


def random_pair(outputs: int, inputs: int, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Up, which is 0, and down, normal with a spread of 1 / rank: a LoRA that changes nothing yet."""
    return torch.zeros(outputs, rank), torch.randn(rank, inputs, generator=generator) / rank


class LoraLayers:
    """Trainable pairs beside linear layers, which are left as they are. A pair at first changes nothing.

    layers: by the name that the LoRA file will have for them.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], rank: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.layers = dict(layers)
        self.pairs: dict[str, tuple[Tensor, Tensor]] = {}
        for name, layer in self.layers.items():
            outputs, inputs = layer.weight.shape
            pair = random_pair(outputs, inputs, rank, generator)
            self.pairs[name] = tuple(value.to(layer.weight.device).requires_grad_(True) for value in pair)

    def parameters(self) -> list[Tensor]:
        return [value for pair in self.pairs.values() for value in pair]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The layers answer with what their pairs add."""
        hooks = [self.layers[name].register_forward_hook(_adding(*pair)) for name, pair in self.pairs.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def weights(self) -> dict[str, Tensor]:
        """As a LoRA file holds them."""
        made = {}
        for name, (up, down) in self.pairs.items():
            made |= {f"{name}.lora_up.weight": up.detach().cpu(), f"{name}.lora_down.weight": down.detach().cpu()}
        return made


def _adding(up: Tensor, down: Tensor):
    def add(layer: nn.Linear, inputs: tuple[Tensor, ...], answer: Tensor) -> Tensor:
        return answer + F.linear(F.linear(inputs[0].to(down.dtype), down), up).to(answer.dtype)

    return add
