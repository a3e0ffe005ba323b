"""What kind of network an ONNX file holds, told from the shapes that go in and come out."""

from __future__ import annotations

from collections.abc import Container, Sequence

from ..errors import FaceLoomError
from .catalogue import KINDS
from .onnx import Port

EMBEDDING_SIZES = (128, 256, 512, 1024)

# A tensor that one family of networks has and no other.
TELLING_TENSORS = {
    "cp.resnet.conv1.weight": "parser",
    "image_encoder.pos_embed": "occluder",
    "dec1.conv_trans.weight": "occluder",
    "upscore8.weight": "occluder",
    "upscore8_r.weight": "occluder",
    "toRGB.0.weight": "restorer",
    "quantize.embedding.weight": "restorer",
}


def channels_of(port: Port) -> int | None:
    """Channels of a picture-like port ``[B, C, H, W]`` or ``[B, H, W, C]``; None if it is none or does not say."""
    if port.shape is None or len(port.shape) != 4:
        return None
    _, first, _, last = port.shape
    usual = (1, 3, 19)
    count = last if last in usual and first not in usual else first
    return count if isinstance(count, int) else None


def edge_of(port: Port) -> int | None:
    """Height of a picture-like port, None where any goes."""
    if port.shape is None or len(port.shape) != 4:
        return None
    height = port.shape[1] if port.shape[3] in (1, 3) and port.shape[1] not in (1, 3) else port.shape[2]
    return height if isinstance(height, int) else None


def kind_of_graph(inputs: Sequence[Port], outputs: Sequence[Port]) -> str | None:
    """A key of ``catalogue.KINDS``, or None where the shapes do not tell."""
    pictures = [port for port in inputs if channels_of(port) == 3]
    vectors = [port for port in inputs if _width(port)]
    painted = [port for port in outputs if channels_of(port) == 3]
    if not pictures:
        return "converter" if len(vectors) == 1 and len(outputs) == 1 and _width(outputs[0]) else None
    if painted:
        person_inside = len(outputs) >= 3 and sum(channels_of(port) == 1 for port in outputs) >= 2
        return "swap" if vectors or len(pictures) == 2 or person_inside else "restorer"
    return _kind_of_reader(pictures[0], outputs)


def _kind_of_reader(picture: Port, outputs: Sequence[Port]) -> str | None:
    """Networks that look at one picture and answer with something that is none."""
    first = outputs[0].shape or ()
    if len(outputs) >= 5 or (len(outputs) == 1 and len(first) == 3 and 20 in first[1:]):
        return "detector"
    if len(first) == 4:
        return {19: "parser", 1: "occluder"}.get(channels_of(outputs[0]) or 0)
    if len(first) == 3:
        return "landmarker" if first[-1] in (2, 3) else None
    if len(first) == 2 and isinstance(first[1], int):
        if first[1] == 3 and edge_of(picture) == 96:
            return "attributes"
        return "recognizer" if first[1] in EMBEDDING_SIZES else "landmarker" if first[1] >= 10 else None
    return None


def _width(port: Port) -> int | None:
    """Length of an embedding-like port ``[B, D]``."""
    shape = port.shape or ()
    return shape[1] if len(shape) == 2 and isinstance(shape[1], int) and shape[1] >= 64 else None


def check_graph_kind(name: str, kind: str, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
    """Raise if the shapes say that this file is of another kind."""
    check_kind(name, kind, kind_of_graph(inputs, outputs) or kind)


def check_kind(name: str, kind: str, found: str) -> None:
    """Raise if the catalogue says that this file is of another kind."""
    if found != kind:
        raise FaceLoomError(f"{name} is {KINDS[found]}, not {KINDS[kind]}; load it with the node for that.")


def kind_of_weights(names: Container[str]) -> str | None:
    """A key of ``catalogue.KINDS`` for a PyTorch checkpoint, told from the names of its tensors; None where they do not tell."""
    return next((kind for name, kind in TELLING_TENSORS.items() if name in names), None)
