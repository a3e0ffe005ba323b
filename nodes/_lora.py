"""Training a LoRA on copies of the user's MODEL and CLIP, made outside inference mode and gone after the run."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import torch

from ..models.diffusion.dreambooth import DreamBoothSettings, train_dreambooth
from ..models.diffusion.lora import LoraLayers, unet_linear_layers
from ..models.errors import FaceLoomError
from ..models.progress import Progress
from . import _backprop

# The linear layers of transformers that are trained, in the denoiser and in the text encoder.
_UNET_LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj")
_TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj")
_UNET, _TEXT = "lora_unet_", "lora_te"
_CHUNK = 4


def train_lora(model, clip, prompts: tuple[str, str], photos: torch.Tensor, others: torch.Tensor | None, settings: DreamBoothSettings,
               progress: Progress) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The LoRA file's weights, and the loss of every step. photos and others: latents as a VAE makes them."""
    with _backprop.normal_mode():
        own = _backprop.own_copy(model)
        encoder = _Encoder(clip, prompts)
        own.set_additional_models("faceloom_text", [encoder.patcher])
        guider = comfy.samplers.CFGGuider(own)
        tokens = encoder().detach()
        guider.set_conds([[tokens, {}]], [])
        guider.set_cfg(1.0)
        trainer = _Trainer(encoder, photos.clone(), None if others is None else others.clone(), settings, progress)
        start = photos[:1].clone().expand(1 if others is None else 2, *photos.shape[1:]).contiguous()
        guider.sample(torch.zeros_like(start), start, trainer, torch.tensor([1.0, 0.0]), disable_pbar=True, seed=settings.seed)
        own.detach()
    return trainer.weights, trainer.losses


class _Encoder:
    """A copy of a CLIP that tells what prompts mean, with a gradient."""

    def __init__(self, clip, prompts: tuple[str, str]) -> None:
        self.net = copy.deepcopy(clip.cond_stage_model).eval().requires_grad_(False)
        for layer in self.net.modules():
            if isinstance(layer, torch.nn.LayerNorm):  # ComfyUI adds to its input in place, which a gradient does not allow
                layer.register_forward_pre_hook(lambda layer, inputs: (inputs[0].clone(), *inputs[1:]))
        self.keys = comfy.lora.model_lora_keys_clip(self.net, {})
        self.tokens = [clip.tokenize(prompt) for prompt in prompts]
        self.patcher = comfy.model_patcher.CoreModelPatcher(self.net, load_device=clip.patcher.load_device,
                                                            offload_device=clip.patcher.offload_device)
        self.net.reset_clip_options()
        self.net.set_clip_options({"execution_device": self.patcher.load_device})

    def __call__(self) -> torch.Tensor:
        """``[2, T, D]``."""
        comfy.model_management.load_models_gpu([self.patcher], force_full_load=True)
        return torch.cat([self.net.encode_token_weights(tokens)[0] for tokens in self.tokens])


class _Trainer(comfy.samplers.Sampler):
    """Trains where ComfyUI has a sampler sample: the model is loaded, and its conditioning is in its own form."""

    def __init__(self, encoder: _Encoder, photos: torch.Tensor, others: torch.Tensor | None, settings: DreamBoothSettings,
                 progress: Progress) -> None:
        self.encoder, self.photos, self.others, self.settings, self.progress = encoder, photos, others, settings, progress
        self.weights: dict[str, torch.Tensor] = {}
        self.losses: list[float] = []

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
        base, settings = model_wrap.inner_model, self.settings
        base.requires_grad_(False)
        denoiser = _Denoiser(base, model_wrap.conds["positive"], extra_args["model_options"])
        lora = LoraLayers(layers_of(base, comfy.lora.model_lora_keys_unet(base, {}), _UNET, _UNET_LAYERS), settings.rank, settings.seed)
        if not lora.pairs:
            raise FaceLoomError("This model has no attention layers that LoRA files name; train on a model of Stable Diffusion's family.")
        text = None
        if settings.text_rate > 0:
            text = LoraLayers(layers_of(self.encoder.net, self.encoder.keys, _TEXT, _TEXT_LAYERS), settings.rank, settings.seed)
        photos, others = (None if latents is None else base.process_latent_in(latents).to(noise.device)
                          for latents in (self.photos, self.others))
        self.losses = train_dreambooth(denoiser, lora, lambda: self.encoder().to(noise), photos, others, settings, text, self.progress)
        self.weights = lora.weights() | (text.weights() if text else {})
        return latent_image


class _Denoiser:
    """A loaded MODEL, as ``dreambooth.Denoiser``."""

    def __init__(self, base, conds: list, options: dict) -> None:
        self.base, self.conds, self.options = base, conds, options

    def sigma(self, share: float) -> float:
        return float(self.base.model_sampling.percent_to_sigma(share))

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return self.base.model_sampling.noise_scaling(sigma.reshape(-1, *[1] * (latents.ndim - 1)), noise, latents, False)

    def clean(self, noisy: torch.Tensor, sigma: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        conds = _backprop.with_tokens(self.conds, [tokens])
        return _backprop.predict(self.base, noisy, sigma, conds, None, 1.0, self.options)


def layers_of(net: torch.nn.Module, keys: Mapping[str, str], prefix: str, ends: tuple[str, ...]) -> dict[str, torch.nn.Linear]:
    """Linear layers whose name ends so, by the key that LoRA files have for them; diffusers' key where there are several."""
    usual = {_UNET + name.replace(".", "_") for name, _, _ in unet_linear_layers()}
    named: dict[str, str] = {}
    for key, weight in keys.items():
        wanted = key.startswith(prefix) and isinstance(weight, str) and weight.removesuffix(".weight").endswith(ends)
        if wanted and (weight not in named or key in usual):
            named[weight] = key
    return {key: net.get_submodule(weight.removesuffix(".weight")) for weight, key in named.items()}


def paint_others(model, positive: list, negative: list, shape: torch.Size, count: int, seed: int, progress: Progress) -> torch.Tensor:
    """Latents of ``count`` pictures of a prompt as the model paints them, ``shape`` ``[c, h, w]`` each."""
    painted = []
    for start in range(0, count, _CHUNK):
        part = torch.zeros((min(_CHUNK, count - start), *shape))
        noise = torch.cat([comfy.sample.prepare_noise(part[:1], (seed + start + i) % (1 << 64)) for i in range(len(part))])
        painted.append(comfy.sample.sample(model, noise, 50, 7.5, "euler", "ddim_uniform", positive, negative, part, disable_pbar=True,
                                           seed=seed))
        progress(min(start + _CHUNK, count), count)
    return torch.cat(painted)
