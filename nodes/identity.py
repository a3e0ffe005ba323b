"""ArcFaceEmbed and IdentityBlend: who to become."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..models.errors import FaceLoomError
from ..models.identity import make_identity
from ..models.identity.blend import blend_identities
from ..models.identity.combine import COMBINE_METHODS
from ..models.identity.photos import join_photos
from ..models.pixels.tensors import as_images
from ._inputs import recognizer_input
from ._runtime import give, listener, show
from ._schema import Node
from ._sockets import Faces, Identity, as_recognizer


class ArcFaceEmbed(Node, title="ArcFace Embed", is_input_list=True, shows_text=True,
                   aliases=["face identity", "face embedding", "face model", "source face", "recognizer"]):
    """Makes an identity, who to become, from one or several photos of a person and reports how well the photos agree."""

    @classmethod
    def inputs(cls):
        return [
            io.Image.Input("image", tooltip="One or several photos of the same person; a list may hold photos of different sizes."),
            Faces.Input("faces", tooltip="The person's face in each photo, from Face Detect with keep set to first."),
            io.Combo.Input("how", options=list(COMBINE_METHODS), default="quality-weighted",
                           tooltip="How several photos become one identity: average counts all the same, median ignores odd ones, "
                                   "quality-weighted trusts sharp, frontal, large faces more."),
            io.String.Input("name", default="", placeholder="name", advanced=True,
                            tooltip="A name to remember the person by; it is kept in identity files."),
            recognizer_input("The recognition network, from Load Face Recognizer or an InsightFace loader. Left unconnected, the built-in "
                             "dlib network runs and needs no download."),
        ]

    outputs = [
        Identity.Output("identity", tooltip="The person, for One-Shot Swap, Identity Save and the other nodes with this socket."),
        io.String.Output("report", tooltip="How similar the photos are to each other, and which do not seem to show the same person."),
    ]

    @classmethod
    def execute(cls, image, faces, how, name, recognizer=None) -> io.NodeOutput:
        images, people = join_photos([as_images(photo) for photo in image], faces)
        network = as_recognizer(recognizer[0]) if recognizer else None
        identity, report = make_identity(images, people, network, how=how[0], name=name[0], progress=listener())
        return io.NodeOutput(identity, report, ui=show(cls, portraits(identity), _headline(report)))


class IdentityBlend(Node, title="Identity Blend", aliases=["mix faces", "blend faces", "merge identity"], shows_text=True):
    """Mixes several people into one new identity."""

    @classmethod
    def inputs(cls):
        one = Identity.Input("identity", tooltip="A person to mix in, from ArcFace Embed or Identity Load.")
        return [
            io.Autogrow.Input("identities", template=io.Autogrow.TemplatePrefix(one, prefix="identity", min=2, max=8),
                              tooltip="The people to mix; a new socket appears when the last one is connected."),
            io.String.Input("weights", default="1, 1",
                            tooltip="How much of each person, in the order of the sockets, for example 3, 1. Only the proportions count."),
        ]

    outputs = [Identity.Output("identity", tooltip="The mixed person.")]

    @classmethod
    def execute(cls, identities, weights) -> io.NodeOutput:
        people = [person for person in identities.values() if person is not None]
        blended = blend_identities(people, _numbers(weights))
        return io.NodeOutput(blended, ui=show(cls, portraits(blended)))


def portraits(identity):
    """The reference crops of an identity as an IMAGE, or None where it has none."""
    return give(torch.from_numpy(identity.crops.copy())) if len(identity.crops) else None


def _headline(report: str) -> str:
    """The report without its matrix, which needs more room than a node has."""
    first, *rest = report.splitlines()
    return "\n".join([first.split(":")[0], *(line for line in rest if line.endswith("."))])


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise FaceLoomError(f"The weights must be numbers such as 1, 0.5 and not {text!r}.") from None
