"""The face parser BiSeNet that comes as a torch checkpoint."""

from __future__ import annotations

import torch
from torch import nn

from ..files.catalogue import NetContract, as_net_contract, catalogue
from ..files.contents import Contents
from ..files.kinds import check_kind, kind_of_weights
from ..networks.bisenet import build_bisenet
from ..progress import Progress, silent
from ..runtime.devices import DeviceManager, TorchModel
from ..runtime.input import to_network_input
from ..runtime.memory import run_chunks
from ..runtime.method import Loading, Method, any_file
from .labels import parse_crops

# Activations of one crop of 512×512 pixels at full precision.
BYTES_PER_CROP = 300 << 20
CROPS_PER_BATCH = 4


class BiSeNetParser:
    """A ``Parser`` around the torch network. Make it with ``load_parser``."""

    def __init__(self, name: str, net: nn.Module, contract: NetContract, devices: DeviceManager | None = None) -> None:
        self.name = name
        self.model = TorchModel(name, net, devices)
        self.contract = contract

    def parse(self, crops: torch.Tensor, progress: Progress = silent) -> torch.Tensor:
        """Label crops ``[N, S, S, 3]`` 0..1 as ``[N, S, S]`` uint8, indices into ``REGIONS``."""
        return parse_crops(self._scores, crops, self.contract.fixed_size, progress)

    def _scores(self, crops: torch.Tensor, progress: Progress) -> torch.Tensor:
        """Run the network on crops ``[n, S, S, 3]``: scores ``[n, 19, S, S]``."""
        net, device = self.model.ready(BYTES_PER_CROP * min(CROPS_PER_BATCH, len(crops)))
        dtype = next(net.parameters()).dtype
        values = to_network_input(crops, self.contract)

        def scores(span: range) -> torch.Tensor:
            with torch.inference_mode():
                return net(values[span.start : span.stop].to(device, dtype)).to(torch.float32)

        return torch.cat(run_chunks(scores, range(len(values)), CROPS_PER_BATCH, progress))


def _open(file: Contents, loading: Loading) -> BiSeNetParser:
    check_kind(file.path.name, "parser", kind_of_weights(file.weights) or "parser")
    contract = as_net_contract(catalogue()["79999_iter"].contract)
    return BiSeNetParser(file.name, build_bisenet(file.weights, file.path.name), contract, loading.devices)


METHOD = Method("BiSeNet", kind="parser", suffixes=(".pth", ".safetensors"), recognizes=any_file, open=_open)
