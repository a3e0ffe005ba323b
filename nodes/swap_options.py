"""SwapModelOptions: what can be chosen about the research systems' swap models."""

from __future__ import annotations

from comfy_api.latest import io

from ..models.swap.options import SYSTEMS, with_options
from ._runtime import show
from ._sockets import CATEGORY, SwapModel

MASK = ("Where the new face is shown, and how softly. The first choice is what was published; the help page tells of each. Face outline "
        "needs neither landmarks nor a face parser.")


def _combo(system: str, name: str, tooltip: str) -> io.Input:
    kind = SYSTEMS[system]
    return io.Combo.Input(name, options=list(kind.one_of()[name]), default=getattr(kind(), name), tooltip=tooltip)


def _switch(system: str, name: str, tooltip: str) -> io.Input:
    return io.Boolean.Input(name, default=getattr(SYSTEMS[system](), name), tooltip=tooltip)


def _blur(name: str, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=getattr(SYSTEMS["GHOST"](), name), min=0.5, max=40.0, step=0.5, tooltip=tooltip)


def _ghost() -> list[io.Input]:
    numbers = [
        io.Int.Input("shrink", default=SYSTEMS["GHOST"]().shrink, min=-30, max=60, step=1,
                     tooltip="By how many pixels of 224 the mask shrinks; negative values grow it. 15 also raises the brows further, as "
                             "published."),
        _blur("blur_x", "How far the mask's border is blurred from left to right, in pixels of 224."),
        _blur("blur_y", "How far the mask's border is blurred from top to bottom, in pixels of 224. Twice as much is cut off at the "
                        "edges."),
    ]
    kinds = SYSTEMS["GHOST"].one_of()["mask"]
    return [
        _combo("GHOST", "enhance", "The super-resolution network (10_net_G.pth). As published it runs in training mode, with the "
                                   "statistics of each picture; eval takes those that are stored."),
        _combo("GHOST", "templates", "As published the best of five templates aligns the face, from profile to profile. Frontal takes that "
                                     "one alone, as exports to ONNX have it."),
        io.DynamicCombo.Input("mask", options=[io.DynamicCombo.Option(kind, numbers if kind == "own numbers" else []) for kind in kinds],
                              tooltip=MASK),
    ]


def _systems() -> list[io.DynamicCombo.Option]:
    option = io.DynamicCombo.Option
    return [
        option("GHOST", _ghost()),
        option("ReliableSwap", [
            _switch("ReliableSwap", "align", "Moves the source to ArcFace's alignment, as published in the demo. Off does as the "
                                             "command-line program, which forgets to. For the FaceShifter form only."),
            _combo("ReliableSwap", "mask", MASK),
        ]),
        option("MegaFS", [
            _switch("MegaFS", "stretch", "Makes the darkest value of the picture black and the brightest white, as published. Off shows "
                                         "the colours the generator means."),
            _switch("MegaFS", "refine", "Encodes the pasted face again and draws it once more. The published program computes that and "
                                        "does not show it. It needs a face parser."),
            _combo("MegaFS", "mask", MASK),
        ]),
        option("FaceDancer", [
            _combo("FaceDancer", "mask", MASK),
        ]),
        option("FSLSD", [
            _switch("FSLSD", "hair", "Draws the hair anew with the face, as published. Off keeps the target's."),
            io.Int.Input("grow", default=SYSTEMS["FSLSD"]().grow, min=0, max=512, step=2,
                         tooltip="By how many pixels of 1024 the area that is drawn anew is larger than what was parsed. Published is 50."),
        ]),
    ]


class SwapModelOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SwapModelOptions",
            display_name="Swap Model Options",
            category=CATEGORY,
            description="Changes how a research system's swap model works. The network is not loaded again, so several variants can stand "
                        "side by side.",
            search_aliases=["ghost options", "super resolution", "megafs", "facedancer", "reliableswap", "fslsd", "swap mask", "faceloom"],
            inputs=[
                SwapModel.Input("swap_model", tooltip="The swap model of one of these systems, from Load Swap Model."),
                io.DynamicCombo.Input("system", options=_systems(),
                                      tooltip="The system the model is of. The fields below it are its options, set to what was "
                                              "published."),
            ],
            outputs=[SwapModel.Output("swap_model", tooltip="The model with these options, for One-Shot Swap.")],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, swap_model, system) -> io.NodeOutput:
        given = {name: value for name, value in system.items() if name != "system"}
        if isinstance(given.get("mask"), dict):
            given |= given["mask"]
        changed = with_options(swap_model, system["system"], **given)
        return io.NodeOutput(changed, ui=show(cls, text=changed.note))
