"""Turns original checkpoints into safetensors: nothing in them can run, they open at once, and in half precision they are half as large."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch

from ..diffusion.lora import load_flat_lora
from ..errors import FaceLoomError
from ..files.cache import replacement_path
from ..files.checkpoints import WRAPPERS, load_parts, load_weights
from ..files.damaged import check_model_file


def convert(path: Path, target: Path | None = None, *, half: bool = False, force: bool = False) -> Path:
    """Write the weights of ``path`` (PyTorch or Keras) as safetensors to ``target``, or beside it, and return where.

    Of pickled modules the weights are taken out; nothing in them is run, and what asks for more than that is refused. Of files with several
    networks all are kept, as ``part.weight``; what only training needs is left out. half: floating-point weights in half precision. A file
    that is there already is an error unless ``force``. Who may read and write the new file is as it was for ``path``.
    """
    check_model_file(path)
    target = target or path.with_suffix(".safetensors")
    if target.exists() and not force:
        raise FaceLoomError(f"{target} is already there; move it away, or use --force.")
    metadata = None
    if path.suffix.lower() in (".keras", ".h5", ".hdf5"):
        from ..networks.keras_net import keras_metadata, load_keras

        net = load_keras(path)
        tensors, metadata = net.weights(), keras_metadata(net)
    else:
        tensors = _read_tensors(path)
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    def as_saved(value: torch.Tensor) -> torch.Tensor:
        return (value.half() if half and value.is_floating_point() else value).clone(memory_format=torch.contiguous_format)

    try:
        with replacement_path(target) as temporary:
            save_file({key: as_saved(value) for key, value in tensors.items()}, temporary, metadata)
            with suppress(OSError):  # file systems without modes
                os.chmod(temporary, path.stat().st_mode & 0o666)
    except (OSError, SafetensorError) as error:
        raise FaceLoomError(f"{target} cannot be written ({error}).") from error
    return target


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a PyTorch or safetensors file under the names that the converted file will have."""
    lora = load_flat_lora(path)
    if lora is not None:
        return lora
    parts = load_parts(path, objects=True)
    wrapper = next((name for name in WRAPPERS if parts.get(name)), None)
    named = [name for name, tensors in parts.items() if name and tensors]
    if wrapper is None and named and path.suffix.lower() != ".safetensors":
        return parts.get("", {}) | {f"{name}.{key}": value for name in named for key, value in parts[name].items()}
    return load_weights(path, objects=True) | (parts.get("", {}) if wrapper else {})
