"""Face-Adapter in this process: the denoiser and the decoder are handed in, so that any Stable Diffusion 1.5 will do.

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
from ..faces import Faces, Identity
from ..parse import Parser
from ..paste import paste
from ..pixels.tensors import as_images
from ..progress import Progress, silent
from .face_adapter import ALIGNMENT, Conditions, FaceAdapter, Vision
from .face_adapter_picture import SIZE

LATENT = (4, SIZE // 8, SIZE // 8)

# Latents, timestep, prompt tokens of the UNet and of the ControlNet and its hint in [-1, 1] ``[n, 3, 512, 512]`` to the noise.
Denoise = Callable[[Tensor, float, Tensor, Tensor, Tensor], Tensor]
# Latents ``[n, 4, 64, 64]`` to pictures ``[n, 3, 512, 512]`` in [-1, 1].
Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Settings:
    """As published. seed: of the first face, the next ones take the numbers that follow."""

    seed: int = 0
    steps: int = 25
    guidance: float = 5.0


def with_diffusers(unet: Any, control_net: Any, strength: float = 1.0) -> Denoise:
    """The denoiser of diffusers' UNet2DConditionModel and ControlNetModel."""

    def denoise(x: Tensor, time: float, tokens: Tensor, image_tokens: Tensor, hint: Tensor) -> Tensor:
        down, middle = control_net(x, time, encoder_hidden_states=image_tokens, controlnet_cond=hint, conditioning_scale=strength,
                                   return_dict=False)
        return unet(x, time, encoder_hidden_states=tokens, down_block_additional_residuals=down, mid_block_additional_residual=middle,
                    return_dict=False)[0]

    return denoise


def sample(conditions: Conditions, empty: Tensor, denoise: Denoise, noise: Tensor, settings: Settings | None = None,
           progress: Progress = silent) -> Tensor:
    """Latents ``[N, 4, 64, 64]`` from noise of this shape. empty: ``[1, 77, W]``, the prompt "" as the text encoder sees it."""
    settings = settings or Settings()
    without = empty.expand_as(conditions.tokens).to(noise)
    tokens, image_tokens = (torch.cat([without, given.to(noise)]) for given in (conditions.tokens, conditions.image_tokens))
    hint = (conditions.hint.to(noise).movedim(-1, 1) * 2 - 1).repeat(2, 1, 1, 1)

    def both(x: Tensor, time: float) -> Tensor:
        return classifier_free_guidance(*denoise(x.repeat(2, 1, 1, 1), time, tokens, image_tokens, hint).chunk(2), settings.guidance)

    return sample_euler(both, noise, settings.steps, progress=progress)


@torch.inference_mode()
def repaint(conditions: Conditions, empty: Tensor, denoise: Denoise, decode: Decode, settings: Settings | None = None,
            progress: Progress = silent) -> Tensor:
    """``[N, 512, 512, 3]``: what was painted, over the background. One face at a time, so that a batch is its faces."""
    settings = settings or Settings()
    painted = []
    for i in range(len(conditions)):
        noise = torch.randn(1, *LATENT, generator=torch.Generator().manual_seed(settings.seed + i))
        latents = sample(conditions.take(i), empty, denoise, noise, settings,
                         lambda done, total, i=i: progress(i * total + done, len(conditions) * total))
        painted.append(decode(latents).float().cpu().movedim(1, -1).mul(0.5).add(0.5).clamp(0, 1))
    mask = conditions.mask[..., None]
    return (torch.cat(painted) * mask + conditions.background * (1 - mask)).clone()


def swap(adapter: FaceAdapter, images: Tensor, faces: Faces, identity: Identity, vision: Vision, empty: Tensor, denoise: Denoise,
         decode: Decode, settings: Settings | None = None, *, parser: Parser | None = None, progress: Progress = silent) -> Tensor:
    """The photographs ``[B, H, W, C]`` with the identity's face on these faces, cut anew by the alignment ``box``."""
    images = as_images(images)
    if not len(faces):
        return images
    faces = align_faces(faces, ALIGNMENT, SIZE)
    conditions = adapter.conditions(crop_faces(images, faces), faces, identity, vision, parser=parser)
    return paste(images, faces, repaint(conditions, empty, denoise, decode, settings, progress), conditions.mask)[0]
