"""ReliableSwap: FixerNet, the FaceShifter and SimSwap generators, and the landmark filters."""

from __future__ import annotations

import re

import numpy as np
import torch
from faceloom.models.networks.aei import upsample_2x
from faceloom.models.networks.faceshifter import MOUTH, FaceShifterNet, warp_pictures
from faceloom.models.networks.iresnet import IResNet, iresnet_depth
from faceloom.models.networks.simswap import SimSwapNet
from faceloom.tests.golden_adapters.base import Adapter, Unmade, bgr, resizing_with


class FixerNet(Adapter):
    pattern = r"reliableswap_fixernet"

    def build(self, golden):
        shapes = golden.shapes[""]
        return IResNet(iresnet_depth(shapes), shapes["fc.weight"][0][0], height=56, width=56)

    def run(self, golden, net, mistake=None):
        x, (rows, columns) = golden.input("x112"), MOUTH
        if mistake == "BGR":
            x = bgr(x)
        elif mistake == "rows/cols swapped":
            rows, columns = columns, rows
        elif mistake:
            raise Unmade(mistake)
        return {"feat": net(x[..., rows, columns])}


class FaceShifter(Adapter):
    pattern = r"reliableswap_faceshifter"

    def build(self, golden):
        shapes = golden.shapes[""]
        backbone = [key.removeprefix("iresnet.") for key in shapes if key.startswith("iresnet.")]
        large = any(".conv00." in key for key in shapes)
        return FaceShifterNet(large, {} if any(key.startswith("mouth_net") for key in shapes) else None, iresnet_depth(backbone))

    def run(self, golden, net, mistake=None):
        source, target = golden.input("source"), golden.input("target")
        if mistake == "infer True instead of False":
            return {"y_infer_false": net(source, target, align=False)}
        if mistake == "warp inverted":
            matrix = torch.cat([net.trans_matrix[0], torch.tensor([[0, 0, 1.]])])
            source = warp_pictures(torch.linalg.inv(matrix)[:2], source)
            return {"y_infer_false": net(source, target, align=False)}
        if mistake == "BGR target":
            return {"y_infer_false": net(source, bgr(target))}
        if mistake == "BGR source":
            return {"y_infer_false": net(bgr(source), target)}
        if mistake:
            raise Unmade(mistake)
        vectors = {align: net.identity(source, align) for align in (True, False)}
        maps = net.G.encoder(target)
        return {"y_infer_false": net.G.generator(maps, vectors[True]), "id_vector_infer_false": vectors[True],
                "y_infer_true": net.G.generator(maps, vectors[False]), "id_vector_infer_true": vectors[False],
                "att_first": maps[0], "att_last": upsample_2x(maps[-1]), "source_warped": net.align(source)}


class SimSwap(Adapter):
    pattern = r"reliableswap_simswap|simswap"

    def build(self, golden):
        shapes = golden.shapes[""]
        blocks = {key.split(".")[1] for key in shapes if key.startswith("BottleNeck.")}
        return SimSwapNet(shapes["BottleNeck.0.style1.linear.weight"][0][1], len(blocks), "trans_matrix" in shapes)

    def run(self, golden, net, mistake=None):
        target, vector = golden.input("target"), golden.input("id_vector")
        if mistake == "BGR":
            target = bgr(target)
        elif mistake == "other identity":
            vector = golden.other("id_vector")
        elif mistake == "[0,1] input":
            target = (target + 1) / 2
        elif mistake == "align_corners=True":
            with resizing_with(align_corners=True):
                return {"y": net(target, vector)}
        elif mistake:
            raise Unmade(mistake)
        return {"y": net(target, vector)}


class Filters(Adapter):
    pattern = r"reliableswap_landmark_filters"

    def run(self, golden, nets, mistake=None):
        from faceloom.models.select.filters import kalman, savitzky_golay

        if mistake:
            raise Unmade(mistake)
        unit = golden.fill.unit
        frames, count = golden.data["outputs"]["kalman_demo"]["stats"]["shape"][:2]
        points = np.stack([100 + 60 * unit("kf", 2 * count, "lmk").reshape(count, 2) + .7 * f
                           + 2 * unit(f"kf{f}", 2 * count, "lmk").reshape(count, 2) for f in range(frames)]).astype(np.float32)
        window, order = map(int, re.search(r"savgol\((\d+),\s*(\d+)\)", golden.data["notes"]).groups())
        return {"kalman_demo": kalman(points, .01, .01), "kalman_default": kalman(points, .03, .01),
                "savgol": savitzky_golay(points, window, order)}
