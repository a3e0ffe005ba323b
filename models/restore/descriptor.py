"""Restoration networks that spandrel knows, from its descriptors (core's UPSCALE_MODEL is one)."""

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

# What face restorers were trained on.
FACE_EDGE = 512
# Faces that go through together; other networks are promised single pictures only.
BATCH = 4


def _gfpgan(net: torch.nn.Module, pictures: torch.Tensor, fidelity: float) -> torch.Tensor:
    return net(pictures, return_rgb=False, randomize_noise=False)[0]


def _codeformer(net: torch.nn.Module, pictures: torch.Tensor, fidelity: float) -> torch.Tensor:
    return net(pictures, weight=fidelity)[0]


# Networks of -1..1 that spandrel (0.4.2) feeds 0..1 as they are, and that have more to say than its descriptor can: GFPGAN's noise is
# drawn anew at every call unless its stored noise is asked for, and CodeFormer takes a fidelity.
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
        """``[N, S, S, 3]`` to ``[N, T, T, 3]``, 0..1; see ``Restorer``."""
        def run(squares: torch.Tensor, told: Progress) -> torch.Tensor:
            return self._answer(squares, fidelity, told)

        if self._edge is None:
            return restore_squares(run, crops, crops.shape[1], None, None, progress)
        return restore_squares(run, crops, self._edge, "ffhq_512", points, progress)

    def _answer(self, squares: torch.Tensor, fidelity: float, progress: Progress) -> torch.Tensor:
        chunk = BATCH if self._edge else 1
        # Core's own estimate of what such a network needs for one picture (ComfyUI, nodes_upscale_model.py).
        need = squares.shape[1] ** 2 * 3 * 4 * max(self.descriptor.scale, 1) * 384
        net, device = self.model.ready(need * min(chunk, len(squares)))
        dtype = next(net.parameters()).dtype

        def answer(span: range) -> torch.Tensor:
            pictures = squares[span.start : span.stop].movedim(-1, 1).to(device, dtype).contiguous()  # GFPGAN views its features flat
            with torch.inference_mode():
                made = self._call(net, pictures, fidelity)
            return made.to(torch.float32).movedim(1, -1).clamp(0, 1)  # a clone, usable outside of inference mode

        return torch.cat(run_chunks(answer, range(len(squares)), chunk, progress))

    def _call(self, net: torch.nn.Module, pictures: torch.Tensor, fidelity: float) -> torch.Tensor:
        if self._signed is None:
            return self.descriptor(pictures)
        return self._signed(net, pictures * 2 - 1, fidelity) / 2 + 0.5


def restorer_from_descriptor(descriptor: Any, devices: DeviceManager | None = None, name: str | None = None) -> DescriptorRestorer:
    """A restorer from a spandrel ``ImageModelDescriptor``. ``devices`` moves its network (``descriptor.model``)."""
    if getattr(descriptor, "purpose", None) not in ("FaceSR", "SR", "Restoration") or descriptor.input_channels != 3:
        raise FaceLoomError("This upscale model does not turn one colour picture into another; connect a face restorer or an upscaler.")
    return DescriptorRestorer(name or str(descriptor.architecture.name), descriptor, devices)
