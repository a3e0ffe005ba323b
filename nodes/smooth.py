"""FaceSmooth: steady faces over a clip."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..models.crops.crop import cut_crops
from ..models.pixels.tensors import as_images
from ..models.select.fill import fill_gaps
from ..models.select.smooth import smooth_faces
from ._inputs import recut_outputs
from ._runtime import give_crops, show
from ._schema import Node
from ._sockets import Faces


def _methods() -> list[io.DynamicCombo.Option]:
    option = io.DynamicCombo.Option
    return [
        option("running mean", [
            io.Int.Input("reach", default=2, min=0, max=60, step=1, tooltip="The mean is taken over this many frames on either side."),
            io.Float.Input("jump", default=5.0, min=0.0, max=4096.0, step=0.5,
                           tooltip="Where the left eye or the nose moves further than this many pixels from one frame to the next, the "
                                   "face is not smoothed across. 0 always smooths across."),
        ]),
        option("kalman", [
            io.Float.Input("process", default=0.03, min=0.0001, max=10.0, step=0.001,
                           tooltip="How much the face itself is expected to move. Smaller is steadier and lags more."),
            io.Float.Input("measure", default=0.01, min=0.0001, max=10.0, step=0.001,
                           tooltip="How wrong the landmarks of one frame are expected to be. Larger is steadier and lags more."),
        ]),
        option("savitzky-golay", [
            io.Int.Input("window", default=25, min=3, max=201, step=2, tooltip="A curve is laid through this many frames at a time."),
            io.Int.Input("order", default=2, min=1, max=9, step=1,
                         tooltip="The order of that curve. It must be smaller than the window; higher follows quick movements better."),
        ]),
    ]


class FaceSmooth(Node, title="Face Smooth", shows_text=True,
                 aliases=["stabilize", "jitter", "track faces", "kalman", "savitzky-golay", "video", "temporal"]):
    """Follows every face along a clip and smooths how its landmarks move, so that crops and swapped faces do not tremble."""

    @classmethod
    def inputs(cls):
        return [
            io.Image.Input("image", optional=True,
                           tooltip="The frames of the clip, in order. Only the crops need them: leave it unconnected for a video."),
            Faces.Input("faces", tooltip="The faces of a clip, from Face Detect (video), Face Detect or Face Select."),
            io.DynamicCombo.Input("method", options=_methods(),
                                  tooltip="Running mean is GHOST's, the other two are ReliableSwap's. The fields below it change with "
                                          "the method."),
            io.Int.Input("gap", default=0, min=0, max=100, step=1, advanced=True,
                         tooltip="A face that is missing for up to this many frames is still taken for the same person. It is never "
                                 "smoothed across the gap."),
            io.Int.Input("fill", default=0, min=0, max=1000, step=1, optional=True,
                         tooltip="A face that is missed for up to this many frames between two sightings is put in, so that the old face "
                                 "does not flash up. Never across a cut."),
        ]

    outputs = recut_outputs("steady and numbered by person")

    @classmethod
    def execute(cls, faces, method, gap, image=None, fill=0) -> io.NodeOutput:
        images = None if image is None else as_images(image, whites=faces.whites)
        if images is not None:
            faces.check_image(images.shape)
        numbers = {name: value for name, value in method.items() if name != "method"}
        filled = fill_gaps(faces, fill)
        smooth = smooth_faces(filled, method["method"], gap=gap, **numbers)
        text = f"{_count(len(smooth), 'face')} of {_count(len({face.track for face in smooth}), 'track')}"
        text += f", {len(filled) - len(faces)} filled in" if len(filled) > len(faces) else ""
        size = smooth.crop_size
        smooth, crops = cut_crops(images, smooth) if images is not None else (smooth, torch.zeros(0, size, size, 3))
        return io.NodeOutput(smooth, give_crops(crops, smooth.crop_size), ui=show(cls, text=text))


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
