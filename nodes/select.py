"""FaceSelect: split faces by a rule."""

from __future__ import annotations

from comfy_api.latest import io

from ..models.detect.select import select_faces
from ._runtime import show
from ._sockets import CATEGORY, FaceRecognizer, Faces, Identity


class FaceSelect(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FaceSelect",
            display_name="Face Select",
            category=CATEGORY,
            description="Splits faces in two by a rule, so that different people in a picture can be treated differently.",
            search_aliases=["filter faces", "choose face", "face by gender", "face by age", "same person", "faceloom"],
            inputs=[
                Faces.Input("faces", tooltip="The faces to choose from."),
                io.DynamicCombo.Input("rule", tooltip="How to choose. The fields below change with the rule.", options=[
                    io.DynamicCombo.Option("index", [
                        io.String.Input("indices", default="0",
                                        tooltip="The numbers of the faces in each frame as the preview of Face Detect shows them, for "
                                                "example 0,2 or 1-3. Negative numbers count from the end."),
                    ]),
                    io.DynamicCombo.Option("size", [
                        io.Int.Input("min_size", default=0, min=0, max=8192, tooltip="The smallest face to choose, in pixels."),
                        io.Int.Input("max_size", default=8192, min=0, max=8192, tooltip="The largest face to choose, in pixels."),
                    ]),
                    io.DynamicCombo.Option("position", [
                        io.Combo.Input("place", options=["left", "right", "top", "bottom", "center"], default="left",
                                       tooltip="The one face of each frame that is nearest to this side or to the middle."),
                    ]),
                    io.DynamicCombo.Option("sex", [
                        io.Combo.Input("sex", options=["female", "male"], default="female",
                                       tooltip="Needs a detector or recognizer that tells the sex."),
                    ]),
                    io.DynamicCombo.Option("age", [
                        io.Int.Input("min_age", default=0, min=0, max=120, tooltip="The youngest to choose, in years. Needs a detector "
                                                                                   "that tells the age."),
                        io.Int.Input("max_age", default=120, min=0, max=120, tooltip="The oldest to choose, in years."),
                    ]),
                    io.DynamicCombo.Option("mask", [
                        io.Mask.Input("mask", tooltip="Faces whose middle lies in this mask, in the picture's own space, are chosen."),
                    ]),
                    io.DynamicCombo.Option("same person", [
                        Identity.Input("identity", tooltip="The person to look for, from ArcFace Embed or Identity Load."),
                        io.Image.Input("image", tooltip="The picture the faces were found in."),
                        io.Float.Input("similarity", default=0.0, min=0.0, max=1.0, step=0.01,
                                       tooltip="How alike a face must be to be chosen. 0 uses the recognizer's own limit."),
                        FaceRecognizer.Input("recognizer", optional=True,
                                             tooltip="The recognition network the identity was made with. Left unconnected, the "
                                                     "built-in dlib network runs."),
                    ]),
                ]),
            ],
            outputs=[
                Faces.Output("chosen", tooltip="The faces that match the rule."),
                Faces.Output("rest", tooltip="All other faces."),
            ],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, faces, rule) -> io.NodeOutput:
        options = {name: value for name, value in rule.items() if name != "rule"}
        chosen, rest = select_faces(faces, rule["rule"], **options)
        return io.NodeOutput(chosen, rest, ui=show(cls, text=f"{len(chosen)} of {len(faces)} faces chosen"))
