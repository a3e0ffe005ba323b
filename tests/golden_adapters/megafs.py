"""MegaFS: encoder, three swappers, the StyleGAN2 generator, and SoftErosion."""

from __future__ import annotations

from unittest import mock

import torch
from faceloom.models.networks.megafs import HierarchicalEncoder, InjectionCell, TransferCell, swapper_for
from faceloom.models.networks.stylegan2 import StyleGAN2
from faceloom.models.pixels.soft_erosion import soft_erosion
from faceloom.tests.golden_adapters.base import Adapter, Unmade, bgr, resizing_with


class Encoder(Adapter):
    pattern = r"megafs_encoder"

    def build(self, golden):
        shapes = golden.shapes[""]
        return HierarchicalEncoder(tuple(len({key.split(".")[1] for key in shapes if key.startswith(f"mapping{i}.")}) for i in (1, 2, 3)))

    def run(self, golden, net, mistake=None):
        x = golden.input("x_target_source")
        if mistake == "BGR":
            x = bgr(x)
        elif mistake == "align_corners=False":
            with resizing_with(align_corners=False):
                return dict(zip(("latents", "f4"), net(x)))
        elif mistake:
            raise Unmade(mistake)
        return dict(zip(("latents", "f4"), net(x)))


class Swapper(Adapter):
    pattern = r"megafs_swapper"

    def build(self, golden):
        return swapper_for(golden.shapes[""])

    def run(self, golden, net, mistake=None):
        target, source = golden.input("lat_target"), golden.input("lat_source")
        if mistake == "source/target exchanged":
            target, source = source, target
        elif mistake == "LeakyReLU slope 0.01 instead of 1":
            with mock.patch.object(TransferCell, "slope", .01), mock.patch.object(InjectionCell, "slope", .01):
                return {"swapped": net(source, target)}
        elif mistake:
            raise Unmade(mistake)
        return {"swapped": net(source, target)}


class Generator(Adapter):
    pattern = r"megafs_generator"

    def build(self, golden):
        shapes = golden.shapes[""]
        edge = max(shape[-1] for key, (shape, _) in shapes.items() if key.startswith("noises."))
        return StyleGAN2(edge, mapping=sum(key.startswith("style.") and key.endswith("weight") for key in shapes))

    def run(self, golden, net, mistake=None):
        latents = golden.input("latents")
        if mistake == "f4 of the source":
            return {"y": net(latents, torch.from_numpy(golden.beside("megafs_encoder").arrays["f4"][1:2]))[0]}
        start = golden.input("struct")
        if mistake == "no noise":
            return {"y": net(latents, start, noise=False)[0]}
        if mistake == "clean [-1,1] denorm":
            return {"denorm": ((net(latents, start)[0][0] + 1) * 127.5).clamp(0, 255)}
        if mistake:
            raise Unmade(mistake)
        picture = net(latents, start)[0]
        low, high = picture.min(), picture.max()
        vector = torch.from_numpy(golden.fill.vector("mega.z", 512))[None]
        return {"y": picture, "denorm": (picture[0] - low) / (high - low) * 255, "y_const_input": net(latents)[0],
                "mapping_of_vector_mega.z": net.mapped(vector)}

    def moved(self, golden, mistake):
        return "denorm" if "denorm" in mistake else "y"


class SoftErosion(Adapter):
    pattern = r"megafs_softerosion"

    def run(self, golden, nets, mistake=None):
        if mistake:
            raise Unmade(mistake)
        return {"soft": soft_erosion((golden.input("mask")[:, 0] > .5).float())[:, None]}
