"""FSLSD at 1024, and the pSp encoder it needs."""

from __future__ import annotations

import torch
from faceloom.models.networks.fslsd import FSLSDNet
from faceloom.models.networks.psp import StyleEncoder
from faceloom.tests.golden_adapters.base import Adapter, Unmade, bgr
from torch.nn import functional


class Psp(Adapter):
    pattern = r"psp_"

    def build(self, golden):
        return StyleEncoder()

    def run(self, golden, net, mistake=None):
        x = golden.input("x")
        if mistake == "BGR":
            x = bgr(x)
        elif mistake:
            raise Unmade(mistake)
        return {"codes": net(x)}


class Whole(Adapter):
    pattern = r"fslsd_"

    def build(self, golden):
        shapes = golden.shapes
        edge = max(shape[-1] for key, (shape, _) in shapes["generator"].items() if key.startswith("noises."))
        net = FSLSDNet(edge, shapes["encoder_lmk"]["input_layer.0.weight"][0][1] // 2)
        return {part: getattr(net, part) for part in shapes} | {"whole": net}

    def run(self, golden, nets, mistake=None):
        net, points = nets["whole"], nets["encoder_lmk"].input_layer[0].in_channels // 2
        maps = [self.maps(golden, name, points) for name in ("fslsd.src", "fslsd.tgt")]
        if mistake and mistake.startswith("source/target maps exchanged"):
            maps.reverse()
        maps = torch.cat(maps, 1)
        if mistake == "source/target maps exchanged, on lmk_code":
            return {"lmk_code": net.encoder_lmk(maps)}
        whole = next(name for name in golden.inputs if name.startswith("target_"))
        source, target, picture, mask = (golden.input(name) for name in ("w_source", "w_target", whole, "mask"))
        if mistake == "other source code":
            source = torch.from_numpy(golden.fill.make_input(golden.inputs["w_source"] | {"name": "fslsd.ws2"}))
        elif mistake == "BGR target picture":
            picture = bgr(picture)
        elif mistake and mistake not in ("source/target maps exchanged", "coeff 1", "anti-aliased mask resize",
                                         "mask resized from full size at each level"):
            raise Unmade(mistake)
        if mistake in ("BGR target picture", "anti-aliased mask resize", "mask resized from full size at each level"):
            latents, features = self.right[:2]
        else:
            latents = net.bald_model(net.latents(maps, source, target), 1 if mistake == "coeff 1" else 2)
            features = net.generator(latents)[1][1:]
        old = net.encoder_target(picture) if mistake in (None, "BGR target picture") else self.right[2]
        if mistake is None:
            self.right = latents, features, old
        if mistake == "anti-aliased mask resize":
            mask = functional.interpolate(mask, size=old[0].shape[-2:], mode="bilinear", antialias=True)
        if mistake == "mask resized from full size at each level":
            x = None
            for step, new, kept in zip(net.decoder.decoder, features, old):
                here = functional.interpolate(mask, size=new.shape[-2:], mode="bilinear")
                x = step(torch.lerp(kept, new, here) if x is None else torch.cat((torch.lerp(kept, new, here), x), 1))
            return {"y": x}
        outputs = {"y": net.decoder(features, old, mask), "lmk_code": net.encoder_lmk(maps) if mistake is None else None,
                   "fused_code": latents}
        outputs |= {f"gen_fea_{i}": feature for i, feature in enumerate(features)}
        return outputs | {f"enc_fea_{i}": feature for i, feature in enumerate(old)}

    def maps(self, golden, name, points):
        u = golden.fill._u01(name, 2 * points, "lmk").reshape(points, 2)
        at = torch.from_numpy((40 + 176 * u).astype(int))
        maps = torch.zeros(1, points, 256, 256)
        maps[0, range(points), at[:, 1], at[:, 0]] = 1
        return maps

    def moved(self, golden, mistake):
        return "lmk_code" if mistake.endswith("on lmk_code") else "y"
