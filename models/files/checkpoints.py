"""Reads PyTorch checkpoints and safetensors files without running code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import FaceLoomError
from .onnx import name_other_format, read_onnx
from .pickled_sizes import check_sizes
from .terminal import command
from .unpickle import READ_ERRORS, read_objects

# Keys under which training code puts the tensors, the one to prefer first.
WRAPPERS = ("params_ema", "g_ema", "params", "state_dict", "model_state_dict")

# Words in the errors of torch's restricted reader for objects that are not plain data. Its other errors mean a damaged file.
OBJECT_ERROR_WORDS = ("unsupported global", "unsupported class", "call reduce", "build for type", "can only build")


def load_weights(path: str | os.PathLike, key: str | None = None, *, objects: bool = False) -> dict[str, torch.Tensor]:
    """Read the tensors of a ``.safetensors`` file or PyTorch checkpoint, by name, on the CPU.

    Wrappers (``state_dict``, ``params_ema`` ...) and the ``module.`` prefix of parallel training are taken off. key: which part to read
    of a file that holds several networks. objects: files with pickled Python objects are refused, since reading one can run any program;
    with ``objects`` the weights in them are read by ``unpickle``, which runs nothing. FaceLoomError also where the file is missing,
    damaged, of another format or without tensors.
    """
    return weights_of(read_checkpoint(path, objects), Path(path).name, key)


def weights_of(data: Any, name: str, key: str | None = None) -> dict[str, torch.Tensor]:
    """Return the tensors by name of a checkpoint that was read from the file ``name``; as ``load_weights``."""
    if key is not None:
        if not isinstance(data, Mapping) or not isinstance(data.get(key), Mapping):
            raise FaceLoomError(f"{name} has no part called {key}.")
        data = data[key]
    else:
        data = unwrapped(data)
    tensors = tensors_in(data)
    if not tensors:
        parts = [str(part) for part, value in data.items() if isinstance(value, Mapping)] if isinstance(data, Mapping) else []
        raise FaceLoomError(f"{name} holds no weights at its top level" + (f", only the parts {', '.join(parts)}." if parts else "."))
    return tensors


def unwrapped(data: Any) -> Any:
    """Return the innermost part of a checkpoint that was read, without the wrappers of training code."""
    while isinstance(data, Mapping):
        inner = next((data[name] for name in WRAPPERS if isinstance(data.get(name), Mapping)), None)
        if inner is None:
            break
        data = inner
    return data


def tensors_in(data: Any) -> dict[str, torch.Tensor]:
    """Return the tensors by name at the top level of a checkpoint that was read; empty where there are none."""
    tensors = {str(name): value for name, value in data.items() if isinstance(value, torch.Tensor)} if isinstance(data, Mapping) else {}
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def load_data(path: str | os.PathLike) -> Any:
    """Read whatever plain data a ``.safetensors`` or PyTorch file holds; Python objects in it are read by ``unpickle``, which runs nothing.
    FaceLoomError where the file is missing, damaged or of another format."""
    return read_checkpoint(path, objects=True)


def load_parts(path: str | os.PathLike, *, objects: bool = False) -> dict[str, dict[str, torch.Tensor]]:
    """Read a file that holds several networks: for each part its tensors by name. Tensors beside the parts are under ``""``.

    In a safetensors file the part is what stands before the first dot of a tensor's name. The ``module.`` prefix of parallel training is
    taken off. objects, errors: as in ``load_weights``.
    """
    return parts_in(read_checkpoint(path, objects), Path(path).suffix)


def parts_in(data: Any, suffix: str) -> dict[str, dict[str, torch.Tensor]]:
    """Return the networks of a checkpoint that was read from a file of this suffix; as ``load_parts``."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in data.items() if isinstance(data, Mapping) else ():
        if isinstance(value, Mapping):
            found = {key.removeprefix("module."): tensor for key, tensor in value.items() if isinstance(tensor, torch.Tensor)}
            parts.setdefault(str(name), {}).update(found)
        elif isinstance(value, torch.Tensor) and suffix.lower() == ".safetensors" and "." in name:
            part, key = name.split(".", 1)
            parts.setdefault(part, {})[key.removeprefix("module.")] = value
        elif isinstance(value, torch.Tensor):
            parts.setdefault("", {})[str(name)] = value
    return parts


def read_checkpoint(path: str | os.PathLike, objects: bool = False) -> Any:
    """Read whatever a ``.safetensors`` file or PyTorch checkpoint holds. objects, errors: as in ``load_weights``."""
    path = Path(path)
    if not path.is_file():
        raise FaceLoomError(f"There is no file {path}.")
    return _read(path, objects)


def _read(path: Path, objects: bool = False) -> Any:
    """Read plain data; with ``objects`` also of files that hold Python objects."""
    with path.open("rb") as stream:
        other = name_other_format(stream.read(64))
    if path.suffix.lower() == ".safetensors" or other == "a safetensors file":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise _damaged_error(path, "safetensors file") from error
    try:
        check_sizes(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FaceLoomError:
        raise
    except pickle.UnpicklingError as error:
        if _holds_objects(error) and objects:
            return read_objects(path)
        raise (_objects_error(path) if _holds_objects(error) else _damaged_error(path, "PyTorch checkpoint")) from error
    except (*READ_ERRORS, OSError) as error:  # a damaged zip file sends its reader to places that no file has
        raise _damaged_error(path, "PyTorch checkpoint") from error


def _damaged_error(path: Path, kind: str) -> FaceLoomError:
    """Return the error for a file that cannot be read as a ``kind``: it says what the file is instead, where that can be told."""
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
    """Whether torch's restricted reader refused a file because of Python objects in it."""
    return any(words in str(error).lower() for words in OBJECT_ERROR_WORDS)


def _objects_error(path: Path) -> FaceLoomError:
    """Return the error for a file with Python objects: it names the command that takes the weights out."""
    return FaceLoomError(
        f"{path.name} holds Python objects, not just weights, and reading those can run any program, so it is refused; convert it once: "
        f"`{command('models', 'convert', path)}` takes the weights out and runs nothing."
    )
