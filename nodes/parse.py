"""FaceParseMask: choose regions of the face as a mask."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..models.errors import FaceLoomError
from ..models.options.regions import LANDMARK_REGIONS, PRESETS
from ..models.parse import REGIONS, MaskEdge, parse_preview, region_mask
from ..models.parse.occlude import faces_in_crops, occlusion_mask
from ..models.pixels.masks import fit_shared_mask
from ..models.pixels.tensors import as_crops, as_images
from ._inputs import crop_edge_inputs
from ._runtime import give, give_crops, listener, show
from ._schema import Node
from ._sockets import FaceOccluder, FaceParser, Faces

CUSTOM = ("skin", "left_brow", "right_brow", "left_eye", "right_eye", "nose", "upper_lip", "lower_lip")


class FaceParseMask(Node, title="Face Parse Mask", shows_text=True,
                    aliases=["face parsing", "face mask", "segment face", "skin mask", "bisenet", "mouth mask"]):
    """Makes a mask of the face regions you choose, drawn from landmarks or by a parsing network."""

    @classmethod
    def inputs(cls):
        return [
            io.Image.Input("crops", tooltip="The face crops, from Face Detect or One-Shot Swap. The masks get their size."),
            io.DynamicCombo.Input("regions", options=[
                *(io.DynamicCombo.Option(name, []) for name in PRESETS),
                io.DynamicCombo.Option("custom", [
                    io.Boolean.Input(region, default=region in CUSTOM,
                                     tooltip=f"Includes the region {region.replace('_', ' ')}; left and right are the viewer's."
                                             + ("" if region in LANDMARK_REGIONS else " It needs a parser."))
                    for region in REGIONS if region != "face"
                ]),
            ], tooltip="Which part of the face. The entry face is the whole face with the forehead, mouth is the lips and what lies "
                       "between them, and custom lets you switch every region on or off. Hair needs a parser."),
            *crop_edge_inputs(),
            io.Combo.Input("side", options=["inside", "both"], default="inside", advanced=True,
                           tooltip="Where the edge fades: inside never reaches past the region, both is centred on its outline."),
            Faces.Input("faces", optional=True,
                        tooltip="The faces of these crops. Their landmarks draw the regions when no parser is connected."),
            FaceParser.Input("parser", optional=True,
                             tooltip="The face parsing network. Left unconnected, the regions are drawn from landmarks and faces must be "
                                     "connected."),
            io.MultiType.Input("occluder", [FaceOccluder, io.Mask], optional=True,
                               tooltip="What hides the face, such as a hand or a microphone, and is left out: an occlusion network from "
                                       "Load Face Parser, or a mask. A mask belongs to the image if one is connected, and to the crops if "
                                       "not."),
            io.Image.Input("image", optional=True,
                           tooltip="The photograph the faces were found in; an occlusion network looks at it instead of at the crops."),
        ]

    outputs = [
        io.Mask.Output("mask", tooltip="One mask per crop, 1 inside the chosen regions."),
        io.Image.Output("preview", tooltip="The crops with the mask laid over them in colour."),
    ]

    @classmethod
    def execute(cls, crops, regions, grow, feather, side, faces=None, parser=None, occluder=None, image=None) -> io.NodeOutput:
        images = as_crops(crops)
        size = images.shape[1]
        if faces is not None and len(faces) == 0:
            return io.NodeOutput(give_crops(images[:0, ..., 0], size), give(images))
        progress = listener()
        occlusion = None if occluder is None else _visible(occluder, image, images, faces, size, progress)
        chosen = PRESETS.get(regions["regions"]) or [region for region in REGIONS if regions.get(region)]
        mask = region_mask(chosen, size, faces=faces, crops=images, parser=parser, edge=MaskEdge(grow, feather, side),
                           occlusion=occlusion, progress=progress)
        preview = give(parse_preview(images, mask))
        return io.NodeOutput(give(mask), preview, ui=show(cls, preview))


def _visible(occluder, image, crops, faces, size, progress) -> torch.Tensor:
    """What can be seen of every face, ``[N, size, size]`` or one for all."""
    painted = isinstance(occluder, torch.Tensor)
    if painted and image is None:
        return 1 - fit_shared_mask(occluder, len(crops), None, "occluder mask")
    if faces is None:
        raise FaceLoomError("What hides a face can only be looked for where a face is; connect the faces to Face Parse Mask.")
    if image is None:
        return occlusion_mask(crops, faces_in_crops(faces, size), size, occluder, progress=progress)
    images, network, mask = as_images(image, whites=faces.whites), *((None, occluder) if painted else (occluder, None))
    return occlusion_mask(images, faces, size, network, mask, progress=progress)
