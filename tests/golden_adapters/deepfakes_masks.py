"""faceswap's mask networks."""

from __future__ import annotations

import re

from faceloom.models.networks.bisenet import BiSeNet, original_key
from faceloom.models.networks.deepfakes_masks import FaceFCN, FaceUNet
from faceloom.tests.golden_adapters.base import Adapter, Unmade, bgr
from torch import nn


class Published(nn.Module):
    """BiSeNet with the names faceswap's files have; our own have one layer of the heads without a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = BiSeNet()

    def state_dict(self, *args, **options):
        state = {re.sub(r"^(conv_out\d*)\.conv\.", r"\1.conv1.", key): value for key, value in self.net.state_dict().items()}
        assert {original_key(key) for key in state} == set(self.net.state_dict())
        return state


class MaskNet(Adapter):
    pattern = r"faceswap_mask_"

    def build(self, golden):
        kind = golden.name.removeprefix("faceswap_mask_")
        return {"unet_dfl": FaceUNet, "vgg_clear": lambda: FaceFCN(2, "_r"), "vgg_obstructed": lambda: FaceFCN(21), "bisenet_fp": Published
                }[kind]()

    def run(self, golden, net, mistake=None):
        x = golden.input("x")
        if "by 100" in golden.inputs["x"]["then"]:
            x = x * 100
        if mistake == "channels reversed":
            x = bgr(x)
        elif mistake:
            raise Unmade(mistake)
        if isinstance(net, Published):
            return {"out": net.net(x)}
        out = net(x)
        return {"out": out.transpose(0, 1) if isinstance(net, FaceFCN) else out}
