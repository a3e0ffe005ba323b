"""DiffSwap's networks as ComfyUI's own MODEL and VAE, and its sampler as a SAMPLER."""

from __future__ import annotations

from collections.abc import Mapping

import comfy.latent_formats
import comfy.ldm.models.autoencoder as autoencoder
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.sd
import comfy.supported_models_base
import comfy.utils
import torch

from ..models.diffusion.ddim import DdimStep
from ..models.diffusion.noise import noise_source
from ..models.errors import FaceLoomError
from ..models.networks.diffswap import HEAD_CHANNELS, codes_to_latents, nearest_codes, vq_form
from ..models.networks.ldm import VAE_PREFIX
from ..models.systems.diffswap import masked_ddim, starts_from_noise
from ..models.systems.diffswap_picture import preview_colours


class LatentFormat(comfy.latent_formats.LatentFormat):
    """Three channels as they are, a quarter of the picture's edge."""

    latent_channels = 3
    spacial_downscale_ratio = 4

    def __init__(self, factors: list | None = None, offsets: list | None = None) -> None:
        self.latent_rgb_factors, self.latent_rgb_factors_bias = factors, offsets


class ModelConfig(comfy.supported_models_base.BASE):
    unet_extra_config = {"num_heads": -1, "num_head_channels": HEAD_CHANNELS}
    sampling_settings = {"beta_schedule": "linear", "linear_start": 0.0015, "linear_end": 0.0195}
    latent_format = LatentFormat


def make_model(weights: dict[str, torch.Tensor], name: str, vae: comfy.sd.VAE):
    """A MODEL of the UNet's weights without prefix. vae: DiffSwap's, whose colours the previews take."""
    detected = comfy.model_detection.detect_unet_config(weights, "")
    if not detected or (detected.get("in_channels"), detected.get("out_channels")) != (3, 3):
        raise FaceLoomError(f"{name} has no UNet with three input and output channels; use the authors' diffswap.pth.")
    config, device = ModelConfig(detected), comfy.model_management.get_torch_device()
    kinds = config.supported_inference_dtypes
    kind = comfy.model_management.unet_dtype(model_params=comfy.utils.calculate_parameters(weights), supported_dtypes=kinds,
                                             weight_dtype=comfy.utils.weight_dtype(weights))
    config.set_inference_dtype(kind, comfy.model_management.unet_manual_cast(kind, device, kinds), device=device)
    config.latent_format = LatentFormat(*preview_colours(vae.decode, vae.first_stage_model.post_quant_conv[0].book))
    model = config.get_model(weights, "")
    patcher = comfy.model_patcher.CoreModelPatcher(model, load_device=device, offload_device=comfy.model_management.unet_offload_device())
    wanted = model.diffusion_model.state_dict().keys()
    if wanted != weights.keys():
        raise FaceLoomError(f"{name} is another model, or only part of one: its UNet differs from DiffSwap's in "
                            f"{', '.join(sorted(wanted ^ weights.keys())[:3])}.")
    model.load_model_weights(dict(weights), "", assign=patcher.is_dynamic())
    return patcher


class NearestCode(torch.nn.Module):
    """What a latent is before it is decoded: the code nearest to it, place by place."""

    def __init__(self, book: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("book", book)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return codes_to_latents(nearest_codes(latents, self.book), self.book)


def make_vae(weights: Mapping[str, torch.Tensor], name: str) -> comfy.sd.VAE:
    """ComfyUI's VAE around its own encoder and decoder: it encodes to latents before quantisation and decodes the nearest codes."""
    own = {key.removeprefix(VAE_PREFIX): tensor for key, tensor in weights.items() if key.startswith(VAE_PREFIX)}
    if "quantize.embedding.weight" not in own:
        raise FaceLoomError(f"{name} has no VQ autoencoder; use the authors' diffswap.pth.")
    form, book = vq_form(own), own.pop("quantize.embedding.weight")
    shape = {"double_z": False, "z_channels": form.latent, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": form.channels,
             "ch_mult": list(form.multipliers), "num_res_blocks": form.blocks, "attn_resolutions": [], "dropout": 0.0}
    # A code is a choice between neighbours, which half precision would get wrong.
    vae = comfy.sd.VAE(sd=own, config={"params": {"ddconfig": shape, "embed_dim": form.latent}}, dtype=torch.float32)
    net = vae.first_stage_model
    net.regularization = autoencoder.EmptyRegularizer()
    net.post_quant_conv = torch.nn.Sequential(NearestCode(book.float()), net.post_quant_conv)
    vae.latent_channels, vae.downscale_ratio, vae.upscale_ratio = form.latent, 4, 4
    # As much per pixel as ComfyUI reckons for the networks with three halvings, of which there are two.
    encoding, decoding = vae.memory_used_encode, vae.memory_used_decode
    vae.memory_used_encode = lambda shape, dtype: encoding(shape, dtype) + 4 * len(book) * shape[2] * shape[3] // 16
    vae.memory_used_decode = lambda shape, dtype: decoding(shape, dtype) // 4 + 4 * len(book) * shape[2] * shape[3]
    return vae


class MaskedDDIM(comfy.samplers.Sampler):
    """``masked_ddim`` for core's sampling nodes. The noise of the steps follows from the seed, as that of the start does."""

    def __init__(self, guidance: float) -> None:
        self.guidance = guidance

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
        if len(sigmas) < 2:  # what Split Sigmas leaves behind the last step
            return latent_image
        steps = _steps(model_wrap.inner_model.model_sampling, sigmas)
        seed = extra_args.get("seed") or 0
        draw = noise_source([seed + number for number in range(len(noise))], tuple(noise.shape[1:]))
        draw()  # what core has drawn for the start
        replaced = torch.ones_like(noise[:, :1]) if denoise_mask is None else denoise_mask[:, :1].to(noise)

        def denoise(x, step):
            comfy.model_management.throw_exception_if_processing_interrupted()
            sigma, wide = (1 / step.alpha - 1) ** 0.5, x / step.alpha**0.5  # core's latents grow with the noise
            return (wide - model_wrap(wide, torch.full((len(x),), sigma, device=x.device, dtype=x.dtype), **extra_args)) / sigma

        def watch(number, clean, x):
            if callback is not None:
                callback(number, clean, x, len(steps))

        start = noise if starts_from_noise(steps) else steps[0].noised(latent_image, noise)
        x = masked_ddim(denoise, start, latent_image, replaced, steps, draw, self.guidance, watch)
        return x if float(sigmas[-1]) == 0 else x / steps[-1].next_alpha**0.5


def _steps(sampling, sigmas: torch.Tensor) -> tuple[DdimStep, ...]:
    """A schedule in latent diffusion's words. Where core ends without noise, the program ends at timestep 0, where a trace is left."""
    last = sigmas[-1:] if float(sigmas[-1]) else sampling.sigma_min[None].to(sigmas)
    values = torch.cat([sigmas[:-1], last])
    alphas = (1 / (1 + values.cpu().numpy().astype("float64") ** 2)).tolist()
    times = sampling.timestep(values).tolist()
    return tuple(DdimStep(int(time), alpha, after) for time, alpha, after in zip(times, alphas, alphas[1:]))
