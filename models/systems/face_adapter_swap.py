"""Face-Adapter without ComfyUI: Stable Diffusion 1.5 is handed in, so that any checkpoint will do.

In ComfyUI the nodes hand the same conditions to the KSampler instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..crops.crop import crop_faces
from ..crops.squares import align_faces
from ..diffusion.ddim import classifier_free_guidance
from ..diffusion.euler import sample_euler
from ..diffusion.noise import seeded_noise
from ..faces import Faces, Identity
from ..parse import Parser
from ..paste import paste
from ..pixels.tensors import check_images
from ..progress import Progress, silent
from .face_adapter import ALIGNMENT, Conditions, FaceAdapter, Vision
from .face_adapter_picture import SIZE

LATENT_SHAPE = (4, SIZE // 8, SIZE // 8)

# Takes latents, timestep, prompt tokens of the UNet and of the ControlNet, and its hint in [-1, 1] ``[n, 3, 512, 512]``; returns the noise.
Denoise = Callable[[Tensor, float, Tensor, Tensor, Tensor], Tensor]
# Takes latents ``[n, 4, 64, 64]``, returns crops ``[n, 3, 512, 512]`` in [-1, 1].
Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Settings:
    """The numbers of one sampling; the defaults are the authors'. seed: of the first face's noise, the next faces take the numbers that
    follow. guidance: scale of classifier-free guidance."""

    seed: int = 0
    steps: int = 25
    guidance: float = 5.0


@dataclass(frozen=True, eq=False)
class BaseModels:
    """The models that Face-Adapter adapts: Stable Diffusion 1.5 and CLIP's vision model.

    denoise: the UNet with Face-Adapter's ControlNet. decode: the VAE. empty_prompt: ``[1, 77, W]``, the text encoder's output for "".
    vision: needed by ``swap`` only.
    """

    denoise: Denoise
    decode: Decode
    empty_prompt: Tensor
    vision: Vision | None = None


def diffusers_denoiser(unet: Any, control_net: Any, strength: float = 1.0) -> Denoise:
    """Return the denoiser that diffusers' UNet2DConditionModel and ControlNetModel are. strength: of the ControlNet."""

    def denoise(x: Tensor, time: float, tokens: Tensor, image_tokens: Tensor, hint: Tensor) -> Tensor:
        down, middle = control_net(x, time, encoder_hidden_states=image_tokens, controlnet_cond=hint, conditioning_scale=strength,
                                   return_dict=False)
        return unet(x, time, encoder_hidden_states=tokens, down_block_additional_residuals=down, mid_block_additional_residual=middle,
                    return_dict=False)[0]

    return denoise


def sample(conditions: Conditions, models: BaseModels, noise: Tensor, settings: Settings = Settings(), progress: Progress = silent
           ) -> Tensor:
    """Denoise ``noise`` ``[N, 4, 64, 64]`` under the conditions of N faces and return latents of the same shape."""
    empty = models.empty_prompt.expand_as(conditions.tokens).to(noise)
    tokens, image_tokens = (torch.cat([empty, prompt.to(noise)]) for prompt in (conditions.tokens, conditions.image_tokens))
    hint = (conditions.hint.to(noise).movedim(-1, 1) * 2 - 1).repeat(2, 1, 1, 1)

    def guided(x: Tensor, time: float) -> Tensor:
        unconditional, conditional = models.denoise(x.repeat(2, 1, 1, 1), time, tokens, image_tokens, hint).chunk(2)
        return classifier_free_guidance(unconditional, conditional, settings.guidance)

    return sample_euler(guided, noise, settings.steps, progress=progress)


@torch.inference_mode()
def paint(conditions: Conditions, models: BaseModels, settings: Settings = Settings(), progress: Progress = silent) -> Tensor:
    """Return crops ``[N, 512, 512, 3]`` 0..1 with what was painted over the background.

    Faces are painted one at a time, so that a face's result does not depend on the others.
    """
    painted = []
    for i in range(len(conditions)):
        noise = seeded_noise(settings.seed + i, LATENT_SHAPE)[None]
        latents = sample(conditions.take(i), models, noise, settings,
                         lambda done, total, i=i: progress(i * total + done, len(conditions) * total))
        painted.append(models.decode(latents).float().cpu().movedim(1, -1).mul(0.5).add(0.5).clamp(0, 1))
    mask = conditions.mask[..., None]
    return (torch.cat(painted) * mask + conditions.background * (1 - mask)).clone()


def swap(adapter: FaceAdapter, images: Tensor, faces: Faces, identity: Identity, models: BaseModels, settings: Settings = Settings(), *,
         parser: Parser | None = None, progress: Progress = silent) -> Tensor:
    """Return the photos ``[B, H, W, 3]`` with the identity's face on these faces, which are cut anew by the alignment ``box``."""
    check_images(images)
    if not len(faces):
        return images
    faces = align_faces(faces, ALIGNMENT, SIZE)
    conditions = adapter.conditions(crop_faces(images, faces), faces, identity, models.vision, parser=parser)
    return paste(images, faces, paint(conditions, models, settings, progress), conditions.mask)[0]
