"""FaceDancer: Keras graphs of any published configuration, run from the ``NAME.model_config.json`` beside the vector."""

from __future__ import annotations

import json

import torch
from faceloom.models.networks.keras_graph import class_name, layers_of, plan_calls
from faceloom.models.networks.keras_net import KerasNet, needed_weights
from faceloom.tests.golden_adapters.base import Adapter, Unmade, bgr
from torch import nn
from torch.nn import functional


class ByName(nn.Module):
    """A ``KerasNet`` whose state dict has Keras' names."""

    def __init__(self, net: KerasNet) -> None:
        super().__init__()
        self.net = net

    def state_dict(self, *args, **options):
        return self.net.weights()


def build(golden) -> ByName:
    """Weights as the graph asks for them; of the vector's list only what AdaIN's inner layers are called, which no graph says."""
    graph = json.loads((golden.folder / f"{golden.name}.model_config.json").read_text())
    adains = {layer["name"] for layer in layers_of(graph["config"]) if class_name(layer) == "AdaIN"}
    named = {key: torch.empty(shape) for key, (shape, _) in golden.shapes[""].items() if key.split("/")[0] in adains}
    needed, _ = needed_weights(graph, named)
    return ByName(KerasNet(graph, {key: torch.zeros(shape) for key, shape in needed.items()}))


class Generator(Adapter):
    pattern = r"facedancer_generator"

    def build(self, golden):
        return build(golden)

    def run(self, golden, holder, mistake=None):
        net = holder.net
        target, vector = golden.input("target_NCHW"), golden.input("z")
        if mistake == "BGR":
            target = bgr(target)
        elif mistake == "other identity":
            vector = golden.other("z")
        elif mistake == "normalised identity":
            vector = functional.normalize(vector)
        elif mistake == "[0,1] target":
            target = (target + 1) / 2
        elif mistake == "eps 1e-5":
            wrong = json.loads(json.dumps(net.graph))
            for layer in layers_of(wrong):
                layer["config"] |= {"epsilon": 1e-5} if "epsilon" in layer["config"] else {}
            net = KerasNet(wrong, net.weights())
        elif mistake:
            raise Unmade(mistake)
        extra = {key: key.removeprefix("mask_") for key in golden.data["outputs"] if key.startswith("mask_")}
        if "mapped_id" in golden.data["outputs"]:
            first = next(step for step in plan_calls(net.graph) if class_name(step.layer) == "AdaIN")
            extra["mapped_id"] = first.inputs[1][0]
        picture, seen = net(target, vector, layers=list(extra.values()))
        return {"y_NCHW": picture} | {key: seen[layer] for key, layer in extra.items()}


class ArcFace(Adapter):
    pattern = r"facedancer_arcface"

    def build(self, golden):
        return build(golden)

    def run(self, golden, holder, mistake=None):
        x = golden.input("x_NCHW")
        if mistake == "BGR":
            x = bgr(x)
        elif mistake == "[-1,1] input":
            x = x * 2 - 1
        elif mistake:
            raise Unmade(mistake)
        return {"emb": holder.net(x)}
