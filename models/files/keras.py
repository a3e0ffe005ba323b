"""Reads Keras models, their graph and their weights, from ``.keras`` archives, ``.h5`` files and safetensors files made of them.

A full-model ``.h5`` holds the layers and how they are joined as JSON (``model_config``) and the weights by name. A ``.keras`` archive holds
the same as ``config.json`` and ``model.weights.h5``. ``python -m faceloom models convert`` writes safetensors files with the graph in their
metadata. The first two are read with h5py.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..errors import FaceLoomError
from .declared import Declared, check_zip, named
from .hdf5 import open_hdf5, read_dataset
from .json_text import read_object

Graph = Mapping[str, Any]


def read_keras(path: str | os.PathLike, weight_names: Callable[[Graph], Mapping[str, Sequence[str]]]
               ) -> tuple[Graph, dict[str, torch.Tensor]]:
    """Read a model's graph and its weights by Keras' names (``conv2d/kernel``), in Keras' shapes.

    weight_names: takes the graph and lists the names of every layer's weights in the order of the layer's kind; a ``.keras`` archive
    only numbers them. Damaged files, files without a graph and a missing h5py are errors.
    """
    path = os.fspath(path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".keras":
        return _read_archive(path, weight_names)
    return _read_safetensors(path) if suffix == ".safetensors" else _read_h5(path)


def _read_safetensors(path: str) -> tuple[Graph, dict[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            graph = (file.metadata() or {}).get("model_config")
            if graph is None:
                raise FaceLoomError(f"{os.path.basename(path)} holds no Keras graph; convert the .h5 file again.")
            return _graph(graph, path, "safetensors file"), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FaceLoomError(f"{os.path.basename(path)} is not a whole safetensors file; fetch it again.") from error


def _read_h5(path: str) -> tuple[Graph, dict[str, torch.Tensor]]:
    with open_hdf5(path, path) as file:
        graph = file.attrs.get("model_config")
        if graph is None or "model_weights" not in file:
            raise FaceLoomError(f"{os.path.basename(path)} holds only weights, not the whole Keras model with its graph.")
        return _graph(graph, path, "Keras file"), _named_weights(file["model_weights"], path)


def _read_archive(path: str, weight_names: Callable[[Graph], Mapping[str, Sequence[str]]]) -> tuple[Graph, dict[str, torch.Tensor]]:
    """Read a Keras 3 archive, which keeps a layer's weights, numbered, in a group ``vars`` that has the layer's name."""
    name = os.path.basename(path)
    try:
        with zipfile.ZipFile(path) as archive, named(path):
            check_zip(archive, path)
            graph, stored = archive.read("config.json"), io.BytesIO(archive.read("model.weights.h5"))
    except FaceLoomError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise FaceLoomError(f"{name} is not a whole Keras archive; copy or save it again.") from error
    graph = _graph(graph, path, "Keras archive")
    names, declared = weight_names(graph), Declared(path)
    weights: dict[str, torch.Tensor] = {}

    def take(_: str, group: Any) -> None:
        for key, number in zip(names.get(group.attrs.get("name"), ()), group):
            if key in weights:
                raise FaceLoomError(f"{name} has two layers of one name ({key}), so their weights cannot be told apart.")
            weights[key] = read_dataset(group[number], declared, path)

    with open_hdf5(stored, path) as file:
        file.visititems(take)
    return graph, weights


def _graph(text: object, path: str, kind: str) -> Graph:
    """Read the graph of a model, which is JSON. kind: what the file should be, for errors."""
    try:
        return read_object(text)
    except ValueError as error:
        raise FaceLoomError(f"{os.path.basename(path)} is not a whole {kind}: the description of its network is {error}; fetch it again."
                            ) from error


def _named_weights(group: Any, path: str) -> dict[str, torch.Tensor]:
    """Read the datasets of an ``.h5`` file by their weights' own names, without the groups around them and the ``:0``."""
    weights, declared = {}, Declared(path)
    for layer in group.values():
        for name in layer.attrs.get("weight_names", ()):
            name = name if isinstance(name, str) else name.decode()
            weights[name.removesuffix(":0")] = read_dataset(layer[name], declared, path)
    return weights
