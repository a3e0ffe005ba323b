"""FaceAlign: crop faces by another square."""

from __future__ import annotations

from comfy_api.latest import io

from ..models.crops.crop import cut_crops
from ..models.crops.squares import ALIGNMENTS, align_faces
from ..models.pixels.tensors import as_images
from ._inputs import framing_input, recut_outputs
from ._runtime import give_crops, show
from ._schema import Node
from ._sockets import Faces


class FaceAlign(Node, title="Face Align", shows_text=True,
                aliases=["ffhq crop", "recrop", "align crop", "crop size", "framing", "reface", "face-adapter"]):
    """Cuts the crops of faces anew: by the square another system was trained on, at another size, or with more of the head in it."""

    @classmethod
    def inputs(cls):
        return [
            io.Image.Input("image", tooltip="The picture or frames the faces were found in."),
            Faces.Input("faces", tooltip="The faces, from Face Detect or Face Select."),
            io.Combo.Input("alignment", options=list(ALIGNMENTS), default="FFHQ",
                           tooltip="FFHQ is Face Detect's own. FFHQ quad stands on eyes and mouth only, as REFace and DiffSwap want "
                                   "it. box is upright around the detector's box, as Face-Adapter wants it."),
            io.Int.Input("crop_size", default=0, min=0, max=4096, step=8,
                         tooltip="Width and height of every crop in pixels. 0 keeps the size set in Face Detect."),
            framing_input("what the alignment asks for"),
        ]

    outputs = recut_outputs("with their new crops")

    @classmethod
    def execute(cls, image, faces, alignment, crop_size, framing) -> io.NodeOutput:
        aligned = align_faces(faces, alignment, crop_size, framing)
        aligned, crops = cut_crops(as_images(image), aligned)
        crops = give_crops(crops, aligned.crop_size)
        return io.NodeOutput(aligned, crops, ui=show(cls, crops))
