"""LoadDiffSwap, DiffSwapEncode and DiffSwapSampler: DiffSwap as an ordinary MODEL with a sampler of its own."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..models.files.checkpoints import load_weights
from ..models.networks.diffswap import load_embedder, unet_weights
from ..models.pixels.tensors import as_images
from ..models.systems.diffswap import (
    ORGAN_SOURCES,
    SHAPES,
    ConditioningSettings,
    DiffSwapConditioner,
    Settings,
    prepare,
    recognizer_weights,
)
from . import _sampling
from ._devices import ComfyDevices
from ._diffswap import MaskedDDIM, make_model, make_vae
from ._inputs import conditioning_outputs, mask_input, target_and_source
from ._models import ResearchModelLoader
from ._runtime import give, listener
from ._schema import Node
from ._sockets import DiffSwap


class LoadDiffSwap(ResearchModelLoader, title="Load DiffSwap", shows_text=True,
                   aliases=["diffswap", "diffusion face swap", "diffswap.pth"]):
    """Loads DiffSwap, a latent diffusion face swapper that keeps pose and expression well: its MODEL, its VAE, and what turns a source and
    a target into its conditioning."""

    row_name = "diffswap"
    file_tooltip = ("The authors' diffswap.pth, looked for in models/faceloom/diffswap. Its authors state no licence. Commercial use is "
                    "not allowed.")

    outputs = [
        io.Model.Output("model", tooltip="The diffusion model, for SamplerCustom with DiffSwap Sampler, cfg 1 and 200 steps of "
                                         "ddim_uniform. It only works with the conditioning of DiffSwap Encode."),
        io.Vae.Output("vae", tooltip="The autoencoder of the same file, a quarter of the picture's size, with 8192 codes."),
        DiffSwap.Output("diffswap", tooltip="What looks at source and target, for DiffSwap Encode."),
    ]

    @classmethod
    def open_file(cls, found):
        name, weights = found.path.name, load_weights(found.path)
        embedder = load_embedder(weights, name, recognizer_weights(found.path, weights))
        vae = make_vae(weights, name)
        model = make_model(unet_weights(weights), name, vae)
        return DiffSwapConditioner(name, embedder, ComfyDevices()), model, vae


class DiffSwapEncode(Node, title="DiffSwap Encode", aliases=["diffswap", "diffusion face swap", "3d-aware mask"]):
    """Looks at the source and at every crop and makes what the sampler needs to paint the source's face into them."""

    @classmethod
    def inputs(cls):
        return [
            DiffSwap.Input("diffswap", tooltip="From Load DiffSwap."),
            io.Vae.Input("vae", tooltip="The VAE of Load DiffSwap."),
            *target_and_source(faces="best from Face Align with alignment set to FFHQ quad",
                               crops="best 256 pixels wide; others are resized to that",
                               photos="All its photos are looked at and count alike."),
            io.Combo.Input("shape", options=list(SHAPES), default=SHAPES[0],
                           tooltip="With 2-D release the hull of the target's landmarks is repainted, as the released program does. "
                                   "The 3-D ones give the face the source's proportions in the target's pose, as the paper "
                                   "describes, and repaint that face (source), or it and the target's (union)."),
            io.Combo.Input("organ_source", options=list(ORGAN_SOURCES), default=ORGAN_SOURCES[0],
                           tooltip="Where the look of eyes, nose and mouth comes from: the source, as the paper says, or, as the "
                                   "released program does by mistake, the target's picture where the source has them."),
            mask_input("What to repaint, in crop space, instead of what shape says, from Face Parse Mask or 3-D Landmark Mask."),
        ]

    outputs = conditioning_outputs(
        positive="Five tokens per face: landmarks, identity, eyes, nose and mouth.",
        negative="Tokens that say nothing. DiffSwap was trained without them: leave cfg at 1.",
        latent="The crops' latents with a mask of what is repainted, for SamplerCustom or KSampler.",
        mask="What to take of each painted crop, for Paste Back, best with blend set to multi-band.",
    )

    @classmethod
    def execute(cls, diffswap, vae, faces, crops, identity, shape, organ_source, mask=None) -> io.NodeOutput:
        prepared = prepare(diffswap, lambda targets: _sampling.encode(vae, targets), as_images(crops, "crops"), faces, identity,
                           ConditioningSettings(organ_source, shape), mask=mask, progress=listener())
        latent = {"samples": prepared.latents, "noise_mask": prepared.replaced}
        return io.NodeOutput([[prepared.tokens, {}]], [[torch.zeros_like(prepared.tokens), {}]], latent, give(prepared.swapped))


class DiffSwapSampler(Node, title="DiffSwap Sampler", aliases=["diffswap", "masked ddim", "target guidance"]):
    """DiffSwap's own way of sampling: DDIM that puts the target back around the mask with new noise at every step, and lets the picture
    drift towards the target."""

    @classmethod
    def inputs(cls):
        return [
            io.Float.Input("target_guidance", default=Settings.target_guidance, min=0.0, max=1.0, step=0.005, round=0.001,
                           tooltip="How much every step drifts to the target: more keeps its light and expression better, and the source's "
                                   "identity less. 0.01 is the authors'."),
        ]

    outputs = [io.Sampler.Output("sampler", tooltip="For SamplerCustom, with the sigmas of BasicScheduler set to ddim_uniform.")]

    @classmethod
    def execute(cls, target_guidance) -> io.NodeOutput:
        return io.NodeOutput(MaskedDDIM(target_guidance))
