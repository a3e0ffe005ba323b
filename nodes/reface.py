"""LoadREFace and REFaceEncode: REFace as an ordinary MODEL under an ordinary sampler."""

from __future__ import annotations

import comfy.latent_formats
import comfy.sd
import comfy.utils
import node_helpers
import torch
from comfy_api.latest import io

from ..models.errors import FaceLoomError
from ..models.files.checkpoints import load_weights
from ..models.networks.ldm import UNET_PREFIX, VAE_PREFIX
from ..models.networks.reface import load_conditioner
from ..models.pixels.tensors import as_images
from ..models.systems.reface import REFaceConditioner, latent_mask, prepare
from . import _sampling
from ._devices import ComfyDevices
from ._inputs import conditioning_outputs, target_and_source
from ._models import ResearchModelLoader
from ._runtime import give, listener
from ._schema import Node
from ._sockets import FaceParser, REFace

PARTS, SQUARE = "swapped parts", "whole square"


class LoadREFace(ResearchModelLoader, title="Load REFace", aliases=["reface", "diffusion face swap", "last.ckpt"], shows_text=True):
    """Loads REFace, a diffusion face swapper on Stable Diffusion 1.x: its MODEL, its VAE, and what turns a source and a target into its
    conditioning."""

    row_name = "reface"
    file_tooltip = "The authors' last.ckpt, looked for in models/faceloom/reface. Commercial use is not allowed."

    outputs = [
        io.Model.Output("model", tooltip="The diffusion model, for KSampler with ddim or euler, ddim_uniform, and cfg 3.5. It only works "
                                         "with the conditioning of REFace Encode."),
        io.Vae.Output("vae", tooltip="The VAE of the same file."),
        REFace.Output("reface", tooltip="What looks at source and target, for REFace Encode."),
    ]

    @classmethod
    def open_file(cls, found):
        name, weights = found.path.name, load_weights(found.path)
        conditioner = REFaceConditioner(name, load_conditioner(weights, name), ComfyDevices())
        model = _model({key: value for key, value in weights.items() if key.startswith(UNET_PREFIX)}, name)
        vae = comfy.sd.VAE(sd={key.removeprefix(VAE_PREFIX): value for key, value in weights.items() if key.startswith(VAE_PREFIX)})
        vae.throw_exception_if_invalid()
        return conditioner, model, vae


def _model(weights: dict[str, torch.Tensor], name: str):
    """ComfyUI's MODEL of an SD 1.x UNet with nine channels, told what REFace's is told."""
    model = comfy.sd.load_diffusion_model_state_dict(weights)
    if model is None or model.model.model_config.unet_config.get("in_channels") != 9:
        raise FaceLoomError(f"{name} has no UNet of Stable Diffusion 1.x with 9 input channels; use the authors' last.ckpt.")
    model.add_object_patch("concat_cond", _told)
    return model


def _told(*, noise: torch.Tensor, device: torch.device, concat_latent_image=None, concat_mask=None, **other) -> torch.Tensor:
    """The five channels beside the noisy latents, in REFace's order: the masked picture's latents, the keep-mask as grey as it is."""
    if concat_latent_image is None or concat_mask is None:
        raise FaceLoomError("REFace's model needs REFace Encode's positive and negative; connect those to the sampler.")
    if concat_latent_image.shape[1:] != noise.shape[1:]:
        raise FaceLoomError("REFace paints crops of 512×512; connect the latent of REFace Encode to the sampler.")
    channels = torch.cat([comfy.latent_formats.SD15().process_in(concat_latent_image), concat_mask.to(concat_latent_image)], 1)
    return comfy.utils.repeat_to_batch_size(channels, noise.shape[0]).to(device)


class REFaceEncode(Node, title="REFace Encode", aliases=["reface", "diffusion face swap"]):
    """Looks at the source and at every crop and makes what KSampler needs to paint the source's face into them."""

    @classmethod
    def inputs(cls):
        return [
            REFace.Input("reface", tooltip="From Load REFace."),
            io.Vae.Input("vae", tooltip="The VAE of Load REFace."),
            *target_and_source(faces="best from Face Align with alignment set to FFHQ quad", crops="best 512 pixels wide",
                               photos="REFace looks at its best photo."),
            io.Boolean.Input("start_from_target", default=False,
                             tooltip="Starts from the target's own latent under the noise instead of from noise alone. Turn it on for a "
                                     "denoise below 1."),
            io.Combo.Input("mask_covers", options=[PARTS, SQUARE], default=PARTS,
                           tooltip="What Paste Back takes of the result: the parts REFace swapped, or, as its authors do, the whole "
                                   "square."),
            FaceParser.Input("parser", optional=True,
                             tooltip="The network that tells which parts are swapped, from Load Face Parser: REFace was made with "
                                     "79999_iter.pth. Left unconnected, the outlines of the landmarks are used, without ears."),
        ]

    outputs = conditioning_outputs(
        positive="One token per face: source, target, identity and landmarks; and the target with a hole where the new face comes.",
        negative="The same with REFace's token of no condition.",
        latent="One latent per face, for KSampler.",
        mask="What to take of each painted crop, for Paste Back. Its feather softens the edge.",
    )

    @classmethod
    def execute(cls, reface, vae, faces, crops, identity, start_from_target, mask_covers, parser=None) -> io.NodeOutput:
        prepared = prepare(reface, as_images(crops, "crops"), faces, identity, parser, listener())
        latents = _sampling.encode(vae, prepared.masked_targets)
        told = {"concat_latent_image": latents, "concat_mask": latent_mask(prepared.keep)}
        positive, negative = (node_helpers.conditioning_set_values([[tokens.expand(len(latents), -1, -1), {}]], told)
                              for tokens in (prepared.tokens, prepared.unconditional))
        start = _sampling.encode(vae, prepared.targets) if start_from_target else torch.zeros_like(latents)
        mask = prepared.swapped if mask_covers == PARTS else torch.ones_like(prepared.keep)
        return io.NodeOutput(positive, negative, {"samples": start}, give(mask if len(faces) else torch.zeros_like(mask)))
