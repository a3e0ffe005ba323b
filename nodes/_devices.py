"""ComfyUI's memory management: torch networks belong to its model patchers; for ONNX sessions, which it cannot see, it makes room."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import torch

from ..models.runtime.devices import TorchModel
from ..models.runtime.method import HasModel


class ComfyDevices:
    """The ``runtime.DeviceManager`` that lets ComfyUI load, offload and free a network. patcher: one that has charge of it already."""

    def __init__(self, patcher=None) -> None:
        self._patcher = patcher

    def adopt(self, net: torch.nn.Module):
        """The network's patcher. ComfyUI only keeps a weak reference to it, so it lives as long as what was loaded."""
        if self._patcher is not None:
            return self._patcher
        # ComfyUI binds another class to this name when it turns on dynamic memory.
        return comfy.model_patcher.CoreModelPatcher(net, load_device=comfy.model_management.get_torch_device(),
                                                    offload_device=comfy.model_management.unet_offload_device())

    def ready(self, handle, memory: int) -> torch.device:
        """The device of the network, which lies there whole, with ``memory`` bytes to spare."""
        comfy.model_management.load_models_gpu([handle], memory_required=memory, force_full_load=True)
        return handle.load_device


def patcher_of(upscale_model):
    """Returns the patcher that ComfyUI's loader of upscale models gave its descriptor; None in a ComfyUI that has none."""
    return getattr(upscale_model, "patcher", None)


def half() -> bool:
    """Whether ComfyUI has networks that allow it run in float16 on its device."""
    return comfy.model_management.should_use_fp16(comfy.model_management.get_torch_device())


def make_room(size: int | None) -> None:
    """Unload what ComfyUI must so that onnxruntime can have ``size`` bytes of the graphics card; None: everything. It is registered as
    ``memory.MemoryFreer``."""
    device = comfy.model_management.get_torch_device()
    if comfy.model_management.is_device_cpu(device):
        return
    wanted = 1e30 if size is None else size + comfy.model_management.extra_reserved_memory()
    comfy.model_management.free_memory(wanted, device)
    free, kept = comfy.model_management.get_free_memory(device, torch_free_too=True)
    if free - kept < wanted:  # to ComfyUI what torch keeps for later is free, but only torch can have it
        comfy.model_management.soft_empty_cache()


def show_patcher(loaded):
    """Returns ``loaded`` with its torch network's patcher where ComfyUI's caches and its tracker of models in use look for it."""
    if isinstance(loaded, HasModel) and isinstance(loaded.model, TorchModel):
        loaded.patcher = loaded.model.handle
    return loaded
