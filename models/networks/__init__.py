"""Layers and networks that several systems share, with the published checkpoints' own key names, and how weights get into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import FaceLoomError

__all__ = ["build", "conv3", "weights_as_they_lie"]

FEW_PIXELS = 64


def build(make: Callable[[], nn.Module], weights: Mapping[str, torch.Tensor], name: str, *, prefix: str = "",
          dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network ``make()`` with ``weights`` (their own storage, no second copy), ready for inference.

    prefix: take only the keys that begin with it, without it. Weights that are missing, too many or of another shape are an error that
    names ``name`` and some of them; counters of training steps may be missing.
    """
    with torch.device("meta"):
        net = make()
    own = {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
    wanted = net.state_dict()
    counters = {key: torch.zeros((), dtype=torch.int64) for key in wanted if key.endswith("num_batches_tracked")}
    own = counters | own
    missing = [key for key in wanted if key not in own]
    if missing:
        whole = "another model, or only part of one" if len(missing) < len(wanted) else "another model"
        raise FaceLoomError(f"{name} lacks {len(missing)} of {len(wanted)} weights ({_some(missing)}); it is {whole}.")
    extra = [key for key in own if key not in wanted]
    if extra:
        raise FaceLoomError(f"{name} holds {len(extra)} weights this network does not have ({_some(extra)}); it is another model.")
    shapes = [f"{key} is {_size(own[key])}, not {_size(wanted[key])}" for key in wanted if own[key].shape != wanted[key].shape]
    if shapes:
        raise FaceLoomError(f"{name} is another variant of its model: {_some(shapes)}.")
    net.load_state_dict({key: value.to(dtype) if value.is_floating_point() else value for key, value in own.items()}, assign=True)
    return net.eval().requires_grad_(False)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _size(tensor: torch.Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "one number"


def conv3(inner: int, outer: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A padded 3×3 convolution."""
    return nn.Conv2d(inner, outer, 3, stride, 1, bias=bias)


@contextmanager
def without_onednn_for_small_maps(x: torch.Tensor) -> Iterator[None]:
    """Convolve maps ``x`` ``[N, C, H, W]`` of few pixels on a processor by plain matrix products.

    oneDNN lays the kernels out anew for every call, which for large kernels and few pixels takes up to ten times as long as the sums.
    """
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = before and int(x[:, 0].numel()) > FEW_PIXELS
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before
