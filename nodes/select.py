"""FaceSelect: split faces by a rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from comfy_api.latest import io

from ..models.pixels.tensors import as_images
from ..models.select.rules import RANKS, SelectionRule, select_faces
from ..models.select.which import unknown_faces
from ._inputs import recognizer_input
from ._runtime import listener, show
from ._schema import Node
from ._sockets import FaceAnalysis, Faces, Identity, InsightFace, as_attributes, as_recognizer


def _limits(most: float, step: float) -> list[io.Input]:
    return [
        io.Float.Input("minimum", default=0.0, min=0.0, max=most, step=step,
                       tooltip="The smallest value to choose: pixels for size, years for age, 0 to 1 for score."),
        io.Float.Input("maximum", default=0.0, min=0.0, max=most, step=step,
                       tooltip="The largest value to choose, in the same unit. 0 sets no limit."),
    ]


def _readers() -> list[io.Input]:
    return [
        io.Image.Input("image", optional=True, tooltip="The picture the faces were found in."),
        io.MultiType.Input("insightface", [InsightFace, FaceAnalysis], optional=True,
                           tooltip="An InsightFace object whose pack tells age and sex, such as buffalo_l or antelopev2. It looks at the "
                                   "image if the detector did not tell."),
    ]


def _rules() -> list[io.DynamicCombo.Option]:
    option = io.DynamicCombo.Option
    count = io.Int.Input("count", default=1, min=1, max=100, tooltip="How many faces of each frame to choose, counted from that end.")
    image = io.Image.Input("image", optional=True,
                           tooltip="The picture the faces were found in. Faces from Face Detect (video) need none.")
    similarity = io.Float.Input("similarity", default=0.0, min=0.0, max=1.0, step=0.01,
                                tooltip="How alike a face must be to be chosen. 0 takes the usual limit of the recognition network.")
    recognizer = recognizer_input("The recognition network to compare faces with, where there is an identity the one it was made with. "
                                  "Left unconnected, the built-in dlib network runs.")
    return [
        option("index", [
            io.String.Input("index", default="0",
                            tooltip="The positions of the faces in each frame, in the order Face Detect gives them, for example 0,2 or "
                                    "1-3. Negative numbers count from the end."),
        ]),
        option("person", [
            io.String.Input("person", default="0",
                            tooltip="The numbers of people in a video, as the picture of Face Detect (video) shows them, for example 0,2."),
        ]),
        *(option(rank, [count]) for rank in RANKS),
        option("size", _limits(8192.0, 1.0)),
        option("score", _limits(1.0, 0.01)),
        option("sex", [
            io.Combo.Input("sex", options=["female", "male"], default="female",
                           tooltip="Which faces to choose. It needs a detector that tells the sex, see Load Face Detector, or the image "
                                   "and an InsightFace object."),
            *_readers(),
        ]),
        option("age", [*_limits(120.0, 1.0), *_readers()]),
        option("mask", [
            io.Mask.Input("mask", tooltip="Faces whose middle this mask covers are chosen. It is a mask of the whole picture."),
        ]),
        option("same-person", [
            Identity.Input("identity", tooltip="The person to look for, from ArcFace Embed or Identity Load."),
            image,
            similarity,
            io.Boolean.Input("one_per_frame", default=True,
                             tooltip="Chooses only the most similar face of each frame, because a person is in a picture once."),
            io.Float.Input("margin", default=0.0, min=0.0, max=1.0, step=0.01,
                           tooltip="How far the most similar face must lead the next one; where it does not, no face of the frame is "
                                   "chosen."),
            recognizer,
        ]),
        option("first-person", [image, similarity, recognizer]),
    ]


class FaceSelect(Node, title="Face Select", shows_text=True,
                 aliases=["filter faces", "choose face", "face by gender", "face by age", "same person"]):
    """Splits faces in two by a rule, so that different people in a picture can be treated differently."""

    @classmethod
    def inputs(cls):
        return [
            Faces.Input("faces", tooltip="The faces to choose from."),
            io.DynamicCombo.Input("rule", options=_rules(), tooltip="How to choose. The fields below it change with the rule."),
        ]

    outputs = [
        Faces.Output("chosen", tooltip="The faces that match the rule."),
        Faces.Output("rest", tooltip="All other faces."),
    ]

    @classmethod
    def execute(cls, faces, rule) -> io.NodeOutput:
        settings, given = _arguments(rule, faces.whites)
        chosen, rest = select_faces(faces, settings, **given, progress=listener())
        said = f"{len(chosen)} of {len(faces)} faces chosen", unknown_faces(faces, settings.index) if settings.rule == "index" else ""
        return io.NodeOutput(chosen, rest, ui=show(cls, text=", ".join(filter(None, said))))


def _arguments(rule: dict, whites: Sequence[float]) -> tuple[SelectionRule, dict]:
    """Split what the rule's widgets and sockets hold into the rule with its settings and the other arguments of ``select_faces``. whites:
    of the faces."""
    settings = {field.name: rule[field.name] for field in fields(SelectionRule) if field.name in rule}
    given = {name: rule[name] for name in ("mask", "identity") if name in rule}
    if "recognizer" in rule:
        given["recognizer"] = as_recognizer(rule["recognizer"])
    if rule.get("insightface") is not None:
        given["attributes"] = as_attributes(rule["insightface"])
    if rule.get("image") is not None:
        given["images"] = as_images(rule["image"], whites=whites)
    return SelectionRule(**settings), given
