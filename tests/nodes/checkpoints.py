"""Files that ComfyUI's own loaders take for Stable Diffusion 1.5 checkpoints and their VAE, with random weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file


def _save(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.to(torch.float16).contiguous() for name, weight in weights.items()}, path)
    return path


def _weights(net: torch.nn.Module, prefix: str, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Values that keep activations of size one, for a net that may live on the meta device."""
    made = {}
    for name, shape in ((name, value.shape) for name, value in net.state_dict().items()):
        if len(shape) > 1:
            made[prefix + name] = torch.randn(shape, generator=generator) / shape[1:].numel() ** 0.5
        else:
            made[prefix + name] = torch.full(shape, float(name.endswith("weight")))
    return made


def sd15(path: Path, in_channels: int = 4) -> Path:
    """Widths, text width and CLIP of Stable Diffusion 1.5, by which ComfyUI knows it, but one level of one block (20 of 860 million)."""
    import comfy.clip_model
    import comfy.ldm.modules.diffusionmodules.openaimodel as openai
    import comfy.ops
    import comfy.sd1_clip

    generator = torch.Generator().manual_seed(0)
    config = json.loads(Path(comfy.sd1_clip.__file__).with_name("sd1_clip_config.json").read_text())
    unet = openai.UNetModel(image_size=32, in_channels=in_channels, out_channels=4, model_channels=320, num_res_blocks=[1],
                            channel_mult=[1], num_heads=8, use_spatial_transformer=True, transformer_depth=[1],
                            transformer_depth_middle=1, transformer_depth_output=[1, 1], context_dim=768, legacy=False, device="meta",
                            operations=comfy.ops.disable_weight_init)
    clip = comfy.clip_model.CLIPTextModel(config, torch.float32, "meta", comfy.ops.disable_weight_init)
    return _save(path, _weights(unet, "model.diffusion_model.", generator) | _weights(clip, "cond_stage_model.transformer.", generator))


def inpainting(path: Path) -> Path:
    """As ``sd15``, with the nine input channels of an inpainting checkpoint."""
    return sd15(path, 9)


def controlnet(path: Path) -> Path:
    """A ControlNet that goes with ``sd15``."""
    import comfy.cldm.cldm

    control = comfy.cldm.cldm.ControlNet(image_size=32, in_channels=4, hint_channels=3, model_channels=320, num_res_blocks=[1],
                                         channel_mult=[1], num_heads=8, use_spatial_transformer=True, transformer_depth=[1],
                                         transformer_depth_middle=1, context_dim=768, legacy=False, device="meta")
    return _save(path, _weights(control, "", torch.Generator().manual_seed(0)))


def vae(path: Path) -> Path:
    """A TAESD: what ComfyUI also loads as a VAE of Stable Diffusion, and quick."""
    import comfy.taesd.taesd

    weights = _weights(comfy.taesd.taesd.TAESD(), "", torch.Generator().manual_seed(0))
    return _save(path, weights | {"vae_scale": torch.ones(()), "vae_shift": torch.zeros(())})


def bisenet(path: Path) -> Path:
    """A BiSeNet that has learned nothing."""
    from faceloom.models.networks.bisenet import BiSeNet

    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(BiSeNet().state_dict(), path)
    return path


def reface(path: Path) -> Path:
    """REFace's checkpoint with a small UNet and CLIP, and the VAE of ``vae``."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import comfy.taesd.taesd
    from faceloom.models.networks.ldm import VAE_PREFIX
    from reface_files import CANVAS_UNET, reface_weights, save_weights

    weights = {key: value for key, value in reface_weights(CANVAS_UNET).items() if not key.startswith(VAE_PREFIX)}
    quick = _weights(comfy.taesd.taesd.TAESD(), VAE_PREFIX, torch.Generator().manual_seed(0))
    quick |= {f"{VAE_PREFIX}vae_scale": torch.ones(()), f"{VAE_PREFIX}vae_shift": torch.zeros(())}
    return save_weights(path, weights | quick, torch.float16)


def face_adapter(path: Path) -> Path:
    """Face-Adapter's folder as its authors publish it: small networks of its own, a ControlNet that goes with ``sd15``, and a CLIP ViT-L/14
    whose layers do nothing."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import comfy.clip_model
    import comfy.clip_vision
    import comfy.ops
    from face_adapter_files import save_face_adapter

    generator = torch.Generator().manual_seed(0)
    config = json.loads(Path(comfy.clip_vision.__file__).with_name("clip_vision_config_vitl.json").read_text())
    save_face_adapter(path.parent, 768, config["hidden_size"])
    controlnet(path.parent / "controlnet" / "diffusion_pytorch_model.safetensors")
    vision = comfy.clip_model.CLIPVisionModelProjection(config, torch.float32, "meta", comfy.ops.disable_weight_init)
    outer = torch.nn.ModuleDict({"embeddings": vision.vision_model.embeddings, "pre_layrnorm": vision.vision_model.pre_layrnorm,
                                 "post_layernorm": vision.vision_model.post_layernorm})
    inner = {f"vision_model.{name}": torch.zeros(value.shape, dtype=torch.float16)
             for name, value in vision.vision_model.state_dict().items() if name.startswith("encoder.")}
    _save(path.parent / "vision_encoder" / "model.safetensors", inner | _weights(outer, "vision_model.", generator))
    return path


def diffswap(path: Path) -> Path:
    """DiffSwap's checkpoint with small networks."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from diffswap_files import save_diffswap

    return save_diffswap(path)
