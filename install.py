"""Run once by ComfyUI-Manager after requirements.txt. It installs nothing: it looks at what is there and says what is missing.

FaceLoom works without onnxruntime; neural swap, restore and detector files need one. The flavours (CPU, CUDA, DirectML ...) share one
import name and overwrite each other, and other packs bring their own, so choosing is left to whoever owns the environment.
"""

from __future__ import annotations

import sys
from importlib.metadata import packages_distributions
from importlib.util import find_spec

# import name -> what to install; the lines of requirements.txt
REQUIRED = {
    "PIL": "pillow",
    "scipy": "scipy",
    "safetensors": "safetensors",
    "tqdm": "tqdm",
    "dlib": "dlib" if sys.platform == "darwin" and sys.version_info >= (3, 13) else "dlib-bin",
    "face_recognition_models": "face_recognition_models",
}


def pip(package: str) -> str:
    """The line that installs ``package`` into this very Python."""
    return f'"{sys.executable}" -m pip install {package}'


def flavours() -> list[str]:
    """The distributions that bring ``onnxruntime``, whatever they are called."""
    return sorted(set(packages_distributions().get("onnxruntime", ())))


def usable() -> bool:
    """Whether it can be imported: uninstalling one of two flavours leaves half of the other."""
    found = find_spec("onnxruntime")
    return found is not None and found.origin is not None


def fitting_flavour(platform: str, cuda: bool, hip: bool) -> str:
    """The onnxruntime build for this machine. ``cuda`` and ``hip``: what torch was built for."""
    if cuda:
        return "onnxruntime-gpu"
    if platform == "win32":
        return "onnxruntime-directml"
    return "onnxruntime-migraphx" if hip and platform == "linux" else "onnxruntime"


def torch_build() -> tuple[bool, bool]:
    """Whether ComfyUI's torch is a CUDA and whether it is a ROCm build."""
    try:
        from torch import version
    except ImportError:
        return False, False
    return bool(getattr(version, "cuda", None)), bool(getattr(version, "hip", None))


def advice() -> list[str]:
    """What there is to say, one line each; empty when all is well."""
    lines = [f"FaceLoom: {package} is missing; run: {pip(package)}" for module, package in REQUIRED.items() if find_spec(module) is None]
    here = flavours()
    if len(here) > 1:
        lines.append(f"FaceLoom: {' and '.join(here)} overwrite each other; uninstall all of them, then install one.")
    elif here and not usable():
        lines.append(f"FaceLoom: {here[0]} is damaged, as uninstalling another one does; run: "
                     f"{pip('--force-reinstall --no-deps ' + here[0])}")
    elif not usable():
        flavour = fitting_flavour(sys.platform, *torch_build())
        lines.append(f"FaceLoom: ready with its built-in models. To use ONNX model files as well, run: {pip(flavour)}")
    return lines


if __name__ == "__main__":
    for line in advice() or ["FaceLoom: ready."]:
        print(line)
