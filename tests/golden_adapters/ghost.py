"""GHOST: generators with every encoder, its ArcFace, super-resolution, mask and landmark smoothing."""

from __future__ import annotations

import math
import re

import numpy as np
from faceloom.models.networks.aei import AEINet, upsample_2x
from faceloom.models.networks.iresnet import IResNet, iresnet_depth
from faceloom.tests.golden_adapters.base import Adapter, Unmade, bgr, resizing_with
from torch.nn import functional


class Generators(Adapter):
    pattern = r"ghost_aei_"

    def build(self, golden):
        shapes = golden.shapes[""]
        backbone = re.search(r"unet|linknet|resnet", golden.data["system"])[0]
        steps = {int(key.split(".")[3]) for key in shapes if re.search(r"AADBlk1\.add_blocks\.\d+\.weight$", key)}
        return AEINet(backbone, len(steps), shapes["generator.up1.weight"][0][0])

    def run(self, golden, net, mistake=None):
        target, identity = golden.input("Xt"), golden.input("z_id")
        if mistake == "BGR input":
            target = bgr(target)
        elif mistake == "other identity":
            identity = golden.other("z_id")
        elif mistake == "L2-normalised identity":
            identity = functional.normalize(identity)
        elif mistake == "align_corners=False":
            with resizing_with(align_corners=False):
                return {"Y": net(target, identity)[0]}
        elif mistake == "batch-norm in train mode":
            try:
                return {"Y": net.train()(target, identity)[0]}
            finally:
                net.eval()
        elif mistake:
            raise Unmade(mistake)
        picture, maps = net(target, identity)
        if maps[-1].shape[-1] < picture.shape[-1]:
            maps = [*maps, upsample_2x(maps[-1])]
        return {"Y": picture} | {f"attr{i}": values for i, values in enumerate(maps, 1)}


class ArcFace(Adapter):
    pattern = r"ghost_arcface"

    def build(self, golden):
        shapes = golden.shapes[""]
        return IResNet(iresnet_depth(shapes), shapes["fc.weight"][0][0])

    def run(self, golden, net, mistake=None):
        small, large = golden.input("x112"), golden.input("x224")
        if mistake == "BGR":
            small = bgr(small)
        elif mistake and mistake != "align_corners=False":
            raise Unmade(mistake)
        half = functional.interpolate(large, scale_factor=.5, mode="bilinear", align_corners=mistake is None)
        return {"emb": net(small), "emb_from_224": net(half)}

    def moved(self, golden, mistake):
        return "emb_from_224" if mistake == "align_corners=False" else "emb"


class SuperResolution(Adapter):
    pattern = r"ghost_sr"

    def build(self, golden):
        from faceloom.models.networks.ghost_sr import SuperResolutionNet

        return SuperResolutionNet(golden.shapes[""]["lip_encoder.model.0.weight"][0][0])

    def run(self, golden, net, mistake=None):
        pictures = golden.input("x")
        if mistake == "BGR (eval)":
            return {"Y_eval": net(bgr(pictures[:1]))}
        if mistake == "[-1,1] input (eval)":
            return {"Y_eval": net(pictures[:1] * 2 - 1)}
        if mistake == "eval instead of train":
            return {"Y_train_b1": net(pictures[:1])}
        if mistake == "batch of 2 instead of 1":
            return {"Y_train_b1": net(pictures, as_published=True)[:1]}
        if mistake and mistake.startswith("second forward in train mode"):
            return {"Y_train_b1": net(pictures[:1], as_published=True, steps=2)}
        if mistake:
            raise Unmade(mistake)
        return {"Y_eval": net(pictures[:1]), "Y_train_b1": net(pictures[:1], as_published=True),
                "Y_train_b2": net(pictures, as_published=True)}

    def moved(self, golden, mistake):
        return "Y_eval" if "(eval)" in mistake else "Y_train_b1"


class BlendMask(Adapter):
    pattern = r"ghost_blend_mask"

    def run(self, golden, nets, mistake=None):
        from faceloom.models.swap.research.ghost_mask import blend_mask, mask_parameters

        if mistake:
            raise Unmade(mistake)
        u = golden.fill._u01("ghost.lm", 212, "lmk").reshape(106, 2)
        base = np.stack([112 + 62 * np.sqrt(u[:, 1]) * np.cos(2 * math.pi * u[:, 0]),
                         118 + 78 * np.sqrt(u[:, 1]) * np.sin(2 * math.pi * u[:, 0])], -1)
        masks = {}
        for key, output in golden.data["outputs"].items():
            target = base.copy()
            target[[1, 2, 13], 0] += output["dl_dr"][0]
            target[[17, 18, 29], 0] += output["dl_dr"][1]
            chosen = mask_parameters(base, target)
            erode, across, down = output["params"]
            assert (chosen.erode, chosen.sigma_x, chosen.sigma_y) == (erode, across, down), key
            masks[key] = blend_mask(base, target, output["stats"]["shape"][0], chosen)
        return masks


class Smoothing(Adapter):
    pattern = r"ghost_smooth_landmarks"

    def run(self, golden, nets, mistake=None):
        from faceloom.models.select.filters import running_mean

        if mistake:
            raise Unmade(mistake)
        base = np.array([[80, 90], [140, 90], [110, 120], [90, 150], [130, 150]], float)
        noise = [.8 * golden.fill.unit(f"sm{f}", 10, "lmk").reshape(5, 2) for f in range(24)]
        frames = [None if f in (9, 10) else base + noise[f] + .5 * f + (40 if f >= 16 else 0) for f in range(24)]
        smooth = running_mean(frames, 2)
        assert [i for i, points in enumerate(smooth) if points is None] == [9, 10]
        return {"smoothed_without_missing": np.stack([points for points in smooth if points is not None])}
