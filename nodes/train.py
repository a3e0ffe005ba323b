"""TrainFaceLoRA: a person learned from one photo as an ordinary LoRA."""

from __future__ import annotations

from pathlib import Path

import comfy.sd
import folder_paths
import torch
from comfy_api.latest import io

from ..models.diffusion.crop import sampling_size
from ..models.diffusion.dreambooth import DreamBoothSettings, center_squares
from ..models.errors import FaceLoomError
from ..models.files.cache import replacement_path
from ..models.identity.files import identity_path
from ..models.pixels.resize import resize_area_or_lanczos
from ..models.pixels.tensors import as_images
from . import _lora, _sampling
from ._inputs import amount_input, seed_input
from ._runtime import listener, show
from ._schema import Node

FOLDER = "loras"


class TrainFaceLoRA(Node, title="Train Face LoRA", is_output_node=True,
                    aliases=["dreambooth", "train lora", "face lora", "face swap via diffusion"]):
    """Teaches a Stable Diffusion model one person from one or a few photos (DreamBooth) and saves what it learned as an ordinary LoRA
    file."""

    @classmethod
    def inputs(cls):
        return [
            io.Model.Input("model", tooltip="The model to train for; it stays as it is. Made for Stable Diffusion 1.5."),
            io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint; it stays as it is."),
            io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
            io.Image.Input("photos", tooltip="One photo of the person, or a few of the same size. The middle square is used."),
            io.String.Input("prompt", default="a photo of sks person", tooltip="What the photos show, with a rare word for the person."),
            io.String.Input("class_prompt", default="a photo of person",
                            tooltip="The same without the rare word: what the model must not forget."),
            io.Int.Input("class_count", default=200, min=0, max=1000,
                         tooltip="How many pictures of the class prompt the model paints first, to train beside the photos. 0 trains on "
                                 "the photos alone, which is quicker and makes everybody look like the person."),
            io.Int.Input("steps", default=200, min=1, max=10000, tooltip="Training steps."),
            io.Int.Input("rank", default=4, min=1, max=128, tooltip="Size of the LoRA."),
            io.Float.Input("rate", default=1e-4, min=0.0, max=0.1, step=1e-5, round=False,
                           tooltip="How fast the diffusion model's part learns."),
            io.Float.Input("text_rate", default=5e-5, min=0.0, max=0.1, step=1e-5, round=False,
                           tooltip="How fast the text encoder's part learns; 0 leaves the text encoder out."),
            amount_input("class_weight", 1.0, "How much the class pictures count beside the photos.", most=10.0, advanced=True),
            io.Int.Input("size", default=512, min=64, max=2048, step=64, advanced=True,
                         tooltip="Edge of the squares that are trained on, in pixels."),
            seed_input("The noise of training and of the class pictures."),
            io.String.Input("filename", default="face",
                            tooltip="The file's name without folder or ending. It goes into models/loras; a name that is taken is "
                                    "numbered."),
            io.Image.Input("class_images", optional=True,
                           tooltip="Pictures of other people to train beside the photos, instead of having class_count painted."),
        ]

    outputs = [
        io.Model.Output("model", tooltip="The model with the LoRA at full strength."),
        io.Clip.Output("clip", tooltip="The text encoder with the LoRA at full strength."),
        io.String.Output("file", tooltip="The name of the file that was written, as Load LoRA lists it."),
    ]

    @classmethod
    def execute(cls, model, clip, vae, photos, prompt, class_prompt, class_count, steps, rank, rate, text_rate, class_weight, size, seed,
                filename, class_images=None) -> io.NodeOutput:
        path = lora_path(filename)
        edge = sampling_size(size, vae.spacial_compression_encode())
        latents = _encode(vae, photos, edge)
        _sampling.check_model(model, vae, latents)
        others = None
        if class_images is not None:
            others = _encode(vae, class_images, edge)
        elif class_count:
            positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (class_prompt, ""))
            others = _lora.paint_others(model, positive, negative, latents.shape[1:], class_count, seed, listener())
        settings = DreamBoothSettings(steps, rank, rate, text_rate, class_weight, seed=seed % (1 << 63))
        weights, losses = _lora.train_lora(model, clip, (prompt, class_prompt), latents, others, settings, listener())
        _save(weights, path, prompt)
        model, clip = comfy.sd.load_lora_for_models(model, clip, weights, 1.0, 1.0)
        part = max(1, len(losses) // 10)
        told = f"saved as {path.name}\nloss {_mean(losses[:part]):.3f} at first, {_mean(losses[-part:]):.3f} at last"
        return io.NodeOutput(model, clip, path.name, ui=show(cls, text=told))


def _encode(vae, pictures: torch.Tensor, edge: int) -> torch.Tensor:
    """Latents of the middle squares."""
    photos = center_squares(as_images(pictures, "photos"))
    return _sampling.encode(vae, torch.cat([resize_area_or_lanczos(photo[None], edge) for photo in photos]))


def lora_path(filename: str) -> Path:
    """A path for a new LoRA file: nothing that is there is written over."""
    folder = Path(folder_paths.get_folder_paths(FOLDER)[0])
    path, number = identity_path(folder, filename), 1
    while path.exists():
        number += 1
        path = identity_path(folder, f"{filename}_{number}")
    return path


def _save(weights: dict[str, torch.Tensor], path: Path, prompt: str) -> None:
    from safetensors.torch import save_file

    try:
        with replacement_path(path) as temporary:
            save_file({name: value.contiguous() for name, value in weights.items()}, temporary, {"trigger": prompt, "format": "pt"})
    except OSError as error:
        raise FaceLoomError(f"{path} cannot be written ({error.strerror}); free some space or name another folder.") from error


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
