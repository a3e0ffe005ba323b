"""Torch networks that somebody else, such as ComfyUI, may move between devices."""

from __future__ import annotations

from typing import Any, Protocol

import torch


class DeviceManager(Protocol):
    """Who decides where torch networks live. ComfyUI's nodes hand in one made of its ModelPatcher; without it there is ``PlainDevices``."""

    def adopt(self, net: torch.nn.Module) -> Any:
        """Take charge of a network that lies on the CPU. Returns what ``ready`` needs; the ``TorchModel`` keeps it alive."""

    def ready(self, handle: Any, memory: int) -> torch.device:
        """See to it that the network is on a device with ``memory`` bytes to spare; returns the device."""


class PlainDevices:
    """Plain torch: everything stays on one device."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def adopt(self, net: torch.nn.Module) -> torch.nn.Module:
        return net

    def ready(self, handle: torch.nn.Module, memory: int) -> torch.device:
        handle.to(self.device)
        return self.device


class TorchModel:
    """A torch network for inference and the manager that moves it."""

    def __init__(self, name: str, net: torch.nn.Module, devices: DeviceManager | None = None) -> None:
        self.name = name
        self.net = net.eval().requires_grad_(False)
        self.devices = devices or PlainDevices()
        self.handle = self.devices.adopt(self.net)

    def ready(self, memory: int = 0) -> tuple[torch.nn.Module, torch.device]:
        """The network, loaded, and the device its inputs must be on. memory: bytes the call will need besides the weights."""
        device = self.devices.ready(self.handle, memory)
        return self.net, device

    def describe(self) -> str:
        """One line for the log and the node."""
        return f"{self.name} on {next(iter(self.net.parameters())).device}"
