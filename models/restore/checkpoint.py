"""Face restorers from checkpoints, of every network that spandrel knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import FaceLoomError
from ..files.contents import Contents
from ..files.kinds import check_kind, kind_of_weights
from ..runtime.method import Loading, Method, any_file
from .descriptor import DescriptorRestorer, restorer_from_descriptor
from .restoreformer import NEW_ATTENTION, load_plus_plus, network_tensors

# A tensor that only CodeFormer has. Because of its licence CodeFormer is in another package than spandrel itself.
CODEFORMER_TENSOR = "position_emb"


def _open(file: Contents, loading: Loading) -> DescriptorRestorer:
    return restorer_from_descriptor(_descriptor(file.path.name, file.weights), loading.devices, file.name)


def _descriptor(name: str, weights: Mapping[str, torch.Tensor]) -> Any:
    """Open a checkpoint with spandrel: its ``ImageModelDescriptor``. name: the file, for errors."""
    weights = network_tensors(weights)
    check_kind(name, "restorer", kind_of_weights(weights) or "restorer")
    try:
        import spandrel
    except ImportError as error:
        raise FaceLoomError(f"{name} needs the package spandrel: run `pip install spandrel`, or use the model's ONNX file.") from error
    if CODEFORMER_TENSOR in weights:
        try:
            import spandrel_extra_arches
        except ImportError as error:
            how = "run `pip install spandrel_extra_arches`, or use codeformer.onnx"
            raise FaceLoomError(f"{name} needs the package spandrel_extra_arches: {how}.") from error
        spandrel_extra_arches.install(ignore_duplicates=True)
    try:
        loader = spandrel.ModelLoader()
        if any(key.startswith(NEW_ATTENTION) for key in weights):
            return load_plus_plus(loader, weights)
        return loader.load_from_state_dict(weights)
    except spandrel.UnsupportedModelError as error:
        raise FaceLoomError(f"{name} holds a network that spandrel does not know; use the model's ONNX file.") from error
    except (RuntimeError, KeyError, ValueError) as error:  # tensors missing, or of other shapes
        raise FaceLoomError(f"{name} is not a whole checkpoint of its network; fetch it again.") from error


METHOD = Method("spandrel", kind="restorer", suffixes=(".pth", ".ckpt", ".safetensors"), recognizes=any_file, open=_open)
