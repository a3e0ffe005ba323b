"""Which of onnxruntime's execution providers a session really runs on, and what to tell the user about it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import FaceLoomError
from .memory import mentions_memory

log = logging.getLogger("faceloom")

# Short names, in the order "auto" tries them. TensorRT spends minutes on building an engine and so is only used when asked for.
PROVIDERS: Mapping[str, str] = {
    "cuda": "CUDAExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
AUTO = ("cuda", "rocm", "migraphx", "directml", "coreml", "openvino")

# Those that compute in a graphics card's own memory, and those of them that count cards as torch does.
CARD_PROVIDERS = ("cuda", "tensorrt", "rocm", "migraphx", "directml")
NUMBERED_PROVIDERS = ("cuda", "tensorrt", "rocm", "migraphx")

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

PACKAGES: Mapping[str, str] = {
    "cuda": "onnxruntime-gpu",
    "tensorrt": "onnxruntime-gpu",
    "rocm": "onnxruntime-migraphx",
    "migraphx": "onnxruntime-migraphx",
    "directml": "onnxruntime-directml",
    "openvino": "onnxruntime-openvino",
}


def onnxruntime():
    """The library, or one sentence on how to get it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise FaceLoomError(
            "This model needs onnxruntime: `pip install onnxruntime-gpu` for NVIDIA cards, `pip install onnxruntime` for everything else "
            "(never both)."
        ) from error
    return onnxruntime


def short_name(provider: str) -> str:
    """``CUDAExecutionProvider`` → ``cuda``."""
    return next((short for short, full in PROVIDERS.items() if full == provider), provider)


def providers_to_try(request: str | Sequence[str], there: Sequence[str]) -> list[str]:
    """Full names to try, best first, CPU last. request: ``auto``, a short or full name, or several; ``there``: what the build offers."""
    wanted = [request] if isinstance(request, str) else list(request)
    wanted = [other for name in wanted for other in ((name, "cuda") if short_name(name) == "tensorrt" else (name,))]
    full = []
    for name in wanted:
        if name == "auto":
            full += [PROVIDERS[short] for short in AUTO if PROVIDERS[short] in there]
        elif PROVIDERS.get(name, name) in there:
            full.append(PROVIDERS.get(name, name))
        elif name not in PROVIDERS and name not in PROVIDERS.values():
            raise FaceLoomError(f"There is no execution provider called {name}; use auto or one of {', '.join(PROVIDERS)}.")
    return list(dict.fromkeys([*full, PROVIDERS["cpu"]]))


@dataclass(frozen=True)
class Machine:
    """What decides whether running on the CPU is a surprise: the graphics library torch was built for, or ""."""

    gpu: str

    @staticmethod
    def here() -> Machine:
        """This machine, as torch sees it."""
        import torch

        if torch.cuda.is_available():
            return Machine("rocm" if torch.version.hip else "cuda")
        return Machine("")


def fall_back_warning(request: str | Sequence[str], there: Sequence[str], used: str, tried: Mapping[str, str], machine: Machine) -> str:
    """What to tell a user whose session runs on something slower than need be; "" when all is as it should be.

    used: short name. tried: reason by short name for each better provider that did not load.
    """
    if tried:
        short, reason = next(iter(tried.items()))
        cure = MEMORY_REMEDY if mentions_memory(reason) else REMEDIES.get(short, "choose another provider")
        return f"onnxruntime runs on {used} because {short} did not load ({reason}): {cure}."
    asked = [short_name(PROVIDERS.get(name, name)) for name in ([request] if isinstance(request, str) else request)]
    if used in asked or (used != "cpu" and "auto" in asked):
        return ""
    expected = machine.gpu if asked == ["auto"] else next((name for name in asked if PROVIDERS.get(name) not in (None, *there)), "")
    if expected not in PACKAGES:
        return ""
    return (
        f"onnxruntime runs on {used} because the installed build has no {expected} support: "
        f"`pip uninstall onnxruntime` and then `pip install {PACKAGES[expected]}`."
    )
