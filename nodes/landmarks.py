"""ThreeDLandmarkMask: a mask from a 3-D face fitted to the landmarks."""

from __future__ import annotations

from comfy_api.latest import io

from ..models.face3d.mask3d import landmark_mask
from ._inputs import crop_edge_inputs
from ._runtime import give_crops, listener, show
from ._schema import Node
from ._sockets import Faces, Identity


class ThreeDLandmarkMask(Node, title="3-D Landmark Mask", shows_text=True,
                         aliases=["3d landmarks", "head pose", "face hull", "controlnet face", "face mesh mask"]):
    """Fits a 3-D face to the landmarks and draws its outline as a mask that stays right on half-profiles, with a control image."""

    @classmethod
    def inputs(cls):
        return [
            Faces.Input("faces", tooltip="The faces to make masks for, from Face Detect or Face Select."),
            io.Combo.Input("shape", options=["target", "source", "union"], default="target",
                           tooltip="Whose outline: the target's own, the source's head shape in the target's pose and expression, or both "
                                   "together. Source and union need an identity."),
            *crop_edge_inputs(),
            io.Int.Input("crop_size", default=0, min=0, max=4096, step=8, advanced=True,
                         tooltip="Width and height of the mask in pixels. 0 uses the size set in Face Detect."),
            Identity.Input("identity", optional=True, tooltip="The person whose head shape is used by source and union."),
        ]

    outputs = [
        io.Mask.Output("mask", tooltip="One mask per face, in crop space."),
        io.Image.Output("drawing", tooltip="The landmarks as coloured lines on black, a control image for ControlNet."),
        io.String.Output("pose", tooltip="One line per face with the head's yaw, pitch and roll in degrees."),
    ]

    @classmethod
    def execute(cls, faces, shape, grow, feather, crop_size, identity=None) -> io.NodeOutput:
        size = crop_size or faces.crop_size
        mask, drawing, pose = landmark_mask(faces, size, shape=shape, identity=identity, grow=grow, feather=feather, progress=listener())
        text = "\n".join(f"face {i}: yaw {yaw:.1f}°, pitch {pitch:.1f}°, roll {roll:.1f}°" for i, (yaw, pitch, roll) in enumerate(pose))
        drawing = give_crops(drawing, size)
        return io.NodeOutput(give_crops(mask, size), drawing, text, ui=show(cls, drawing, text))
