"""Face-Adapter on the canvas: conditioning for ComfyUI's own model and ControlNet, sampled as in this package's own process."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

WIDE = 96  # of the prompts here


@pytest.fixture(scope="module")
def place(pack, tmp_path_factory):
    """A models folder with the authors' files in it."""
    from face_adapter_files import save_face_adapter

    folder = tmp_path_factory.mktemp("models")
    save_face_adapter(folder / "faceloom" / "faceadapter", WIDE, WIDE)
    return folder


@pytest.fixture
def models(place, models_in):
    with models_in(place, ".pth"):
        yield place / "faceloom" / "faceadapter"


@pytest.fixture(scope="module")
def adapter(place):
    from faceloom.models.systems.face_adapter_load import load_face_adapter
    from faceloom.nodes._devices import ComfyDevices

    return load_face_adapter(place / "faceloom" / "faceadapter" / "net_id2token.pth", devices=ComfyDevices())


@pytest.fixture(scope="module")
def aligned(pack, collins):
    """Two faces of one photograph by Face-Adapter's crop, and their crops."""
    from faceloom.models.crops.crop import crop_faces
    from faceloom.models.crops.squares import align_faces
    from faceloom.models.detect import detect_faces
    from faceloom.models.options.detect import DetectSettings

    photo = torch.cat([collins[:, :300, 100:400], collins[:, :300, 100:400].flip(2) * 0.8], 2)
    faces = align_faces(detect_faces(photo, settings=DetectSettings(order="left-right")), "box", 512)
    assert len(faces) == 2
    return faces, crop_faces(photo, faces)


class Clip:
    """A text encoder that knows one prompt."""

    def __init__(self, width: int = WIDE) -> None:
        self.tokens = torch.randn(1, 77, width, generator=torch.Generator().manual_seed(3))

    def tokenize(self, text):
        assert text == ""
        return text

    def encode_from_tokens_scheduled(self, tokens):
        return [[self.tokens, {"pooled_output": torch.zeros(1, 8)}]]


