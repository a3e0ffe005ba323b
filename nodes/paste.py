"""PasteBack: put crops back where they came from."""

from __future__ import annotations

from comfy_api.latest import io

from ..models.options.paste import BLENDS, COLORS, PasteSettings
from ..models.paste import paste
from ..models.pixels.tensors import as_crops
from ._inputs import amount_input, mask_input
from ._runtime import give, listener, place
from ._schema import Node
from ._sockets import Faces


class PasteBack(Node, title="Paste Back", aliases=["paste face", "composite face", "uncrop", "stitch", "blend face"]):
    """Puts the crops back into the picture, exactly where Face Detect cut them. Pixels outside the mask do not change at all."""

    @classmethod
    def inputs(cls):
        return [
            io.Image.Input("image", tooltip="The picture the faces were found in. Transparency is kept."),
            Faces.Input("faces", tooltip="The faces the crops belong to, in the same order."),
            io.Image.Input("crops", tooltip="One picture per face, of any size, usually from One-Shot Swap, Restore or a KSampler."),
            io.Combo.Input("color_match", options=list(COLORS), default="none",
                           tooltip="Fits the crop's colours to the photograph around the mask: mean-std shifts and scales, mkl also "
                                   "turns the colour axes, low-frequency follows light that changes across the face."),
            io.Combo.Input("blend", options=list(BLENDS), default="feather",
                           tooltip="How the edge is hidden: feather fades over the soft edge, multi-band fades coarse and fine detail "
                                   "separately, poisson continues the photograph's light into the crop."),
            io.Float.Input("feather", default=0.0, min=0.0, max=0.5, step=0.01,
                           tooltip="Softens the mask's edge inwards, as a part of the crop's width: 0.05 is a twentieth. 0 uses the mask "
                                   "as it is."),
            amount_input("opacity", 1.0, "How much of the crop shows: 1 covers the photograph, 0 leaves it untouched."),
            mask_input("What to take from each crop, one mask per face or one for all. Left unconnected, the whole face up to the "
                       "hairline is taken."),
            io.Boolean.Input("keep_gray", default=True, optional=True, advanced=True,
                             tooltip="Where the photograph is grey around a face, or of one tone such as sepia, the face is too. Off lets "
                                     "coloured crops into a grey photograph."),
        ]

    outputs = [
        io.Image.Output("image", tooltip="The picture with the faces in place, as many frames as came in."),
        io.Mask.Output("mask", tooltip="What was changed, in the picture's own size."),
    ]

    @classmethod
    def execute(cls, image, faces, crops, color_match, blend, feather, opacity, mask=None, keep_gray=True) -> io.NodeOutput:
        crops = as_crops(crops) if len(faces) else crops  # else one black picture comes along, which stands for no crop
        settings = PasteSettings(color_match, blend, feather, opacity, keep_gray=keep_gray)
        pasted, pasted_mask = paste(image, faces, crops, mask, settings, listener())
        return io.NodeOutput(place(pasted), give(pasted_mask))  # what came in outside 0..1 stays there
