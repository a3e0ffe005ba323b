"""Tells what kind of network a file holds: of an ONNX graph from the shapes of its ports, of a checkpoint from the names of its tensors."""

from __future__ import annotations

from collections.abc import Container, Sequence

from ..errors import FaceLoomError
from .catalogue import KINDS
from .onnx import Port

EMBEDDING_SIZES = (128, 256, 512, 1024)

# Names of tensors that the networks of one kind have and no others.
KIND_OF_TENSOR = {
    "cp.resnet.conv1.weight": "parser",
    "image_encoder.pos_embed": "occluder",
    "dec1.conv_trans.weight": "occluder",
    "upscore8.weight": "occluder",
    "upscore8_r.weight": "occluder",
    "toRGB.0.weight": "restorer",
    "quantize.embedding.weight": "restorer",
}


def channels_of(port: Port) -> int | None:
    """Return the channels of a port ``[B, C, H, W]`` or ``[B, H, W, C]``; None where it has other dimensions or states no channels."""
    if port.shape is None or len(port.shape) != 4:
        return None
    _, first, _, last = port.shape
    usual = (1, 3, 19)
    count = last if last in usual and first not in usual else first
    return count if isinstance(count, int) else None


def edge_of(port: Port) -> int | None:
    """Return the height of a port ``[B, C, H, W]`` or ``[B, H, W, C]``; None where it has other dimensions or takes any height."""
    if port.shape is None or len(port.shape) != 4:
        return None
    height = port.shape[1] if port.shape[3] in (1, 3) and port.shape[1] not in (1, 3) else port.shape[2]
    return height if isinstance(height, int) else None


def kind_of_graph(inputs: Sequence[Port], outputs: Sequence[Port]) -> str | None:
    """Tell the kind of a graph, a key of ``catalogue.KINDS``; None where the shapes do not tell."""
    image_inputs = [port for port in inputs if channels_of(port) == 3]
    embedding_inputs = [port for port in inputs if _embedding_length(port)]
    image_outputs = [port for port in outputs if channels_of(port) == 3]
    if not image_inputs:
        return "converter" if len(embedding_inputs) == 1 and len(outputs) == 1 and _embedding_length(outputs[0]) else None
    if image_outputs:
        person_in_weights = len(outputs) >= 3 and sum(channels_of(port) == 1 for port in outputs) >= 2
        return "swap" if embedding_inputs or len(image_inputs) == 2 or person_in_weights else "restorer"
    return _kind_without_image_output(image_inputs[0], outputs)


def _kind_without_image_output(image_input: Port, outputs: Sequence[Port]) -> str | None:
    """Tell the kind of a network that takes an image and gives none."""
    first = outputs[0].shape or ()
    if len(outputs) >= 5 or (len(outputs) == 1 and len(first) == 3 and 20 in first[1:]):
        return "detector"
    if len(first) == 4:
        return {19: "parser", 1: "occluder"}.get(channels_of(outputs[0]) or 0)
    if len(first) == 3:
        return "landmarker" if first[-1] in (2, 3) else None
    if len(first) == 2 and isinstance(first[1], int):
        if first[1] == 3 and edge_of(image_input) == 96:
            return "attributes"
        return "recognizer" if first[1] in EMBEDDING_SIZES else "landmarker" if first[1] >= 10 else None
    return None


def _embedding_length(port: Port) -> int | None:
    """Return the D of a port ``[B, D]`` if it is at least 64, else None."""
    shape = port.shape or ()
    return shape[1] if len(shape) == 2 and isinstance(shape[1], int) and shape[1] >= 64 else None


def check_graph_kind(name: str, kind: str, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
    """Raise FaceLoomError if the shapes of a graph's ports tell that the file ``name`` is of another kind than ``kind``."""
    check_kind(name, kind, kind_of_graph(inputs, outputs) or kind)


def check_kind(name: str, kind: str, found: str) -> None:
    """Raise FaceLoomError if the file ``name``, which should be of one kind, was found to be of another."""
    if found != kind:
        raise FaceLoomError(f"{name} is {KINDS[found]}, not {KINDS[kind]}; load it with the node for that.")


def kind_of_weights(names: Container[str]) -> str | None:
    """Tell the kind of a PyTorch checkpoint, a key of ``catalogue.KINDS``, from the names of its tensors; None where they do not tell."""
    return next((kind for name, kind in KIND_OF_TENSOR.items() if name in names), None)
