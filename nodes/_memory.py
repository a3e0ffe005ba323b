"""What guidance needs on the graphics card beside sampling, told to ComfyUI's memory management before it is used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import comfy.model_management
import comfy.patcher_extension

from ..models.errors import FaceLoomError

# What a decoding keeps for its gradient, in the memory ComfyUI counts for one without. Of Stable Diffusion's VAE, whose blocks are
# computed again, 0.7 GB were measured at 256 pixels in full precision; in one for clips all that is saved was counted.
_PICTURE_VAE, _CLIP_VAE = 1.3, 2.0
# Numbers that the network keeps for its gradient, per pixel of the latent and unit of ComfyUI's memory_usage_factor: counted at 264654
# for SD 1.5, 412655 for SDXL and 650923 for Flux.
_GRAPH = 660_000


def decoding(vae, shape: Sequence[int]) -> int:
    """Bytes of one decoding of a latent of this shape ``(N, c, ...)`` with its gradient, and of the VAE's copy."""
    kept = _PICTURE_VAE if vae.latent_dim == 2 else _CLIP_VAE
    return comfy.model_management.module_size(vae.first_stage_model) + int(kept * vae.memory_used_decode((1, *shape[1:]), vae.vae_dtype))


def through_denoiser(model, shape: Sequence[int], cfg: float) -> int:
    """Bytes the MODEL keeps of one step for its gradient; twice as many where the negative takes part."""
    numbers = _GRAPH * model.model.memory_usage_factor * math.prod(shape[2:]) * (1 if cfg == 1 else 2)
    return int(numbers * comfy.model_management.dtype_size(model.model.get_dtype_inference()))


def make_room(size: int, device) -> None:
    """Let ComfyUI unload what it must so that a copy of this many bytes fits."""
    comfy.model_management.free_memory(size, device)


def announce(patched, extra: int) -> None:
    """From now on sampling with this clone keeps ``extra`` bytes free. ComfyUI estimates by the shape of the noise, so it is shown more."""
    def wrapper(executor, model, noise_shape, *args, **kwargs):
        each = model.model.memory_required([1, *noise_shape[1:]])
        return executor(model, [noise_shape[0] + math.ceil(extra / each), *noise_shape[1:]], *args, **kwargs)

    patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, "faceloom", wrapper)


@contextmanager
def shortage_told() -> Iterator[None]:
    """Running out of memory becomes a sentence; the models are unloaded as ComfyUI does then."""
    try:
        yield
    except Exception as error:
        if not comfy.model_management.is_oom(error):
            raise
        comfy.model_management.unload_all_models()
        raise FaceLoomError("There is not enough graphics memory for guidance; set guidance_decode to preview, guide_through to x0, or "
                            "choose a smaller size.") from error