class Look:
    """A CLIP vision model of five places: the mean colours of stripes."""

    def encode_image(self, pictures):
        stripes = pictures.unfold(1, 102, 102).mean((2, 4))
        return {"last_hidden_state": torch.cat([stripes, 1 - stripes], -1).repeat(1, 1, WIDE // 6) * 3}


@pytest.fixture(scope="module")
def stable_diffusion(doubles):
    """A small MODEL and CONTROL_NET of Stable Diffusion 1.5's kind."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.model_management

    config = {key: value for key, value in doubles.unet_config(context_dim=WIDE).items() if "out" not in key}
    with torch.inference_mode():
        net = doubles.fill(comfy.cldm.cldm.ControlNet(hint_channels=3, num_heads=8, **config), 7)
        return doubles.sd15(context=WIDE), comfy.controlnet.ControlNet(net, load_device=comfy.model_management.get_torch_device())


@pytest.fixture(scope="module")
def encode(nodes, adapter, source, aligned, stable_diffusion):
    """``encode(mode=…)``: what Face-Adapter Encode answers."""
    node = nodes["FaceAdapterEncode"]

    def run(**given):
        faces, crops = aligned
        settings = {"face_adapter": adapter, "clip": Clip(), "control_net": stable_diffusion[1], "faces": faces, "crops": crops,
                    "identity": source, "mode": "swap", "strength": 1.0, "clip_vision": Look()} | given
        with torch.inference_mode():
            return node.execute(**settings).result

    return run


def test_the_file_is_moved_by_comfyui_and_brings_what_lies_beside_it(nodes, models, monkeypatch):
    import comfy.clip_vision
    import comfy.controlnet
    from comfy.model_patcher import ModelPatcher

    options = nodes["LoadFaceAdapter"].define_schema().inputs[0].options
    answer = nodes["LoadFaceAdapter"].execute(file="net_id2token.pth")
    adapter, control, vision = answer.result
    assert options == ["net_id2token.pth"] and answer.ui["text"][0].startswith("net_id2token.pth on cpu\nLicence: ")
    assert isinstance(adapter.patcher, ModelPatcher) and adapter.patcher.model is adapter.model.net and control is vision is None

    monkeypatch.setattr(comfy.controlnet, "load_controlnet", Path)
    monkeypatch.setattr(comfy.clip_vision, "load", Path)
    files = [models / "controlnet" / "diffusion_pytorch_model.safetensors", models / "vision_encoder" / "pytorch_model.bin"]
    for file in files:
        file.parent.mkdir()
        file.touch()
    try:
        assert list(nodes["LoadFaceAdapter"].execute(file="net_id2token.pth").result[1:]) == files
    finally:
        for file in files:
            shutil.rmtree(file.parent)


def test_a_file_that_is_not_there_says_where_it_goes(nodes):
    with pytest.raises(ValueError, match=r"net_id2token\.pth.*models get faceadapter_id2token.*faceloom/faceadapter"):
        nodes["LoadFaceAdapter"].execute(file="net_id2token.pth (not downloaded)")
    assert nodes["LoadFaceAdapter"].validate_inputs(file="../net_id2token.pth") is not True


@pytest.mark.parametrize("mode", ["swap", "reenact"])
def test_encode_tells_what_the_adapter_says(encode, adapter, aligned, source, mode):
    positive, negative, latent, mask, hint, background = encode(mode=mode, strength=0.7)
    faces, crops = aligned
    told = adapter.conditions(crops, faces, source, lambda pictures: Look().encode_image(pictures)["last_hidden_state"], mode=mode)
    (prompt, extra), (empty, other) = positive[0], negative[0]
    assert torch.equal(prompt, told.tokens) and torch.equal(extra["cross_attn_controlnet"], told.image_tokens)
    assert torch.equal(empty, Clip().tokens.expand(2, -1, -1)) and torch.equal(other["cross_attn_controlnet"], empty)
    control = extra["control"]
    assert control is other["control"] and control.strength == 0.7 and not extra["control_apply_to_uncond"]
    assert torch.equal(control.cond_hint_original, told.hint.movedim(-1, 1) * 2 - 1)
    assert float(control.cond_hint_original.min()) == -1
    assert torch.equal(mask, told.mask) and torch.equal(hint, told.hint) and torch.equal(background, told.background)
    assert torch.equal(latent["samples"], torch.zeros(2, 4, 64, 64))


def test_without_a_face_the_graph_goes_on(encode, aligned):
    positive, negative, latent, mask, *pictures = encode(faces=aligned[0].take([]), crops=torch.zeros(1, 512, 512, 3))
    assert positive[0][0].shape == negative[0][0].shape == (1, 77, WIDE) and latent["samples"].shape == (1, 4, 64, 64)
    assert float(mask.max()) == 0 and all(picture.shape == (1, 512, 512, 3) for picture in pictures)


def test_what_is_not_connected_is_asked_for(encode):
    with pytest.raises(ValueError, match=r"needs its CLIP vision model; connect it, or put .* vision_encoder"):
        encode(clip_vision=None)
    with pytest.raises(ValueError, match=r"needs its ControlNet; connect it, or put .* controlnet"):
        encode(control_net=None)
    with pytest.raises(ValueError, match=r"prompts are 96 numbers wide, and this CLIP's are 64"):
        encode(clip=Clip(64))


@pytest.mark.slow
def test_ksampler_follows_the_same_path(encode, stable_diffusion, adapter, aligned, source):
    """ComfyUI's KSampler, and our own sampling with the same two networks: two faces, euler, cfg 5, at a quarter of the size."""
    from faceloom.models.diffusion.euler import euler_schedule
    from faceloom.models.systems.face_adapter_swap import BaseModels, Settings, sample

    import nodes as core

    model, control_net = stable_diffusion
    faces, crops = aligned
    positive, negative, *_ = encode()
    latent = {"samples": torch.zeros(2, 4, 16, 16)}
    with torch.inference_mode():
        (ours,) = core.common_ksampler(model, 5, 3, 5.0, "euler", "normal", positive, negative, latent)
        other = [[positive[0][0], positive[0][1] | {"cross_attn_controlnet": positive[0][0]}]]
        (wrong,) = core.common_ksampler(model, 5, 3, 5.0, "euler", "normal", other, negative, latent)

    told = adapter.conditions(crops, faces, source, lambda pictures: Look().encode_image(pictures)["last_hidden_state"])
    unet, control = model.model.diffusion_model, control_net.control_model

    def denoise(x, time, tokens, image_tokens, hint):
        at = torch.full((len(x),), time)
        assert hint.shape[-1] == 512
        hint = torch.nn.functional.interpolate(hint, 128, mode="nearest-exact")
        added = control(x=x, hint=hint, timesteps=at, context=image_tokens)
        return unet(x, at, context=tokens, control={key: list(parts) for key, parts in added.items()})

    sigma = euler_schedule(3)[1][0]
    noise = torch.randn(2, 4, 16, 16, generator=torch.manual_seed(5)) * float(np.hypot(sigma, 1) / sigma)
    with torch.inference_mode():
        models = BaseModels(denoise, None, Clip().tokens)
        want = sample(told, models, noise, Settings(steps=3)) / model.model.latent_format.scale_factor
    off = float((ours["samples"] - want).abs().max())
    assert off < 2e-3 * float(want.std())
    assert float((wrong["samples"] - want).abs().max()) > 20 * off
