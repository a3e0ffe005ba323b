"""Small real models for the tests of diffusion: ComfyUI's own classes in the shape of SD 1.5, SDXL and Flux, with weights made here."""

from __future__ import annotations

import torch


def fill(net: torch.nn.Module, seed: int = 0, gain: float = 1.0) -> torch.nn.Module:
    """Random weights that keep activations of size one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1:
            fan = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=generator) * gain / fan**0.5
        else:
            parameter.data = torch.full_like(parameter, float(name.endswith("weight")))
    return net


def patcher(base):
    import comfy.model_management as mm
    import comfy.model_patcher

    return comfy.model_patcher.ModelPatcher(base, load_device=mm.get_torch_device(), offload_device=mm.unet_offload_device())


def unet_config(channels: int = 32, **other) -> dict:
    """SD 1.5's network with fewer channels; the real one has 320."""
    return {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": channels, "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "context_dim": 64, "use_spatial_transformer": True,
            "use_linear_in_transformer": False, "legacy": False, "adm_in_channels": None, "use_temporal_attention": False,
            "dtype": torch.float32} | other


def sd15(in_channels: int = 4, channels: int = 32, context: int = 64):
    """A MODEL of Stable Diffusion 1.5's shape; 9 input channels make it an inpainting checkpoint."""
    import comfy.supported_models

    config = comfy.supported_models.SD15(unet_config(channels, in_channels=in_channels, context_dim=context))
    base = config.get_model({})
    fill(base.diffusion_model)
    return patcher(base)


def sdxl():
    """A MODEL of SDXL's shape: three levels, ten transformers deep in the last two, pooled text."""
    import comfy.supported_models

    config = comfy.supported_models.SDXL(unet_config(
        64, num_res_blocks=[2, 2, 2], channel_mult=[1, 2, 4], transformer_depth=[0, 0, 1, 1, 2, 2], transformer_depth_middle=2,
        transformer_depth_output=[0, 0, 0, 1, 1, 1, 2, 2, 2], use_linear_in_transformer=True, num_classes="sequential",
        adm_in_channels=2816))
    base = config.get_model({})
    fill(base.diffusion_model)
    return patcher(base)


def flux(in_channels: int = 16):
    """A MODEL of Flux's shape: two double and two single blocks instead of 19 and 38. 96 channels make it Flux Fill."""
    import comfy.supported_models

    config = comfy.supported_models.Flux({
        "image_model": "flux", "in_channels": in_channels, "out_channels": 16, "patch_size": 2, "vec_in_dim": 32, "context_in_dim": 64,
        "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "axes_dim": [8, 12, 12], "theta": 10000,
        "qkv_bias": True, "txt_ids_dims": [],
        "guidance_embed": True, "dtype": torch.float32})
    base = config.get_model({})
    fill(base.diffusion_model, gain=0.5)
    return patcher(base)


def qwen():
    """A MODEL of Qwen-Image's shape: two blocks of two heads instead of 60 of 24."""
    import comfy.supported_models

    config = comfy.supported_models.QwenImage({
        "image_model": "qwen_image", "in_channels": 64, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 32,
        "joint_attention_dim": 64, "axes_dims_rope": (8, 12, 12), "dtype": torch.float32})
    base = config.get_model({})
    fill(base.diffusion_model, gain=0.5)
    return patcher(base)


def video_vae():
    """A VAE of Qwen-Image's shape (Wan 2.1's, for clips) with 4 instead of 96 channels."""
    import comfy.sd
    from comfy.ldm.wan.vae import WanVAE

    net = WanVAE(dim=4, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[], temperal_downsample=[False, True, True],
                 image_channels=3, conv_out_channels=3, dropout=0.0)
    made = comfy.sd.VAE(sd=fill(net).state_dict(), dtype=torch.float32)
    fill(made.first_stage_model)
    return made


def vae(channels: int = 4):
    """A VAE of Stable Diffusion's shape with 32 instead of 128 channels."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL

    config = {"double_z": True, "z_channels": channels, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2, 4, 4],
              "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
    made = comfy.sd.VAE(sd=AutoencoderKL(ddconfig=config, embed_dim=channels).state_dict(),
                        config={"params": {"ddconfig": config, "embed_dim": channels}}, dtype=torch.float32)
    made.latent_channels = channels
    fill(made.first_stage_model)
    return made


def pixel_vae():
    """ComfyUI's VAE of pixel-space models: the latent is the picture."""
    import comfy.sd

    return comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)}, dtype=torch.float32)


def portrait_model(portrait: torch.Tensor):
    """A MODEL in pixel space whose prediction is always this portrait ``[1, S, S, 3]``, whatever the noise."""
    import comfy.latent_formats
    import comfy.model_base
    import comfy.supported_models

    class Portrait(torch.nn.Module):
        def __init__(self, device=None, operations=None, **config):
            super().__init__()
            self.picture = torch.nn.Parameter(portrait.movedim(-1, 1) * 2 - 1)
            self.dtype = torch.float32

        def forward(self, x, timesteps, context=None, **other):
            return self.picture.expand(len(x), -1, -1, -1) + 0

    class Config(comfy.supported_models.SD15):
        latent_format = comfy.latent_formats.ChromaRadiance

    config = Config({"in_channels": 3, "dtype": torch.float32})
    return patcher(comfy.model_base.BaseModel(config, comfy.model_base.ModelType.IMG_TO_IMG, unet_model=Portrait))


def conditioning(seed: int, dim: int = 64, pooled: int = 0, count: int = 1) -> list:
    """A CONDITIONING of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    extra = {"pooled_output": torch.randn(count, pooled, generator=generator)} if pooled else {}
    return [[torch.randn(count, 77, dim, generator=generator), extra]]


def control(hint: torch.Tensor):
    """A ControlNet without a network: it adds the hint's mean colour to the middle block. hint: ``[N, 3, H, W]``."""
    import comfy.controlnet

    class Control(comfy.controlnet.ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            colours = comfy.controlnet.broadcast_image_to(self.cond_hint_original, x_noisy.shape[0], batched_number).mean((1, 2, 3))
            return {"middle": [5 * colours[:, None, None, None].expand(-1, 128, 1, 1).to(x_noisy)], "output": []}

        def copy(self):
            made = Control()
            self.copy_to(made)
            return made

    made = Control()
    made.set_cond_hint(hint)
    return made
