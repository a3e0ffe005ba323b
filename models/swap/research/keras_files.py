"""Keras files among swap models: which files they are, and the network in one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...files.contents import Contents

if TYPE_CHECKING:
    from ...networks.keras_net import KerasNet

SUFFIXES = (".keras", ".h5", ".hdf5")


def is_keras(file: Contents) -> bool:
    """Returns whether a file is a Keras archive, or one that was converted to safetensors with its graph."""
    if file.suffix != ".safetensors":
        return file.suffix in SUFFIXES
    from safetensors import safe_open

    with safe_open(file.path, "pt") as tensors:
        return "model_config" in (tensors.metadata() or {})


def keras_net(file: Contents) -> KerasNet:
    """Returns the network in a Keras file."""
    from ...networks.keras_net import load_keras

    return file.read(load_keras)


def sees_two_pictures(file: Contents) -> bool:
    """Returns whether a Keras file's network takes two pictures, as autoencoders of two people do."""
    from ...networks.keras_graph import input_shapes

    shapes = input_shapes(keras_net(file).graph)
    return len(shapes) == 2 and all(len(shape) == 3 for shape in shapes)
