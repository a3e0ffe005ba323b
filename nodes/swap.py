"""OneShotSwap: give every face the identity."""

from __future__ import annotations

from functools import partial

from comfy_api.latest import io

from ..models.crops.crop import face_windows
from ..models.options.swap import SwapSettings
from ..models.pixels.tensors import as_images
from ..models.select.assign import check_anyone_known
from ..models.select.which import unknown_faces
from ..models.swap import lost_detail, swap_faces
from ._inputs import amount_input, mask_input
from ._runtime import give_crops, listener, show
from ._schema import Node
from ._sockets import Faces, Identity, SwapModel


class OneShotSwap(Node, title="One-Shot Swap", shows_text=True,
                  aliases=["face swap", "swap face", "reactor", "inswapper", "roop", "deepfake"]):
    """Turns the faces of a picture into the person of the identity. Without a model it warps the source photo over a 3-D face."""

    @classmethod
    def inputs(cls):
        return [
            io.Image.Input("image", tooltip="The picture whose faces are swapped, the same one that went into Face Detect."),
            Faces.Input("faces", tooltip="The faces of this picture, from Face Detect or Face Select."),
            Identity.Input("identity", optional=True,
                           tooltip="Who the faces become, from ArcFace Embed or Identity Load. Faces that have a person of their own, from "
                                   "Face Assign, become that one; without an identity here the others stay as they are."),
            amount_input("strength", 1.0, "How far to go: 0 keeps the target's face as it is, 1 is the full swap. Above 1 exaggerates the "
                                         "person; only networks that work with an embedding can do that.", most=2.0),
            io.String.Input("which", default="all",
                            tooltip="Which faces of each picture to swap: all, first, or their numbers, for example 0,2. The others keep "
                                    "their crop and get an empty mask."),
            io.Int.Input("pixel_boost", default=1, min=1, max=8, step=1, advanced=True,
                         tooltip="Runs a network at this multiple of its own resolution. The built-in warp always works at full resolution "
                                 "and takes no notice of it."),
            SwapModel.Input("swap_model", optional=True,
                            tooltip="The swap network, from Load Swap Model. Left unconnected, the built-in 3-D warp of the source photo "
                                    "runs and needs no download."),
            mask_input("Where the new face may show, in crop space, such as a Face Parse Mask whose occluder leaves out a hand. Where it "
                       "is 0 the crop stays the target's own. One mask per face, or one for all."),
        ]

    outputs = [
        io.Image.Output("crops", tooltip="The swapped faces, one square picture per face. Any image node can work on them before Paste "
                                         "Back."),
        io.Mask.Output("mask", tooltip="Where each crop shows the new face, for the mask input of Paste Back."),
    ]

    @classmethod
    def execute(cls, image, faces, identity=None, strength=1.0, which="all", pixel_boost=1, swap_model=None, mask=None) -> io.NodeOutput:
        check_anyone_known(faces, identity)
        images = as_images(image, within=partial(face_windows, faces), whites=faces.whites)
        crops, masks = swap_faces(images, faces, identity, swap_model, SwapSettings(strength, pixel_boost), which=which, mask=mask,
                                  progress=listener())
        notes = unknown_faces(faces, which), lost_detail(faces, swap_model, pixel_boost)
        return io.NodeOutput(give_crops(crops, faces.crop_size), give_crops(masks, faces.crop_size),
                             ui=show(cls, text="\n".join(filter(None, notes))))
