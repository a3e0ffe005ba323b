"""FaceParseMask: choose regions of the face as a mask."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..models.images import as_images
from ..models.parse import REGIONS, parse_preview, region_mask
from ._runtime import give, give_crops, listener, show
from ._sockets import CATEGORY, FaceOccluder, FaceParser, Faces


class FaceParseMask(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceParseMask",
            display_name="Face Parse Mask",
            category=CATEGORY,
            description="Makes a mask of the face regions you choose, drawn from landmarks or by a parsing network.",
            search_aliases=["face parsing", "face mask", "segment face", "skin mask", "bisenet", "mouth mask", "faceloom"],
            inputs=[
                io.Image.Input("crops", tooltip="The face crops, from Face Detect or One-Shot Swap. The masks get their size."),
                io.MultiCombo.Input("regions", options=["face", *(region for region in REGIONS if region != "face")], default=["face"],
                                    placeholder="regions", chip=True,
                                    tooltip="The parts to include; choose as many as you like. The entry face is the whole face with the "
                                            "forehead. Ears, hair, hat, neck and cloth need a parser."),
                io.Int.Input("grow", default=0, min=-256, max=256, step=1,
                             tooltip="Grows the mask by this many crop pixels; negative values shrink it."),
                io.Int.Input("feather", default=16, min=0, max=256, step=1,
                             tooltip="How many crop pixels the edge fades over."),
                io.Combo.Input("side", options=["inside", "both"], default="inside", advanced=True,
                               tooltip="Where the edge fades: inside never reaches past the region, both is centred on its outline."),
                Faces.Input("faces", optional=True,
                            tooltip="The faces of these crops. Their landmarks draw the regions when no parser is connected."),
                FaceParser.Input("parser", optional=True,
                                 tooltip="The face parsing network. Left unconnected, the regions are drawn from landmarks and faces "
                                         "must be connected."),
                io.MultiType.Input("occluder", [FaceOccluder, io.Mask], optional=True,
                                   tooltip="What hides the face, such as a hand or a microphone, and is left out: an occlusion network, "
                                           "or a mask in crop space from SAM or by hand."),
            ],
            outputs=[
                io.Mask.Output("mask", tooltip="One mask per crop, 1 inside the chosen regions."),
                io.Image.Output("preview", tooltip="The crops with the mask laid over them in colour."),
            ],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, crops, regions, grow, feather, side, faces=None, parser=None, occluder=None) -> io.NodeOutput:
        size = crops.shape[-2]
        if faces is not None and len(faces) == 0:
            return io.NodeOutput(give_crops(crops[:0, ..., 0], size), give(as_images(crops)))
        images = as_images(crops, "crops")
        progress = listener()
        occlusion = None
        if occluder is not None:
            occlusion = 1 - occluder if isinstance(occluder, torch.Tensor) else occluder.visible(images, progress)
        mask = region_mask(tuple(regions), size, faces=faces, crops=images, parser=parser, grow=grow, feather=feather, side=side,
                           occlusion=occlusion, progress=progress)
        preview = give(parse_preview(images, mask))
        return io.NodeOutput(give(mask), preview, ui=show(cls, preview))
