"""Restore: bring a crop to the sharpness of its photograph, or through a restoration network."""

from __future__ import annotations

from comfy_api.latest import io

from ..models.pixels.tensors import as_crops, as_images
from ..models.restore import Restorer, restore_crops
from ..models.restore.descriptor import restorer_from_descriptor
from ._devices import ComfyDevices, patcher_of
from ._inputs import amount_input, mask_input
from ._runtime import give, listener
from ._schema import Node
from ._sockets import Faces, RestoreModel


class Restore(Node, title="Restore", aliases=["face restore", "gfpgan", "codeformer", "sharpen face", "grain match", "enhance face"]):
    """Gives crops the sharpness and grain of the photograph around the face, or runs a face restoration network on them."""

    @classmethod
    def inputs(cls):
        return [
            io.Image.Input("crops", tooltip="The crops to restore, usually from One-Shot Swap."),
            amount_input("fidelity", 0.5, "For networks that can choose: 0 invents the most detail, 1 stays closest to the crop."),
            amount_input("amount", 1.0, "How much of the restored picture is mixed in; 0 returns the crop unchanged."),
            io.MultiType.Input("restore_model", [RestoreModel, io.UpscaleModel], optional=True,
                               tooltip="A restoration network, from Load Restore Model or from ComfyUI's Load Upscale Model (GFPGAN and "
                                       "RestoreFormer load there). Left unconnected, sharpness and grain are matched to the photograph."),
            io.Image.Input("image", optional=True, tooltip="The photograph the faces come from; needed when no network is connected."),
            Faces.Input("faces", optional=True,
                        tooltip="The faces these crops belong to. Needed when no network is connected; with one, where the crops show more "
                                "than FFHQ's square (framing above 1, or Face Align), so that it sees the face as it was trained to."),
            mask_input("Where the new face is, in crop space; only there is sharpness measured and changed."),
        ]

    outputs = [io.Image.Output("crops", tooltip="The restored crops, in the same order and size.")]

    @classmethod
    def execute(cls, crops, fidelity, amount, restore_model=None, image=None, faces=None, mask=None) -> io.NodeOutput:
        images = as_crops(crops)
        if faces is not None and len(faces) == 0:
            return io.NodeOutput(give(images))
        restorer = restore_model
        if restore_model is not None and not isinstance(restore_model, Restorer):
            restorer = restorer_from_descriptor(restore_model, ComfyDevices(patcher_of(restore_model)))
        restored = restore_crops(images, restorer=restorer, fidelity=fidelity, amount=amount,
                                 images=None if image is None else as_images(image), faces=faces, masks=mask, progress=listener())
        return io.NodeOutput(give(restored))
