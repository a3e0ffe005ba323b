"""faceswap's autoencoders: its graphs, run as a file's own would be."""

from __future__ import annotations

import deepfakes_files as files
import numpy as np
import torch
from faceloom.models.crops.faceswap_square import RATIO, square_matrix
from faceloom.models.networks.keras_graph import class_name, is_model
from faceloom.models.networks.keras_net import KerasNet, needed_weights
from faceloom.models.pixels.affine import transform
from faceloom.models.swap.research.deepfakes_mask import blur_mask, landmark_mask
from faceloom.tests.golden_adapters.base import Adapter, Unmade, bgr
from torch import nn


class ByPart(nn.Module):
    """A ``KerasNet`` whose state dict has Keras' names after their part's."""

    def __init__(self, graph) -> None:
        super().__init__()
        self.net = KerasNet(graph, {key: torch.zeros(shape) for key, shape in needed_weights(graph)[0].items()})
        parts = [layer for layer in graph["config"]["layers"] if is_model(layer)]
        self.part_of = {each["name"]: part["name"] for part in parts for each in part["config"]["layers"]}
        self.layers = [[part["name"], each["name"], class_name(each)] for part in parts for each in part["config"]["layers"]]

    def state_dict(self, *args, **options):
        return {f"{self.part_of[key.rpartition('/')[0]]}/{key}": value for key, value in self.net.weights().items()}


class Autoencoder(Adapter):
    pattern = r"faceswap_(original|dfl_h128|dlight)"

    def build(self, golden):
        name = golden.name.removeprefix("faceswap_")
        graph = files.dlight(int(name.removeprefix("dlight_"))) if name.startswith("dlight") else getattr(files, name)()
        holder = ByPart(graph)
        assert sorted(holder.layers) == sorted(each[:3] for each in golden.data["graph"])
        return holder

    def run(self, golden, holder, mistake=None):
        x = golden.input("x")
        if mistake == "planes reversed (RGB<->BGR)":
            x = bgr(x)
        elif mistake == "input shifted by one pixel (stands for wrong padding)":
            x = torch.roll(x, (1, 1), (2, 3))
        elif mistake:
            raise Unmade(mistake)
        (a, b), seen = holder.net(x, x, layers=["encoder"])
        return {"encoded_NCHW": seen["encoder"], "decoder_a_out0_NCHW": a, "decoder_b_out0_NCHW": b}

    def moved(self, golden, mistake):
        return "decoder_a_out0_NCHW"


class Masks(Adapter):
    """Squares by centering and coverage, hulls in them, and their blurs, which are of the last."""

    pattern = r"faceswap_align_masks"

    def run(self, golden, nets, mistake=None):
        points = golden.arrays["landmarks"].astype(np.float64)
        out = {}
        for centering in RATIO:
            for coverage in (1000, 875):
                matrix = square_matrix(points, centering, 256, coverage / 1000)
                seen = transform(points, matrix)
                masks = [landmark_mask(seen, 256, extended) for extended in (False, True)]
                out[f"adjusted_{centering}_{coverage}"] = matrix
                out |= {f"mask_{kind}_{centering}_{coverage}": mask * 255 for kind, mask in zip(("face", "face_extended"), masks)}
        return out | {"blur_normalized_k3_p4": blur_mask(masks[0]), "blur_gaussian_k9_p2": blur_mask(masks[0], "gaussian", 9, 2)}
