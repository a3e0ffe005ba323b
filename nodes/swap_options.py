"""SwapModelOptions: what can be chosen about the research systems' swap models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields

from comfy_api.latest import io

from ..models.runtime.method import HasNote
from ..models.runtime.options import Options, Value
from ..models.swap import load as engines
from ._runtime import show
from ._schema import Node
from ._sockets import SwapModel


def option_inputs(kind: type[Options]) -> list[io.Input]:
    """Returns the widgets of a method's options. Options under a choice of another one are widgets of that choice."""
    options = fields(kind)
    parents = {option.metadata["under"][0] for option in options if option.metadata["under"]}
    return [_parent_input(kind, option) if option.name in parents else _input(option) for option in options if not option.metadata["under"]]


def _parent_input(kind: type[Options], option: Field) -> io.Input:
    """Makes the widget of an option some of whose choices have options of their own."""
    choices = [io.DynamicCombo.Option(choice, [_input(each) for each in fields(kind) if each.metadata["under"] == (option.name, choice)])
               for choice in option.metadata["choices"]]
    return io.DynamicCombo.Input(option.name, options=choices, tooltip=option.metadata["help"])


def _input(option: Field) -> io.Input:
    default, about = option.default, option.metadata
    if about["choices"]:
        return io.Combo.Input(option.name, options=list(about["choices"]), default=default, tooltip=about["help"])
    if isinstance(default, bool):
        return io.Boolean.Input(option.name, default=default, tooltip=about["help"])
    number = io.Int if isinstance(default, int) else io.Float
    return number.Input(option.name, default=default, min=about["least"], max=about["most"], step=about["step"], tooltip=about["help"])


def chosen_values(system: Mapping[str, object]) -> dict[str, Value]:
    """Returns the values of the options by name; those under a choice lie beside it."""
    values = {}
    for name, value in system.items():
        if name != "system":
            values |= value if isinstance(value, dict) else {name: value}
    return values


class SwapModelOptions(Node, title="Swap Model Options", shows_text=True,
                       aliases=["ghost options", "super resolution", "megafs", "facedancer", "reliableswap", "fslsd", "faceswap",
                                "deepfakes", "swap mask"]):
    """Changes how a research system's swap model works. The network is not loaded again, so several variants can stand side by side."""

    @classmethod
    def inputs(cls):
        return [
            SwapModel.Input("swap_model", tooltip="The swap model of one of these systems, from Load Swap Model."),
            io.DynamicCombo.Input("system", options=[io.DynamicCombo.Option(name, option_inputs(kind))
                                                     for name, kind in engines.options_by_method().items()],
                                  tooltip="The system the model is of. The fields below it are its options, set to what was "
                                          "published."),
        ]

    outputs = [SwapModel.Output("swap_model", tooltip="The model with these options, for One-Shot Swap.")]

    @classmethod
    def execute(cls, swap_model, system) -> io.NodeOutput:
        changed = engines.with_options(swap_model, system["system"], **chosen_values(system))
        return io.NodeOutput(changed, ui=show(cls, text=changed.note if isinstance(changed, HasNote) else ""))
