"""Face-Adapter as a swap engine: opens the Stable Diffusion 1.5, the ControlNet and the CLIP vision model it paints with, by diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FaceLoomError
from ..files.contents import Contents
from ..networks.ldm import import_diffusers
from ..runtime.devices import TorchModel
from ..runtime.method import Loading
from ..runtime.options import Value
from .engine import engine_method
from .face_adapter_load import CONTROL_FOLDER, METHOD, VISION_FOLDER, ClipVision, find_weights_in_folder
from .face_adapter_swap import BaseModels, Denoise, FaceAdapterEngine, Settings
from .options import FaceAdapterOptions

# The empty prompt as CLIP's tokenizer writes it: the start, and the end as often as there is room.
_START, _END, _PROMPT_LENGTH = 49406, 49407, 77
_BYTES = 4 << 30  # that two crops take in the UNet, the ControlNet and the VAE, besides their weights


class StableDiffusion(nn.Module):
    """diffusers' networks as one module that moves between devices."""

    vae: Any  # diffusers' ``AutoencoderKL``; the package is optional

    def __init__(self, unet: nn.Module, control_net: nn.Module, vae: nn.Module) -> None:
        super().__init__()
        self.unet, self.control_net, self.vae = unet, control_net, vae


def diffusers_denoiser(unet: Any, control_net: Any, strength: float = 1.0) -> Denoise:
    """Return the denoiser that diffusers' UNet2DConditionModel and ControlNetModel are. strength: of the ControlNet."""

    def denoise(x: Tensor, time: float, tokens: Tensor, image_tokens: Tensor, hint: Tensor) -> Tensor:
        down, middle = control_net(x, time, encoder_hidden_states=image_tokens, controlnet_cond=hint, conditioning_scale=strength,
                                   return_dict=False)
        return unet(x, time, encoder_hidden_states=tokens, down_block_additional_residuals=down, mid_block_additional_residual=middle,
                    return_dict=False)[0]

    return denoise


def load_base_models(file: Path, base: str, loading: Loading) -> BaseModels:
    """Open what the adapter ``file`` (net_id2token.pth) paints with.

    base: folder of a Stable Diffusion 1.5 in diffusers' layout. The ControlNet and the CLIP vision model are the authors' folders beside
    ``file``. FaceLoomError where one is missing.
    """
    if not base:
        raise FaceLoomError("Face-Adapter paints with Stable Diffusion 1.5; name its folder with --option base=FOLDER.")
    folder = Path(base)
    for part in ("unet", "vae", "text_encoder"):
        if not (folder / part / "config.json").is_file():
            raise FaceLoomError(f"{folder} is no Stable Diffusion 1.5 in diffusers' layout: it has no {part}/config.json.")
    for part in (CONTROL_FOLDER, VISION_FOLDER):
        if find_weights_in_folder(file, part) is None:
            raise FaceLoomError(f"{file.name} needs the authors' folder {part} beside it in {file.parent}.")
    diffusers, dtype = import_diffusers(), torch.float16 if loading.half else torch.float32

    def load(kind: Any, path: Path) -> Any:
        try:
            return kind.from_pretrained(path, local_files_only=True, torch_dtype=dtype, low_cpu_mem_usage=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise FaceLoomError(f"{path} cannot be opened: {str(error).splitlines()[0]}") from error

    nets = StableDiffusion(load(diffusers.UNet2DConditionModel, folder / "unet"),
                           load(diffusers.ControlNetModel, file.parent / CONTROL_FOLDER), load(diffusers.AutoencoderKL, folder / "vae"))
    model = TorchModel("Stable Diffusion 1.5", nets, loading.devices)

    def denoise(x: Tensor, time: float, *conditions: Tensor) -> Tensor:
        net, device = model.ready(_BYTES)
        x, *moved = (value.to(device, dtype) for value in (x, *conditions))
        return diffusers_denoiser(net.unet, net.control_net)(x, time, *moved).float().cpu()

    def decode(latents: Tensor) -> Tensor:
        net, device = model.ready(_BYTES)
        return net.vae.decode(latents.to(device, dtype) / net.vae.config.scaling_factor, return_dict=False)[0]

    return BaseModels(denoise, decode, empty_prompt(folder / "text_encoder"), ClipVision(file.parent / VISION_FOLDER, loading.devices))


@torch.inference_mode()
def empty_prompt(folder: Path) -> Tensor:
    """Return the output ``[1, 77, W]`` of a CLIP text encoder in transformers' layout for the prompt \"\"."""
    from transformers import CLIPTextModel

    tokens = torch.tensor([[_START, *[_END] * (_PROMPT_LENGTH - 1)]])
    return CLIPTextModel.from_pretrained(folder, local_files_only=True)(tokens).last_hidden_state.float().clone()


def _open_engine(file: Contents, loading: Loading, **options: Value) -> FaceAdapterEngine:
    chosen = FaceAdapterOptions().changed(METHOD.name, **options)
    models = load_base_models(file.path, chosen.base, loading)
    adapter = METHOD.open(file, loading)
    width = adapter.model.net.id_tokens.query.shape[-1]
    if models.empty_prompt.shape[-1] != width:
        raise FaceLoomError(f"Face-Adapter speaks to Stable Diffusion 1.5, whose prompts are {width} numbers wide, and those of "
                            f"{chosen.base} are {models.empty_prompt.shape[-1]}.")
    return FaceAdapterEngine(adapter, models, Settings(chosen.seed, chosen.steps, chosen.cfg), loading.parser)


ENGINE = engine_method(METHOD, _open_engine, FaceAdapterOptions)
