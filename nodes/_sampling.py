"""Running ComfyUI's samplers on crops: latents, conditioning per chunk, and the hooks of one run. All on clones; nothing stays patched."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass

import comfy.latent_formats
import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import node_helpers
import torch
import torch.utils.checkpoint

from ..models.diffusion.blending import acts_at, step_mask
from ..models.diffusion.crop import check_latents
from ..models.diffusion.guidance import Guidance
from ..models.errors import FaceLoomError, check_finite
from . import _backprop, _memory

# Samplers whose steps treat every sample of a batch alike and draw no noise: only these may share a chunk, for all others noise or step
# size would depend on who else is in it.
SHARED = {"euler", "euler_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0", "dpm_2", "lms", "dpmpp_2m", "dpmpp_2m_cfg_pp", "ipndm", "ipndm_v",
          "deis", "res_multistep", "res_multistep_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "uni_pc", "uni_pc_bh2"}
CHUNK = 4
# Parts of picture VAEs whose insides are computed again for the gradient instead of being kept, which halves the memory.
_VAE_BLOCKS = {"ResnetBlock", "AttnBlock"}


@dataclass(frozen=True)
class Settings:
    """The sampler's widgets. blend_start and blend_end are progress from 0 (noise) to 1 (picture)."""

    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float
    blending: str = "soft"
    blend_start: float = 0.0
    blend_end: float = 0.6
    guide_start: float = 0.0
    guide_end: float = 1.0
    guide_through: str = "x0"


# What guidance changes: the prediction, by its own gradient or by one through the denoiser, or the text tokens.
THROUGH = ("x0", "denoiser", "text")

# Makes the guidance of the crops with these indices, or None: it is asked for once per chunk.
GuidanceMaker = Callable[[list[int]], Guidance | None]


def native_size(model) -> int:
    """Edge of the pictures this MODEL was trained on: 512 for SD 1.x and 2.x, 1024 for everything since."""
    return 512 if isinstance(model.model.latent_format, comfy.latent_formats.SD15) else 1024


def encode(vae, pictures: torch.Tensor) -> torch.Tensor:
    """Latents of ``[N, S, S, 3]``, one by one so that a crop's latent does not depend on its neighbours (video VAEs would take a batch
    for a clip)."""
    return torch.cat([vae.encode(picture[None]) for picture in pictures])


def decode(vae, latents: torch.Tensor) -> torch.Tensor:
    """``[N, S, S, 3]`` float32."""
    pictures = [vae.decode(latent[None]) for latent in latents]
    return torch.cat([(picture[:, 0] if picture.ndim == 5 else picture)[..., :3].to(torch.float32) for picture in pictures])


def check_model(model, vae, latents: torch.Tensor) -> None:
    """Raise a sentence where VAE and MODEL do not belong together."""
    form = model.get_model_object("latent_format")
    check_latents(latents, form.latent_channels, form.spacial_downscale_ratio, vae.spacial_compression_encode())


def wants_masked_picture(model) -> bool:
    """Whether this is an inpainting checkpoint: its network has inputs for a picture and a mask beside the latent it gives back.

    Both numbers are ComfyUI's and in one unit; where it reports no output (Qwen, whose input counts patches) there is no such checkpoint.
    """
    config = model.model.model_config.unet_config
    made = config.get("out_channels")
    return made is not None and config["in_channels"] > 2 * made


def with_masked_picture(conditioning: list, latents: torch.Tensor, mask: torch.Tensor) -> list:
    """What InpaintModelConditioning adds, unless the graph has done so already. latents: of the crops with the masked part grey."""
    return [pair if "concat_latent_image" in pair[1] else
            node_helpers.conditioning_set_values([pair], {"concat_latent_image": latents, "concat_mask": mask})[0] for pair in conditioning]


