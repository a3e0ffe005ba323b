"""Which models are inpainting checkpoints, by the configuration that ComfyUI reads from their files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

_spec = importlib.util.spec_from_file_location("diffusion_doubles", Path(__file__).with_name("diffusion_doubles.py"))
doubles = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(doubles)


@pytest.mark.parametrize("name, given, wanted", [
    ("sd15", {}, False),
    ("sd15", {"in_channels": 9}, True),
    ("sd15", {"in_channels": 8}, False),  # InstructPix2Pix: a whole picture and no mask
    ("sdxl", {}, False),
    ("flux", {}, False),
    ("flux", {"in_channels": 96}, True),
    ("flux", {"in_channels": 32}, False),  # Flux Canny and Depth: a control picture and no mask
    ("qwen", {}, False),  # its 64 channels are 2 x 2 patches of 16
])
def test_wants_masked_picture(pack, name, given, wanted):
    from faceloom.nodes import _sampling

    assert _sampling.wants_masked_picture(getattr(doubles, name)(**given)) is wanted


@pytest.mark.parametrize("keys, wanted", [
    ({"img_in.weight": (3072, 64), "double_blocks.0.img_attn.norm.key_norm.weight": (128,)}, False),
    ({"img_in.weight": (3072, 384), "double_blocks.0.img_attn.norm.key_norm.weight": (128,)}, True),
    ({"img_in.weight": (3072, 128), "double_blocks.0.img_attn.norm.key_norm.weight": (128,)}, False),
    ({"img_in.weight": (3072, 64), "txt_norm.weight": (3584,)}, False),
    ({"input_blocks.0.0.weight": (320, 4, 3, 3), "out.2.weight": (4, 320, 3, 3)}, False),
    ({"input_blocks.0.0.weight": (320, 9, 3, 3), "out.2.weight": (4, 320, 3, 3)}, True),
], ids=["Flux", "Flux Fill", "Flux Canny", "Qwen", "Stable Diffusion", "its inpainting"])
def test_by_the_keys_of_a_file(pack, keys, wanted):
    """The first layers of the published files, in the shapes they have there."""
    from types import SimpleNamespace

    import comfy.model_detection
    from faceloom.nodes import _sampling

    config = comfy.model_detection.detect_unet_config({key: torch.empty(shape, device="meta") for key, shape in keys.items()}, "")
    model = SimpleNamespace(model=SimpleNamespace(model_config=SimpleNamespace(unet_config=config)))
    assert _sampling.wants_masked_picture(model) is wanted
