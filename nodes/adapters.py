"""IdentityForAdapters: a person in the form that IP-Adapter FaceID, InstantID and PuLID nodes take."""

from __future__ import annotations

from comfy_api.latest import io

from ..models.interop.identity_for_adapters import ADAPTERS, adapter_analysis
from ._inputs import amount_input, detector_input, recognizer_input
from ._runtime import give, show
from ._schema import Node
from ._sockets import FaceAnalysis, Identity, InsightFace, as_detector, as_recognizer


class IdentityForAdapters(Node, title="Identity for Adapters", shows_text=True,
                          aliases=["ipadapter faceid", "instantid", "pulid", "insightface", "faceanalysis", "face embedding"]):
    """Hands an identity to the IP-Adapter FaceID, InstantID and PuLID nodes of other packs: the source picture they look at, and in place
    of InsightFace an object that answers with this identity, averaged over all its photos."""

    @classmethod
    def inputs(cls):
        return [
            Identity.Input("identity", tooltip="The person, from ArcFace Embed with the recognizer the adapter was trained with: w600k_r50 "
                                               "(buffalo_l) for IP-Adapter FaceID, glintr100 (antelopev2) for the others."),
            io.Combo.Input("adapter", options=list(ADAPTERS), default="InstantID",
                           tooltip="Which pack's nodes the outputs go to. It decides whose embedding the identity must have."),
            io.Int.Input("count", default=1, min=1, max=8,
                         tooltip="How many of the identity's pictures to give, best first. The embedding is the identity's for each, so "
                                 "one is enough unless the adapter also looks at the pictures, as FaceID Plus and PuLID do."),
            io.Int.Input("size", default=1024, min=256, max=2048, step=64, advanced=True,
                         tooltip="Width and height of the pictures in pixels."),
            amount_input("padding", 0.15, "Width of the black border around the head, so that detectors see it whole: 0.15 is 15 % of the "
                                         "picture within it.", advanced=True),
            detector_input("The detector for pictures other than this identity's, such as a photo at InstantID's image_kps. Left "
                           "unconnected, the built-in dlib detector runs."),
            recognizer_input("The recognizer the adapter was trained with. It looks at the pictures of an identity that was made with "
                             "another one; not needed if the identity has the right embedding."),
        ]

    outputs = [
        io.Image.Output("image", tooltip="The source picture for the adapter's image input: the head with room around it."),
        InsightFace.Output("insightface", tooltip="For the insightface input of the IPAdapter FaceID nodes. Every face it finds is this "
                                                  "identity."),
        FaceAnalysis.Output("face_analysis", tooltip="The same object, for the nodes of InstantID and PuLID."),
    ]

    @classmethod
    def execute(cls, identity, adapter, count, size, padding, detector=None, recognizer=None) -> io.NodeOutput:
        pictures, analysis = adapter_analysis(identity, adapter, size=size, padding=padding, count=count, detector=as_detector(detector),
                                              recognizer=as_recognizer(recognizer))
        return io.NodeOutput(give(pictures), analysis, analysis, ui=show(cls, pictures))
