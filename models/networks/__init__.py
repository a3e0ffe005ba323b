"""Networks as torch modules whose weights have the published checkpoints' key names; ``build`` puts weights into one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from ..errors import FaceLoomError

__all__ = ["Network", "build", "conv3", "first_names", "shortcut", "without_onednn_for_small_maps"]

Network = TypeVar("Network", bound=nn.Module)

# Maps of at most this many pixels, all of a batch together, are convolved without oneDNN.
FEW_PIXELS = 64


def build(make: Callable[[], Network], weights: Mapping[str, torch.Tensor], name: str, *, prefix: str = "",
          dtype: torch.dtype = torch.float32) -> Network:
    """Build the network ``make()`` around ``weights``, ready for inference, without a second copy of them in memory.

    prefix: only keys that begin with it are taken, and it is cut off. name: what errors call the file. Weights that are missing,
    superfluous or of another shape raise an error that names some of them; counters of training steps may be missing.
    """
    with torch.device("meta"):
        net = make()
    given = {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
    wanted = net.state_dict()
    counters = {key: torch.zeros((), dtype=torch.int64) for key in wanted if key.endswith("num_batches_tracked")}
    given = counters | given
    missing = [key for key in wanted if key not in given]
    if missing:
        whole = "another model, or only part of one" if len(missing) < len(wanted) else "another model"
        raise FaceLoomError(f"{name} lacks {len(missing)} of {len(wanted)} weights ({first_names(missing)}); it is {whole}.")
    extra = [key for key in given if key not in wanted]
    if extra:
        raise FaceLoomError(f"{name} holds {len(extra)} weights this network does not have ({first_names(extra)}); it is another model.")
    differing = [key for key in wanted if given[key].shape != wanted[key].shape]
    if differing:
        shapes = first_names([f"{key} is {_shape_text(given[key])}, not {_shape_text(wanted[key])}" for key in differing])
        raise FaceLoomError(f"{name} is another variant of its model: {shapes}.")
    net.load_state_dict({key: value.to(dtype) if value.is_floating_point() else value for key, value in given.items()}, assign=True)
    return net.eval().requires_grad_(False)


def first_names(names: Sequence[str]) -> str:
    """Join up to three names for an error message."""
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _shape_text(tensor: torch.Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "one number"


def conv3(in_channels: int, out_channels: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A 3×3 convolution with a padding of one pixel."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=bias)


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """A residual block's 1×1 convolution and normalisation beside its main path, or None where the shape does not change."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


@contextmanager
def without_onednn_for_small_maps(x: torch.Tensor) -> Iterator[None]:
    """Convolve maps ``x`` ``[N, C, H, W]`` of few pixels on a processor without oneDNN, by plain matrix products.

    oneDNN brings the kernels into its own memory layout at every call, which takes up to ten times as long as the convolution where
    kernels are large and pixels few.
    """
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = before and int(x[:, 0].numel()) > FEW_PIXELS
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before
