"""FaceAssign: settle for single faces whom they become."""

from __future__ import annotations

from comfy_api.latest import io

from ..models.select.assign import assign_identity
from ._runtime import show
from ._schema import Node
from ._sockets import Faces, Identity


class FaceAssign(Node, title="Face Assign", shows_text=True, aliases=["several people", "two faces", "who becomes whom", "multiple faces"]):
    """Gives the chosen faces a person of their own. One swap node then gives every face its own person, and the others the identity that
    is connected there."""

    @classmethod
    def inputs(cls):
        return [
            Faces.Input("faces", tooltip="All the faces, from Face Detect or another Face Assign."),
            Faces.Input("chosen", tooltip="Those of them that become this person, from a Face Select that was given the same faces."),
            Identity.Input("identity", tooltip="Who the chosen faces become, from ArcFace Embed or Identity Load."),
        ]

    outputs = [Faces.Output("faces", tooltip="All the faces. The chosen ones know whom they become; connect these to the swap node and to "
                                             "Paste Back.")]

    @classmethod
    def execute(cls, faces, chosen, identity) -> io.NodeOutput:
        assigned = assign_identity(faces, chosen, identity)
        settled = sum(face.identity is not None for face in assigned)
        return io.NodeOutput(assigned, ui=show(cls, text=f"{settled} of {len(assigned)} faces have a person of their own"))
