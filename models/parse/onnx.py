"""Parsing networks of BiSeNet's kind that come as ONNX files."""

from __future__ import annotations

import torch

from ..errors import FaceLoomError
from ..files.catalogue import NetContract, as_net_contract, catalogue
from ..files.contents import Contents
from ..progress import Progress, silent
from ..runtime.input import describe_ports, find_image_input, to_network_input
from ..runtime.method import Loading, Method, has_suffix
from ..runtime.onnx import OnnxModel, open_session
from .labels import CELEBA_CLASSES, parse_crops

# A file the catalogue does not know is held to the contract of the parser that most people have.
USUAL = "bisenet_resnet_34"


class OnnxParser:
    """A ``Parser`` around one network. Make it with ``load_parser``."""

    def __init__(self, name: str, model: OnnxModel, contract: NetContract, exact: bool = True) -> None:
        self.name = name
        self.model = model
        self._input, self.contract = find_image_input(model, contract, exact)
        self.scores_output = _find_scores_output(model)

    def parse(self, crops: torch.Tensor, progress: Progress = silent) -> torch.Tensor:
        """Label crops ``[N, S, S, 3]`` 0..1 as ``[N, S, S]`` uint8, indices into ``REGIONS``."""
        return parse_crops(self._scores, crops, self.contract.fixed_size, progress)

    def _scores(self, crops: torch.Tensor, progress: Progress) -> torch.Tensor:
        """Run the network on crops ``[n, S, S, 3]``: scores ``[n, 19, h, w]``."""
        outputs = self.model.run({self._input.name: to_network_input(crops, self.contract)}, progress)
        scores = outputs[self.scores_output]
        if scores.ndim != 4 or scores.shape[1] != len(CELEBA_CLASSES):
            raise FaceLoomError(f"{self.name} returned {tuple(scores.shape)}, not scores of the {len(CELEBA_CLASSES)} classes of "
                                "CelebAMask-HQ.")
        return scores


def _find_scores_output(model: OnnxModel) -> int:
    """Return the index of the first output that can be scores of the classes; in some exports training heads come after it."""
    for number, port in enumerate(model.outputs):
        if port.shape is None or (len(port.shape) == 4 and port.shape[1] in (None, len(CELEBA_CLASSES))):
            return number
    classes = f"{len(CELEBA_CLASSES)} classes of CelebAMask-HQ"
    raise FaceLoomError(f"{model.name} should return scores of the {classes}, but returns {describe_ports(model.outputs)}.")


def _open(file: Contents, loading: Loading) -> OnnxParser:
    model = open_session(file.path, providers=loading.providers, kind="parser")
    contract = file.row.contract if file.row else None
    return OnnxParser(file.name, model, as_net_contract(contract or catalogue()[USUAL].contract), exact=contract is not None)


METHOD = Method("ONNX", kind="parser", suffixes=(".onnx",), recognizes=has_suffix(".onnx"), open=_open)
