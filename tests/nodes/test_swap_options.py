"""Swap Model Options: the widgets are the systems' own options, and what is chosen reaches the engine or is refused."""

from __future__ import annotations

from dataclasses import asdict

import pytest


@pytest.fixture
def choose(nodes):
    return lambda model, **system: nodes["SwapModelOptions"].execute(model, system).result


@pytest.fixture
def ghost(pack):
    import torch
    from faceloom.models.runtime.devices import TorchModel
    from faceloom.models.swap.research.ghost_engine import GhostEngine, GhostNets

    return GhostEngine("G_unet_1block", TorchModel("ghost", GhostNets(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))),
                       landmarker=lambda crops: None)


def defaults(inputs) -> dict:
    """What the widgets are set to, those below a choice with it."""
    named = {}
    for item in inputs:
        if item.get_io_type() == "COMFY_DYNAMICCOMBO_V3":
            named[item.id] = item.options[0].key
            named |= {name: value for option in item.options for name, value in defaults(option.inputs).items()}
        else:
            named[item.id] = item.default
    return named


def test_every_option_of_every_system_is_a_widget_set_to_what_was_published(nodes, pack):
    from faceloom.models.swap.load import options_by_method

    (socket, system) = nodes["SwapModelOptions"].define_schema().inputs
    assert socket.get_io_type() == "SWAP_MODEL"
    wanted = {name: asdict(kind()) for name, kind in options_by_method().items()}
    assert {option.key: defaults(option.inputs) for option in system.options} == wanted


def test_what_is_chosen_reaches_the_engine(choose, ghost):
    (engine,) = choose(ghost, system="GHOST", enhance="off", templates="frontal",
                       mask={"mask": "own numbers", "shrink": -4, "blur_x": 3.0, "blur_y": 8.0})
    assert asdict(engine.options) == {"enhance": "off", "templates": "frontal", "mask": "own numbers", "shrink": -4, "blur_x": 3.0,
                                      "blur_y": 8.0}
    assert engine.model is ghost.model and ghost.options.templates == "five"
    (again,) = choose(engine, system="GHOST", enhance="off", templates="five", mask={"mask": "whole clip"})
    assert again.options.mask == "whole clip"


def test_a_model_of_another_system_is_refused(choose, ghost, pack):
    from faceloom.models.errors import FaceLoomError
    from faceloom.models.swap.load import load_engine

    with pytest.raises(FaceLoomError, match="options of MegaFS, but G_unet_1block is GHOST"):
        choose(ghost, system="MegaFS", stretch=False, refine=False, mask="as published")
    with pytest.raises(FaceLoomError, match="mesh has no options"):
        choose(load_engine("mesh"), system="GHOST", enhance="off", templates="five", mask={"mask": "each face"})


def test_the_node_tells_what_is_missing(nodes, ghost):
    from copy import copy

    bare = copy(ghost)
    bare.landmarker = None
    system = {"system": "GHOST", "enhance": "off", "templates": "five", "mask": {"mask": "each face"}}
    said = nodes["SwapModelOptions"].execute(bare, system)
    assert "2d106det.onnx" in said.ui["text"][0]
