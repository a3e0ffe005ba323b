"""LoRA (Hu et al. 2021): pairs of small matrices beside linear layers, the files that hold them, and the flat lists of Face Swap via
Diffusion."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FaceLoomError
from ..files.checkpoints import load_data

_TEXT_WIDTH, _TEXT_LAYERS = 768, 12
# Where Stable Diffusion's UNet has transformers: block, how many, channels; in the order of the flat lists.
_TRANSFORMERS = (("down_blocks.0", 2, 320), ("down_blocks.1", 2, 640), ("down_blocks.2", 2, 1280), ("up_blocks.1", 3, 1280),
                 ("up_blocks.2", 3, 640), ("up_blocks.3", 3, 320), ("mid_block", 1, 1280))
_PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te"}
_NUMBERED_KEY = re.compile(r"(unet|text_encoder):(\d+):(up|down)$")


def unet_linear_layers() -> Iterator[tuple[str, int, int]]:
    """Yield (diffusers' name, inputs, outputs) of the UNet's layers that cloneofsimo's LoRA trains, in its order."""
    for place, count, width in _TRANSFORMERS:
        for i in range(count):
            block = f"{place}.attentions.{i}.transformer_blocks.0"
            for part, context in (("attn1", width), ("attn2", _TEXT_WIDTH)):
                yield f"{block}.{part}.to_q", width, width
                yield f"{block}.{part}.to_k", context, width
                yield f"{block}.{part}.to_v", context, width
                yield f"{block}.{part}.to_out.0", width, width
            yield f"{block}.ff.net.0.proj", width, 8 * width


def text_encoder_linear_layers() -> Iterator[tuple[str, int, int]]:
    """Yield (diffusers' name, inputs, outputs) of the text encoder's layers, CLIP ViT-L, in the same LoRA's order."""
    for i in range(_TEXT_LAYERS):
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield f"text_model.encoder.layers.{i}.self_attn.{part}", _TEXT_WIDTH, _TEXT_WIDTH


def kohya_weights(pairs: Mapping[str, tuple[Tensor, Tensor]], part: str) -> dict[str, Tensor]:
    """Return the pairs, by layer, under kohya's keys, which LoRA loaders read.

    pairs: up ``[outputs, rank]`` and down ``[rank, inputs]``. part: ``unet`` or ``text_encoder``.
    """
    weights = {}
    for name, (up, down) in pairs.items():
        layer = f"{_PREFIXES[part]}_{name.replace('.', '_')}"
        weights |= {f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down}
    return weights


def load_flat_lora(path: Path) -> dict[str, Tensor] | None:
    """Read a file and return its LoRA as ``read_flat_lora`` does."""
    return read_flat_lora(load_data(path), path)


def read_flat_lora(data: Any, path: Path) -> dict[str, Tensor] | None:
    """Return the LoRA of a file's data under kohya's keys, or None where the data is no flat LoRA.

    A flat LoRA is a list of tensors (``.pt``) or a mapping with numbered keys (``unet:0:up``). One of other layers than Face Swap via
    Diffusion trains is an error. path: is named in the error, and tells of a list whether it is the text encoder's.
    """
    if isinstance(data, (list, tuple)) and data and all(isinstance(value, Tensor) and value.ndim == 2 for value in data):
        part = "text_encoder" if "text_encoder" in path.name else "unet"
        return _numbered_pairs_to_kohya(dict(enumerate(zip(data[::2], data[1::2], strict=False))), part, path)
    if not isinstance(data, Mapping):
        return None
    keys = [match for key in data if (match := _NUMBERED_KEY.match(key))]
    if not keys or len(keys) < len(data):
        return None
    weights: dict[str, Tensor] = {}
    for part in _PREFIXES:
        numbers = sorted({int(match[2]) for match in keys if match[1] == part})
        pairs = {i: (data.get(f"{part}:{i}:up"), data.get(f"{part}:{i}:down")) for i in numbers}
        weights |= _numbered_pairs_to_kohya(pairs, part, path) if pairs else {}
    return weights


def _numbered_pairs_to_kohya(pairs: Mapping[int, tuple[object, object]], part: str, path: Path) -> dict[str, Tensor]:
    """Check that the pairs are matrices that fit the layers of these numbers and return them under kohya's keys."""
    layers = list(unet_linear_layers() if part == "unet" else text_encoder_linear_layers())
    matrices = {i: (up, down) for i, (up, down) in pairs.items()
                if isinstance(up, Tensor) and isinstance(down, Tensor) and up.ndim == down.ndim == 2}
    fits = [i < len(layers) and (down.shape[1], up.shape[0]) == layers[i][1:] and up.shape[1] == down.shape[0]
            for i, (up, down) in matrices.items()]
    if not len(matrices) == len(pairs) == len(layers) or not all(fits):
        raise FaceLoomError(f"{path.name} is a LoRA of another model than Stable Diffusion 1.x, or of other layers than Face Swap via "
                            "Diffusion trains.")
    return kohya_weights({layers[i][0]: (up.detach().contiguous(), down.detach().contiguous()) for i, (up, down) in matrices.items()}, part)


def initial_pair(outputs: int, inputs: int, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a pair that changes nothing yet: up ``[outputs, rank]`` of zeros, and down ``[rank, inputs]``, normal with a spread of
    1 / rank."""
    return torch.zeros(outputs, rank), torch.randn(rank, inputs, generator=generator) / rank


class LoraLayers:
    """Trainable pairs beside linear layers, which are left as they are. New pairs change nothing.

    layers: by the name that the LoRA file will have for them.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], rank: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.layers = dict(layers)
        self.pairs: dict[str, tuple[Tensor, Tensor]] = {}
        for name, layer in self.layers.items():
            outputs, inputs = layer.weight.shape
            up, down = (value.to(layer.weight.device).requires_grad_(True) for value in initial_pair(outputs, inputs, rank, generator))
            self.pairs[name] = up, down

    def parameters(self) -> list[Tensor]:
        """Return all trainable matrices."""
        return [value for pair in self.pairs.values() for value in pair]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Add the pairs' outputs to the layers' within the context."""
        hooks = [self.layers[name].register_forward_hook(_hook_that_adds(*pair)) for name, pair in self.pairs.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def weights(self) -> dict[str, Tensor]:
        """Return the pairs on the CPU under the keys of a LoRA file."""
        weights = {}
        for name, (up, down) in self.pairs.items():
            weights |= {f"{name}.lora_up.weight": up.detach().cpu(), f"{name}.lora_down.weight": down.detach().cpu()}
        return weights


def _hook_that_adds(up: Tensor, down: Tensor) -> Callable[[nn.Linear, tuple[Tensor, ...], Tensor], Tensor]:
    def add(layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + F.linear(F.linear(inputs[0].to(down.dtype), down), up).to(output.dtype)

    return add
