"""Chooses onnxruntime's execution providers, and tells the user why a session runs on a slower one than need be."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import FaceLoomError
from ..options.providers import PROVIDERS
from .memory import mentions_memory

log = logging.getLogger("faceloom")

# What "auto" tries, in this order.
AUTO = ("cuda", "rocm", "migraphx", "directml", "coreml", "openvino")

# Providers that compute in a graphics card's own memory, and those of them that number the cards as torch does.
CARD_PROVIDERS = ("cuda", "tensorrt", "rocm", "migraphx", "directml")
NUMBERED_PROVIDERS = ("cuda", "tensorrt", "rocm", "migraphx")

# What to do when a provider is in the installed build but does not load, as the end of a sentence.
REMEDIES: Mapping[str, str] = {
    "cuda": "install the CUDA and cuDNN libraries that onnxruntime-gpu asks for, e.g. `pip install onnxruntime-gpu[cuda,cudnn]`",
    "tensorrt": "install TensorRT, e.g. `pip install tensorrt`, or choose cuda",
    "rocm": "install the ROCm version that this onnxruntime was built for",
    "migraphx": "install the ROCm version that this onnxruntime was built for",
    "directml": "update the graphics driver",
    "coreml": "choose cpu for this model",
    "openvino": "install the OpenVINO version that this onnxruntime was built for",
}
MEMORY_REMEDY = "close other programs that use the graphics card, or take a smaller model, and load it again"

# The package whose build supports a provider.
PACKAGES: Mapping[str, str] = {
    "cuda": "onnxruntime-gpu",
    "tensorrt": "onnxruntime-gpu",
    "rocm": "onnxruntime-migraphx",
    "migraphx": "onnxruntime-migraphx",
    "directml": "onnxruntime-directml",
    "openvino": "onnxruntime-openvino",
}


def onnxruntime():
    """Import onnxruntime. FaceLoomError, which says how to install it, where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise FaceLoomError(
            "This model needs onnxruntime: `pip install onnxruntime-gpu` for NVIDIA cards, `pip install onnxruntime` for everything else "
            "(never both)."
        ) from error
    return onnxruntime


def short_name(provider: str) -> str:
    """Return the short name of a provider: ``cuda`` for ``CUDAExecutionProvider``. Other names are returned as they are."""
    return next((short for short, full in PROVIDERS.items() if full == provider), provider)


def providers_to_try(request: str | Sequence[str], available: Sequence[str]) -> list[str]:
    """List the full names of the providers to try, best first, the CPU last.

    request: ``auto``, a short or full name, or several; TensorRT is followed by CUDA. available: full names of those in the installed
    build. FaceLoomError for a name that onnxruntime does not have.
    """
    requested = [request] if isinstance(request, str) else list(request)
    names = [other for name in requested for other in ((name, "cuda") if short_name(name) == "tensorrt" else (name,))]
    full_names = []
    for name in names:
        if name == "auto":
            full_names += [PROVIDERS[short] for short in AUTO if PROVIDERS[short] in available]
        elif PROVIDERS.get(name, name) in available:
            full_names.append(PROVIDERS.get(name, name))
        elif name not in PROVIDERS and name not in PROVIDERS.values():
            raise FaceLoomError(f"There is no execution provider called {name}; use auto or one of {', '.join(PROVIDERS)}.")
    return list(dict.fromkeys([*full_names, PROVIDERS["cpu"]]))


@dataclass(frozen=True)
class Machine:
    """What torch knows of this machine. gpu: ``cuda`` or ``rocm``, the library of a graphics card that torch can use; "" without one."""

    gpu: str

    @staticmethod
    def here() -> Machine:
        """Ask torch about this machine."""
        import torch

        if torch.cuda.is_available():
            return Machine("rocm" if torch.version.hip else "cuda")
        return Machine("")


def fall_back_warning(request: str | Sequence[str], available: Sequence[str], used: str, tried: Mapping[str, str], machine: Machine
                      ) -> str:
    """Tell why a session runs on a slower provider than need be, and what to do; "" where it does not.

    request, available: as for ``providers_to_try``. used: short name of the provider in use. tried: by short name the reason why each
    better provider did not load.
    """
    if tried:
        short, reason = next(iter(tried.items()))
        remedy = MEMORY_REMEDY if mentions_memory(reason) else REMEDIES.get(short, "choose another provider")
        return f"onnxruntime runs on {used} because {short} did not load ({reason}): {remedy}."
    requested = [short_name(PROVIDERS.get(name, name)) for name in ([request] if isinstance(request, str) else request)]
    if used in requested or (used != "cpu" and "auto" in requested):
        return ""
    not_in_build = (name for name in requested if PROVIDERS.get(name) not in (None, *available))
    expected = machine.gpu if requested == ["auto"] else next(not_in_build, "")
    if expected not in PACKAGES:
        return ""
    return (
        f"onnxruntime runs on {used} because the installed build has no {expected} support: "
        f"`pip uninstall onnxruntime` and then `pip install {PACKAGES[expected]}`."
    )
