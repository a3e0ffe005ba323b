"""SwapModelOptions: what can be chosen about the research systems' swap models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from comfy_api.latest import io

from ..models.swap.research.options import SYSTEMS, Options, with_options
from ._runtime import show
from ._sockets import CATEGORY, SwapModel

TOOLTIPS: Mapping[str, str] = {
    "enhance": "The super-resolution network (10_net_G.pth). As published it runs in training mode, with the statistics of each picture; "
               "eval takes those that are stored.",
    "templates": "As published the best of five templates aligns the face, from profile to profile. Frontal takes that one alone, as "
                 "exports to ONNX have it.",
    "mask": "Where the new face is shown, and how softly. The first choice is what was published; the help page tells of each. Face "
            "outline needs neither landmarks nor a face parser.",
    "align": "Moves the source to ArcFace's alignment, as published in the demo. Off does as the command-line program, which forgets to. "
             "For the FaceShifter form only.",
    "stretch": "Makes the darkest value of the picture black and the brightest white, as published. Off shows the colours the generator "
               "means.",
    "refine": "Encodes the pasted face again and draws it once more. The published program computes that and does not show it. It needs a "
              "face parser.",
    "hair": "Draws the hair anew with the face, as published. Off keeps the target's.",
    "grow": "By how many pixels of 1024 the area that is drawn anew is larger than what was parsed. Published is 50.",
    "shrink": "By how many pixels of 224 the mask shrinks; negative values grow it. 15 also raises the brows further, as published.",
    "blur_x": "How far the mask's border is blurred from left to right, in pixels of 224.",
    "blur_y": "How far the mask's border is blurred from top to bottom, in pixels of 224. Twice as much is cut off at the edges.",
    "swap": "Whose face is drawn, of the two people the file was trained on. A to B draws B over A.",
    "erode": "By how many per cent of its radius the mask shrinks; negative values grow it.",
    "color": "Average gives the drawn face the mean colour of the target's, where the mask is.",
    "centering": "How faces were cut out when the file was trained. Face is faceswap's default; head takes in the whole head, "
                 "legacy the face alone.",
    "coverage": "The share of the cut-out square, in per cent, that the file was trained on.",
}
RANGES: Mapping[str, tuple[float, float, float]] = {  # least, most, step
    "grow": (0, 512, 2), "shrink": (-30, 60, 1), "blur_x": (0.5, 40.0, 0.5), "blur_y": (0.5, 40.0, 0.5),
    "erode": (-100.0, 100.0, 1.0), "coverage": (62.5, 100.0, 0.5),
}  # fmt: skip
# Options that only one choice of another asks for: the other, the choice, and they.
UNDER = ("mask", "own numbers", ("shrink", "blur_x", "blur_y"))


def _inputs(kind: type[Options]) -> list[io.Input]:
    """The widgets of a system's options."""
    names = [field.name for field in fields(kind) if field.name not in UNDER[2]]
    return [_parent(kind, name) if UNDER[1] in kind.one_of().get(name, ()) else _input(kind, name) for name in names]


def _parent(kind: type[Options], name: str) -> io.Input:
    below = [_input(kind, each) for each in UNDER[2]]
    options = [io.DynamicCombo.Option(choice, below if choice == UNDER[1] else []) for choice in kind.one_of()[name]]
    return io.DynamicCombo.Input(name, options=options, tooltip=TOOLTIPS[name])


def _input(kind: type[Options], name: str) -> io.Input:
    default, told = getattr(kind(), name), {"tooltip": TOOLTIPS[name]}
    if name in kind.one_of():
        return io.Combo.Input(name, options=list(kind.one_of()[name]), default=default, **told)
    if isinstance(default, bool):
        return io.Boolean.Input(name, default=default, **told)
    least, most, step = RANGES[name]
    number = io.Int if isinstance(default, int) else io.Float
    return number.Input(name, default=default, min=least, max=most, step=step, **told)


class SwapModelOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SwapModelOptions",
            display_name="Swap Model Options",
            category=CATEGORY,
            description="Changes how a research system's swap model works. The network is not loaded again, so several variants can stand "
                        "side by side.",
            search_aliases=["ghost options", "super resolution", "megafs", "facedancer", "reliableswap", "fslsd", "faceswap", "deepfakes",
                            "swap mask", "faceloom"],
            inputs=[
                SwapModel.Input("swap_model", tooltip="The swap model of one of these systems, from Load Swap Model."),
                io.DynamicCombo.Input("system", options=[io.DynamicCombo.Option(name, _inputs(kind)) for name, kind in SYSTEMS.items()],
                                      tooltip="The system the model is of. The fields below it are its options, set to what was "
                                              "published."),
            ],
            outputs=[SwapModel.Output("swap_model", tooltip="The model with these options, for One-Shot Swap.")],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, swap_model, system) -> io.NodeOutput:
        given = {name: value for name, value in system.items() if name != "system"}
        nested = given.get(UNDER[0])
        if isinstance(nested, dict):
            given |= nested
        changed = with_options(swap_model, system["system"], **given)
        return io.NodeOutput(changed, ui=show(cls, text=changed.note))
