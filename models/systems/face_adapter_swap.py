"""Face-Adapter without ComfyUI: Stable Diffusion 1.5 is handed in, so that any checkpoint will do.

In ComfyUI the nodes hand the same conditions to the KSampler instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..crops.crop import crop_faces
from ..diffusion.ddim import classifier_free_guidance
from ..diffusion.euler import sample_euler
from ..diffusion.noise import seeded_noise
from ..errors import given
from ..faces import Faces, Identity
from ..parse import Parser
from ..progress import Progress, silent
from .engine import SystemEngine
from .face_adapter import ALIGNMENT, Conditions, FaceAdapter, Source, Vision
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
    vision: needed by ``FaceAdapterEngine`` only.
    """

    denoise: Denoise
    decode: Decode
    empty_prompt: Tensor
    vision: Vision | None = None


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


class FaceAdapterEngine(SystemEngine):
    """Face-Adapter as a swap engine. models: with a vision model. parser: decides where a swap may paint; None: the adapter's own."""

    name, alignment, size = "Face-Adapter", ALIGNMENT, SIZE

    def __init__(self, adapter: FaceAdapter, models: BaseModels, settings: Settings = Settings(), parser: Parser | None = None) -> None:
        self.adapter, self.models, self.settings, self.parser = adapter, models, settings, parser
        self.vision = given(models.vision, "Face-Adapter as a swap engine needs a CLIP vision model; hand one in with the other models.")

    def prepare(self, identity: Identity) -> Source:
        """Returns what the adapter needs of the identity; FaceLoomError where it has no photo."""
        return self.adapter.prepare(super().prepare(identity))

    def paint_faces(self, images: Tensor, faces: Faces, source: Identity | Source, progress: Progress) -> tuple[Tensor, Tensor]:
        """Returns painted crops and masks; see ``SystemEngine``."""
        conditions = self.adapter.conditions(crop_faces(images, faces), faces, source, self.vision, parser=self.parser)
        return paint(conditions, self.models, self.settings, progress), conditions.mask
