"""FaceKeypointsImage and FaceControlHints: control pictures that match the crops."""

from __future__ import annotations

from comfy_api.latest import io

from ..models.face3d.control import WHERE, control_hints, keypoint_pictures
from ..models.pixels.tensors import as_crops
from ._runtime import give, give_crops, listener, show
from ._schema import Node
from ._sockets import Faces


class FaceKeypointsImage(Node, title="Face Keypoints Image", shows_text=True,
                         aliases=["instantid keypoints", "face kps", "image_kps", "controlnet face pose"]):
    """Draws the five keypoints of faces as InstantID's ControlNet wants them, on the crops or on the whole picture."""

    @classmethod
    def inputs(cls):
        return [
            Faces.Input("faces", tooltip="The faces whose pose the new picture should take, from Face Detect or Face Select."),
            io.Combo.Input("where", options=list(WHERE), default="crop",
                           tooltip="Crop gives one picture per face that matches its crop, image one picture per frame with all its "
                                   "faces."),
            io.Int.Input("size", default=0, min=0, max=8192, step=8,
                         tooltip="Width and height of the crops, or the longer side of the whole picture, in pixels: best what the model "
                                 "samples at. 0 is their own size."),
            io.Float.Input("thickness", default=1.0, min=0.1, max=8.0, step=0.1, advanced=True,
                           tooltip="Width of the strokes: 1 is InstantID's own, ellipses of 9 and discs of 21 pixels at any size."),
        ]

    outputs = [io.Image.Output("keypoints", tooltip="The drawings, for the image_kps input of Apply InstantID or for its ControlNet. One "
                                                    "black picture when there is no face.")]

    @classmethod
    def execute(cls, faces, where, size, thickness) -> io.NodeOutput:
        pictures = give_crops(keypoint_pictures(faces, size, where, thickness, listener()), size or faces.crop_size)
        return io.NodeOutput(pictures, ui=show(cls, pictures))


def _hints() -> list[io.DynamicCombo.Option]:
    option = io.DynamicCombo.Option
    threshold = "Gradient strength on OpenCV's scale"
    return [
        option("canny", [
            io.Int.Input("low", default=100, min=0, max=2000, tooltip=f"{threshold}: weaker edges than this are left out."),
            io.Int.Input("high", default=200, min=0, max=2000,
                         tooltip=f"{threshold}: an edge is kept where some part of it is stronger than this."),
        ]),
        *(option(kind, []) for kind in ("mesh", "depth", "normal")),
    ]


class FaceControlHints(Node, title="Face Control Hints", shows_text=True,
                       aliases=["controlnet face", "canny", "mediapipe face mesh", "face depth", "face normal map", "preprocessor"]):
    """Makes control pictures that match the crops for ControlNet: their edges, the MediaPipe face mesh, or depth and normals of the fitted
    3-D face."""

    @classmethod
    def inputs(cls):
        return [
            io.Image.Input("crops", tooltip="The crops that are repainted, from Face Detect. The hints have their size."),
            io.DynamicCombo.Input("hint", options=_hints(),
                                  tooltip="Canny is the crop's edges. Mesh is the outline drawing of ControlNetMediaPipeFace; without "
                                          "MediaPipe's points it is drawn from the 3-D face fitted to the landmarks, pupils in the "
                                          "middle of the eyes. Depth and normal are of that fitted face alone, without hair, neck and "
                                          "background: bright is near; red left, green up, blue towards you as ControlNet 1.1 has it."),
            Faces.Input("faces", optional=True, tooltip="The faces of these crops. All hints but canny need them."),
        ]

    outputs = [io.Image.Output("hint", tooltip="One picture per crop, for Apply ControlNet.")]

    @classmethod
    def execute(cls, crops, hint, faces=None) -> io.NodeOutput:
        settings = dict(hint)
        pictures = give(control_hints(as_crops(crops), faces, settings.pop("hint"), **settings, progress=listener()))
        return io.NodeOutput(pictures, ui=show(cls, pictures))
