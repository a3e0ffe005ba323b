"""Face parsers whose scores have a gradient, for expression guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FaceLoomError
from ..files.catalogue import NetContract
from ..parse.onnx import OnnxParser
from ..runtime.as_torch import copy_with_gradient
from ..runtime.input import normalize_channels

_DEFAULT_SIZE = 512


def differentiable_parser(parser: Any) -> Callable[[Tensor], Tensor]:
    """Return the parser as a function with a gradient, which has weights of its own: crops ``[N, 3, H, W]`` 0..1 to scores
    ``[N, 19, n, n]``.

    Torch networks are copied and ONNX files converted; a parser without a network is an error.
    """
    net = copy_with_gradient(parser, parser.scores_output if isinstance(parser, OnnxParser) else 0)
    if net is None:
        raise FaceLoomError("expression_strength needs a parsing network; connect one from Load Face Parser or set it to 0.")
    return ParserScores(net, parser.contract)


class ParserScores:
    """A parsing network that is given crops ``[N, 3, H, W]`` 0..1 of any size, in the size, color order and range of its contract."""

    def __init__(self, net: torch.nn.Module, contract: NetContract) -> None:
        self.net, self.contract = net.eval().requires_grad_(False), contract

    def __call__(self, crops: Tensor) -> Tensor:
        size = self.contract.size or _DEFAULT_SIZE
        crops = F.interpolate(crops, (size, size), mode="bilinear", align_corners=False, antialias=size < crops.shape[-1])
        if self.contract.color == "bgr":
            crops = crops.flip(1)
        self.net.to(crops.device)
        return self.net(normalize_channels(crops, self.contract.mean, self.contract.std))
