"""Restores with the networks that spandrel knows, from its descriptors (core's UPSCALE_MODEL is one)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from ..errors import FaceLoomError
from ..progress import Progress, silent
from ..runtime.devices import DeviceManager, TorchModel
from ..runtime.memory import run_chunks
from .square import restore_squares

# Edge in pixels of what face restorers were trained on.
FACE_EDGE = 512
# How many faces go through a face restorer together; of other networks spandrel promises single pictures only.
FACES_AT_ONCE = 4


def _gfpgan(net: torch.nn.Module, planes: torch.Tensor, fidelity: float) -> torch.Tensor:
    return net(planes, return_rgb=False, randomize_noise=False)[0]


def _codeformer(net: torch.nn.Module, planes: torch.Tensor, fidelity: float) -> torch.Tensor:
    return net(planes, weight=fidelity)[0]


# Networks that spandrel's descriptor (0.4.2) cannot run as they should be: they take -1..1 and the descriptor feeds 0..1, GFPGAN draws its
# noise anew at every call unless its stored noise is asked for, and CodeFormer takes a fidelity.
SIGNED: Mapping[str, Callable[[torch.nn.Module, torch.Tensor, float], torch.Tensor]] = {"GFPGAN": _gfpgan, "CodeFormer": _codeformer}


class DescriptorRestorer:
    """A ``Restorer`` around a spandrel descriptor. Make it with ``restorer_from_descriptor`` or ``load_restorer``.

    Face restorers see the crop at 512 pixels; other networks (upscalers, denoisers) see it at its own size.
    """

    def __init__(self, name: str, descriptor: Any, devices: DeviceManager | None = None) -> None:
        self.name = name
        self.descriptor = descriptor
        self.model = TorchModel(name, descriptor.model, devices)
        self._edge = FACE_EDGE if descriptor.purpose == "FaceSR" else None
        self._signed = SIGNED.get(str(descriptor.architecture.id))

    @property
    def has_fidelity(self) -> bool:
        return self._signed is _codeformer

    def restore(self, crops: torch.Tensor, fidelity: float, progress: Progress = silent, points: np.ndarray | None = None
                ) -> torch.Tensor:
        """Restore crops ``[N, S, S, 3]`` to ``[N, T, T, 3]``, 0..1; see ``Restorer``."""
        def run(squares: torch.Tensor, progress: Progress) -> torch.Tensor:
            return self._run_network(squares, fidelity, progress)

        if self._edge is None:
            return restore_squares(run, crops, crops.shape[1], None, None, progress)
        return restore_squares(run, crops, self._edge, "ffhq_512", points, progress)

    def _run_network(self, squares: torch.Tensor, fidelity: float, progress: Progress) -> torch.Tensor:
        """Run squares ``[n, E, E, 3]`` through the network in chunks: ``[n, T, T, 3]`` float32 0..1."""
        chunk = FACES_AT_ONCE if self._edge else 1
        # Core's own estimate of what such a network needs for one picture (ComfyUI, nodes_upscale_model.py).
        need = squares.shape[1] ** 2 * 3 * 4 * max(self.descriptor.scale, 1) * 384
        net, device = self.model.ready(need * min(chunk, len(squares)))
        dtype = next(net.parameters()).dtype

        def run_chunk(span: range) -> torch.Tensor:
            planes = squares[span.start : span.stop].movedim(-1, 1).to(device, dtype).contiguous()  # GFPGAN views its features flat
            with torch.inference_mode():
                output = self._call(net, planes, fidelity)
            return output.to(torch.float32).movedim(1, -1).clamp(0, 1)  # a clone, usable outside of inference mode

        return torch.cat(run_chunks(run_chunk, range(len(squares)), chunk, progress))

    def _call(self, net: torch.nn.Module, planes: torch.Tensor, fidelity: float) -> torch.Tensor:
        """Run ``[n, 3, E, E]`` 0..1 through the network, or through its descriptor: ``[n, 3, T, T]`` 0..1."""
        if self._signed is None:
            return self.descriptor(planes)
        return self._signed(net, planes * 2 - 1, fidelity) / 2 + 0.5


def restorer_from_descriptor(descriptor: Any, devices: DeviceManager | None = None, name: str | None = None) -> DescriptorRestorer:
    """Make a restorer of a spandrel ``ImageModelDescriptor``. devices: moves its network (``descriptor.model``).

    FaceLoomError where the network does not turn one colour picture into another.
    """
    if getattr(descriptor, "purpose", None) not in ("FaceSR", "SR", "Restoration") or descriptor.input_channels != 3:
        raise FaceLoomError("This upscale model does not turn one colour picture into another; connect a face restorer or an upscaler.")
    return DescriptorRestorer(name or str(descriptor.architecture.name), descriptor, devices)
