"""What every node needs from ComfyUI while it runs: progress, interruption, devices and what is shown on the node."""

from __future__ import annotations

import sys
from collections.abc import Callable

import comfy.cli_args
import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import ui
from comfy_execution.utils import get_executing_context
from PIL import Image

from ..models.pixels.tensors import within_0_and_1
from ..models.progress import Progress

# A clip's preview is its first frames: every one is a PNG file on the user's disk.
PREVIEW_FRAMES = 8


def listener() -> Progress:
    """A progress callable that moves the node's bar and stops the work when the user presses Cancel."""
    bar = comfy.utils.ProgressBar(1)

    def listen(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, max(total, 1))

    return listen


def painter() -> tuple[Progress, Callable[[torch.Tensor], None] | None]:
    """A listener, and what puts the picture ``[1, H, W, 3]`` that is being painted on the node at its next report; None where the user
    wants no previews."""
    if comfy.cli_args.args.preview_method == comfy.cli_args.LatentPreviewMethod.NoPreviews:
        return listener(), None
    bar, latest = comfy.utils.ProgressBar(1), []

    def listen(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, max(total, 1), latest.pop() if latest else None)

    def preview(picture: torch.Tensor) -> None:
        pixels = picture[0].mul(255).round().to(device="cpu", dtype=torch.uint8).numpy()
        latest[:] = [("JPEG", Image.fromarray(pixels), comfy.cli_args.args.preview_size)]

    return listen, preview


def place(tensor: torch.Tensor) -> torch.Tensor:
    """A result on the device and in the float type ComfyUI keeps results in, with the values it has."""
    return tensor.to(device=comfy.model_management.intermediate_device(), dtype=comfy.model_management.intermediate_dtype())


def give(pixels: torch.Tensor) -> torch.Tensor:
    """A picture or mask as an output, see ``place``: within 0..1, which rounding leaves by a hair. What lies there is not copied."""
    return place(within_0_and_1(pixels))


def give_crops(crops: torch.Tensor, size: int) -> torch.Tensor:
    """Crops or masks as an output: one black picture where there is no face, because no node accepts an empty batch."""
    if len(crops) == 0:
        crops = torch.zeros((1, size, size, *crops.shape[3:]))
    return give(crops)


def show(node: type, images: torch.Tensor | None = None, text: str = "") -> dict:
    """The ``ui`` value of a node: a picture preview, a line of text, or both."""
    shown: dict = {}
    if images is not None:
        shown.update(ui.PreviewImage(images[:PREVIEW_FRAMES].float(), cls=node).as_dict())
    if text:
        shown["text"] = (text,)
        _text_on_node(text)
    return shown


def _text_on_node(text: str) -> None:
    # The server's module is only there when a server runs; the same nodes run without one in scripts and tests.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    context = get_executing_context()
    if server is not None and context is not None:
        server.send_progress_text(text.replace("\n", "  \n"), context.node_id)  # lines stay apart where it is shown as Markdown