def grey_inside(pictures: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """``[N, S, S, 3]`` with mid grey where ``[N, S, S]`` is above a half, which inpainting checkpoints were trained on."""
    return torch.where(masks[..., None] > 0.5, torch.full_like(pictures, 0.5), pictures)


def sample(model, positive: list, negative: list, latents: torch.Tensor, masks: torch.Tensor, settings: Settings,
           guidance: GuidanceMaker | None = None, numbers: list[int] | None = None, decoding: int = 0) -> torch.Tensor:
    """Latents ``[N, c, ...]`` denoised inside ``masks`` ``[N, 1, S, S]`` through ComfyUI's sampler.

    Crop ``i`` gets the noise of seed + ``numbers[i]`` (its place unless given), whatever the chunks are. decoding: bytes that guidance
    takes to see the picture. Raises where the model returns NaN, and a sentence where guidance runs out of memory.
    """
    if guidance is None:
        return _sample(model, positive, negative, latents, masks, settings, None, numbers)
    with _memory.shortage_told():
        if settings.guide_through == "x0":
            return _sample(model, positive, negative, latents, masks, settings, guidance, numbers, decoding)
        with _backprop.normal_mode():
            own = _backprop.own_copy(model)
            # A ControlNet is added in place to what the UNet keeps for its way up; the way down needs it as it was for its gradient.
            own.set_model_input_block_patch_after_skip(lambda h, options: h.clone())
            positive, negative = _backprop.normal([positive, negative])
            extra = decoding + _memory.through_denoiser(own, latents.shape, settings.cfg)
            try:
                return _sample(own, positive, negative, latents.clone(), masks.clone(), settings, guidance, numbers, extra)
            finally:
                own.detach()


def _sample(model, positive: list, negative: list, latents: torch.Tensor, masks: torch.Tensor, settings: Settings,
            guidance: GuidanceMaker | None, numbers: list[int] | None, extra: int = 0) -> torch.Tensor:
    latents = comfy.sample.fix_empty_latent_channels(model, latents)
    if latents.ndim == 5:
        masks = masks[:, :, None]  # without time ComfyUI would take a batch of masks for a clip
    count = len(latents)
    seeds = [(settings.seed + number) % (1 << 64) for number in numbers or range(count)]
    chunk = CHUNK if settings.sampler in SHARED and guidance is None else 1  # the gradient of one decoding fills a card
    chunks = [list(range(start, min(start + chunk, count))) for start in range(0, count, chunk)]
    preview = latent_preview.prepare_callback(model, settings.steps * len(chunks))
    done = []
    for number, rows in enumerate(chunks):
        comfy.model_management.throw_exception_if_processing_interrupted()

        def report(step, x0, x, total, number=number):
            comfy.model_management.throw_exception_if_processing_interrupted()
            preview(number * total + step, x0, x, total * len(chunks))

        patched = patched_clone(model, settings, guidance(rows) if guidance else None)
        if guidance is not None:
            _memory.announce(patched, extra)
        part_positive, part_negative = rows_of([positive, negative], rows, count)
        noise = torch.cat([comfy.sample.prepare_noise(latents[row:row + 1], seeds[row]) for row in rows])
        done.append(comfy.sample.sample(
            patched, noise, settings.steps, settings.cfg, settings.sampler, settings.scheduler, part_positive, part_negative,
            latents[rows], denoise=settings.denoise, noise_mask=masks[rows], callback=report,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seeds[rows[0]]))
    result = torch.cat(done)
    check_finite(result, _backprop.NAN)
    return result


def patched_clone(model, settings: Settings, guidance: Guidance | None):
    """The user's MODEL with our hooks; itself where none is needed. The hooks of others that were there stay in force."""
    if guidance is None and settings.blending == "soft":
        return model
    patched = model.clone()
    if settings.blending != "soft":
        before = patched.model_options.get("denoise_mask_function")

        def blend(sigma, mask, extra_options):
            progress = progress_of(extra_options["model"].inner_model.model_sampling, sigma, extra_options["sigmas"])
            mask = step_mask(mask, progress, settings.blending, settings.blend_start, settings.blend_end)
            return mask if before is None else before(sigma, mask, extra_options=extra_options)

        patched.set_model_denoise_mask_function(blend)
    if guidance is None:
        return patched

    def acts(base, sigma, model_options):
        progress = progress_of(base.model_sampling, sigma, model_options["transformer_options"]["sample_sigmas"])
        return acts_at(progress, settings.guide_start, settings.guide_end)

    def pull(args):
        comfy.model_management.throw_exception_if_processing_interrupted()
        if not acts(args["model"], args["sigma"], args["model_options"]):
            return args["denoised"]
        check_finite(args["denoised"], _backprop.NAN)
        return guidance.apply(args["denoised"]) if settings.guide_through == "x0" else _backprop.pull_through_denoiser(guidance, args)

    if settings.guide_through == "text":
        optimiser = _backprop.text_optimiser(guidance, acts)
        patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, "faceloom", optimiser)
    else:
        patched.set_model_sampler_post_cfg_function(pull)
    return patched


