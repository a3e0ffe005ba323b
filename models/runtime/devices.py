"""Holds torch networks that somebody else, such as ComfyUI, may move between devices."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

import torch

Net = TypeVar("Net", bound=torch.nn.Module)


class DeviceManager(Protocol):
    """Decides on which device torch networks are. ComfyUI's nodes pass one that uses its ModelPatcher; the default is ``PlainDevices``."""

    def adopt(self, net: torch.nn.Module) -> Any:
        """Take charge of a network that is on the CPU. Returns the handle that ``ready`` needs; the ``TorchModel`` keeps it alive."""

    def ready(self, handle: Any, memory: int) -> torch.device:
        """Move the network to a device with ``memory`` bytes to spare, if it is not there. Returns the device."""
        ...


class PlainDevices:
    """Keeps every network on one device."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def adopt(self, net: torch.nn.Module) -> torch.nn.Module:
        return net

    def ready(self, handle: torch.nn.Module, memory: int) -> torch.device:
        handle.to(self.device)
        return self.device


class TorchModel(Generic[Net]):
    """A torch network for inference, and the manager that moves it.

    name: for messages. devices: the manager, ``PlainDevices`` without one. handle: what the manager knows the network by.
    """

    def __init__(self, name: str, net: Net, devices: DeviceManager | None = None) -> None:
        self.name = name
        self.net = net.eval().requires_grad_(False)
        self.devices = devices or PlainDevices()
        self.handle = self.devices.adopt(self.net)

    def ready(self, memory: int = 0) -> tuple[Net, torch.device]:
        """Load the network on its device. Returns it and the device its inputs must be on.

        memory: bytes that the call needs besides the weights.
        """
        device = self.devices.ready(self.handle, memory)
        return self.net, device

    def describe(self) -> str:
        """Return one line for the log and the node: ``ghost.safetensors on cuda:0``."""
        return f"{self.name} on {next(iter(self.net.parameters())).device}"
