"""Torch checkpoints: reading them without running code, and networks that ComfyUI may move between devices."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import FaceLoomError
from .onnx import name_other_format, read_onnx
from .terminal import command

# Wrappers that training code puts around the tensors, the one to prefer first.
WRAPPERS = ("params_ema", "g_ema", "params", "state_dict", "model_state_dict")

# In what torch's restricted reader says of objects that are not plain data; anything else is a damaged file.
OBJECT_WORDS = ("unsupported global", "unsupported class", "call reduce", "build for type", "can only build")


def load_weights(path: str | os.PathLike, key: str | None = None, *, objects: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a ``.safetensors`` or PyTorch checkpoint by name, on the CPU.

    Wrappers (``state_dict``, ``params_ema`` ...) and the ``module.`` prefix of parallel training are taken off; ``key`` names the part
    wanted of a file that holds several networks. Files with pickled Python objects are refused: reading one can run any program; with
    ``objects`` the weights in them are taken out by ``unpickle``, which runs nothing.
    """
    path = Path(path)
    if not path.is_file():
        raise FaceLoomError(f"There is no file {path}.")
    data = _read(path, objects)
    if key is not None:
        if not isinstance(data, Mapping) or not isinstance(data.get(key), Mapping):
            raise FaceLoomError(f"{path.name} has no part called {key}.")
        data = data[key]
    while isinstance(data, Mapping) and key is None:
        inner = next((data[name] for name in WRAPPERS if isinstance(data.get(name), Mapping)), None)
        if inner is None:
            break
        data = inner
    tensors = {str(name): value for name, value in data.items() if isinstance(value, torch.Tensor)} if isinstance(data, Mapping) else {}
    if not tensors:
        parts = [str(name) for name, value in data.items() if isinstance(value, Mapping)] if isinstance(data, Mapping) else []
        raise FaceLoomError(f"{path.name} holds no weights at its top level" + (f", only the parts {', '.join(parts)}." if parts else "."))
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def load_data(path: str | os.PathLike) -> Any:
    """Whatever plain data a ``.safetensors`` or PyTorch file holds; ``load_weights`` says what is refused."""
    path = Path(path)
    if not path.is_file():
        raise FaceLoomError(f"There is no file {path}.")
    return _read(path, objects=True)


def load_parts(path: str | os.PathLike, *, objects: bool = False) -> dict[str, dict[str, torch.Tensor]]:
    """The networks of a file that holds several: tensors by name by part, tensors that lie beside the parts under ``""``.

    Of a safetensors file the parts are what stands before the first dot of its names. The ``module.`` of parallel training is taken off.
    objects: as in ``load_weights``.
    """
    path = Path(path)
    if not path.is_file():
        raise FaceLoomError(f"There is no file {path}.")
    parts: dict[str, dict[str, torch.Tensor]] = {}
    data = _read(path, objects)
    for name, value in data.items() if isinstance(data, Mapping) else ():
        if isinstance(value, Mapping):
            found = {key.removeprefix("module."): tensor for key, tensor in value.items() if isinstance(tensor, torch.Tensor)}
            parts.setdefault(str(name), {}).update(found)
        elif isinstance(value, torch.Tensor) and path.suffix.lower() == ".safetensors" and "." in name:
            part, key = name.split(".", 1)
            parts.setdefault(part, {})[key.removeprefix("module.")] = value
        elif isinstance(value, torch.Tensor):
            parts.setdefault("", {})[str(name)] = value
    return parts


def _read(path: Path, objects: bool = False) -> Any:
    with path.open("rb") as stream:
        other = name_other_format(stream.read(64))
    if path.suffix.lower() == ".safetensors" or other == "a safetensors file":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise _spoilt(path, "safetensors file") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _holds_objects(error) and objects:
            from .unpickle import read_objects

            return read_objects(path)
        raise (_refused(path) if _holds_objects(error) else _spoilt(path, "PyTorch checkpoint")) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _spoilt(path, "PyTorch checkpoint") from error


def _spoilt(path: Path, kind: str) -> FaceLoomError:
    """The error for a file that cannot be read as what it should be."""
    with path.open("rb") as stream:
        other = name_other_format(stream.read(64))
    if not path.stat().st_size:
        other = "empty; fetch it again"
    elif other is None and _is_onnx(path):
        other = "an ONNX model, which is used as it is"
    if other is None or "PyTorch" in other or other.endswith(kind):
        return FaceLoomError(f"{path.name} is not a whole {kind}; fetch it again.")
    return FaceLoomError(f"{path.name} is not a {kind} but {other}.")


def _is_onnx(path: Path) -> bool:
    try:
        return bool(read_onnx(path).outputs)
    except FaceLoomError:
        return False


def _holds_objects(error: Exception) -> bool:
    return any(words in str(error).lower() for words in OBJECT_WORDS)


def _refused(path: Path) -> FaceLoomError:
    return FaceLoomError(
        f"{path.name} holds Python objects, not just weights, and reading those can run any program, so it is refused; convert it once: "
        f"`{command('models', 'convert', path)}` takes the weights out and runs nothing."
    )


