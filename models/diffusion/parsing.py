"""Face parsers whose scores can be differentiated."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FaceLoomError
from ..files.catalogue import NetContract
from ..files.onnx import OnnxFile
from ..runtime.as_torch import torch_from_onnx

_SIZE = 512


def differentiable_parser(parser: Any) -> Callable[[Tensor], Tensor]:
    """Pictures ``[N, 3, H, W]`` 0..1 to the parser's scores ``[N, 19, n, n]`` with a gradient, by weights of its own."""
    model, contract = getattr(parser, "model", None), getattr(parser, "contract", None)
    with torch.inference_mode(False):
        if isinstance(getattr(model, "net", None), torch.nn.Module):
            return Scores(copy.deepcopy(model.net), contract)
        if isinstance(getattr(model, "file", None), OnnxFile):
            return Scores(torch_from_onnx(model.file, model.name, getattr(parser, "_output", 0)), contract)
    raise FaceLoomError("expression_strength needs a parsing network; connect one from Load Face Parser or set it to 0.")


class Scores:
    """A parsing network behind its contract."""

    def __init__(self, net: torch.nn.Module, contract: NetContract) -> None:
        self.net, self.contract = net.eval().requires_grad_(False), contract

    def __call__(self, pictures: Tensor) -> Tensor:
        size = self.contract.size or _SIZE
        pictures = F.interpolate(pictures, (size, size), mode="bilinear", align_corners=False, antialias=size < pictures.shape[-1])
        if self.contract.color == "bgr":
            pictures = pictures.flip(1)
        mean, std = (pictures.new_tensor(values)[:, None, None] for values in (self.contract.mean, self.contract.std))
        self.net.to(pictures.device)
        return self.net((pictures - mean) / std)