def progress_of(model_sampling, sigma: torch.Tensor, sigmas: torch.Tensor) -> float:
    """0 at the first step of this run, 1 at its end, by the model's own timesteps."""
    last = max(float(sigmas[-1]), float(model_sampling.sigma_min))
    values = (float(sigmas[0]), float(sigma.flatten()[0]), last)
    first, now, last = (float(model_sampling.timestep(torch.as_tensor(value).to(sigmas))) for value in values)
    return 1.0 if first == last else min(1.0, max(0.0, (first - now) / (first - last)))


def rows_of(conditionings: list[list], rows: list[int], count: int) -> list[list]:
    """Conditionings for these crops: whatever has one entry per crop is cut to theirs, ControlNet hints and reference latents included.

    A ControlNet that several of them share stays one, so that ComfyUI goes on sampling them together.
    """
    if len(rows) == count:
        return conditionings

    def cut(value):
        if isinstance(value, list):
            return [cut(item) for item in value]
        return value[rows] if isinstance(value, torch.Tensor) and value.ndim and len(value) == count and count > 1 else value

    controls: dict[int, object] = {}
    return [[[cut(tensor), {key: _cut_control(value, cut, controls) if key == "control" else cut(value) for key, value in extra.items()}]
             for tensor, extra in conditioning] for conditioning in conditionings]


def _cut_control(control, cut: Callable, made: dict[int, object]):
    if control is None:
        return None
    if id(control) not in made:
        part = control.copy()
        part.cond_hint_original = cut(control.cond_hint_original)
        part.extra_concat_orig = [cut(extra) for extra in control.extra_concat_orig]
        made[id(control)] = part
        part.set_previous_controlnet(_cut_control(control.previous_controlnet, cut, made))
    return made[id(control)]


@_memory.shortage_told()
def vae_decoder(model, vae) -> Callable[[torch.Tensor], torch.Tensor]:
    """The user's VAE as a function of a predicted latent that has a gradient: copies of its weights and of the model's latent scale, made
    outside inference mode."""
    _memory.make_room(comfy.model_management.module_size(vae.first_stage_model), vae.device)
    with torch.inference_mode(False):
        form = copy.deepcopy(model.get_model_object("latent_format"))
        net = copy.deepcopy(vae.first_stage_model).requires_grad_(False)
    for block in net.modules() if vae.latent_dim == 2 else ():  # blocks of video VAEs pass caches along
        if type(block).__name__ in _VAE_BLOCKS:
            block.forward = functools.partial(torch.utils.checkpoint.checkpoint, block.forward, use_reentrant=False,
                                              preserve_rng_state=False)

    def pictures(latents: torch.Tensor) -> torch.Tensor:
        net.to(latents.device)
        latents = form.process_out(latents)
        if vae.latent_dim == 2 and latents.ndim == 5:
            latents = latents[:, :, 0]
        decoded = net.decode(latents.to(vae.vae_dtype))
        decoded = vae.process_output(decoded.to(torch.float32).clone())
        return (decoded[:, :, 0] if decoded.ndim == 5 else decoded)[:, :3]

    return pictures


def preview_decoder(model, size: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The linear latent → RGB of ComfyUI's previews, enlarged to the crop: a hundredth of the cost of the VAE, and blurred."""
    form = model.get_model_object("latent_format")
    if form.latent_rgb_factors is None or getattr(form, "latent_rgb_factors_reshape", None) is not None:
        raise FaceLoomError("This model has no preview colours; set guidance_decode to vae.")

    def pictures(latents: torch.Tensor) -> torch.Tensor:
        latents = latents[:, :, 0] if latents.ndim == 5 else latents
        factors = torch.tensor(form.latent_rgb_factors, dtype=latents.dtype, device=latents.device)
        bias = torch.tensor(form.latent_rgb_factors_bias or [0.0] * 3, dtype=latents.dtype, device=latents.device)
        rgb = torch.einsum("nchw,cr->nrhw", latents, factors) + bias[:, None, None]
        return torch.nn.functional.interpolate((rgb + 1) / 2, (size, size), mode="bilinear", align_corners=False)

    return pictures
