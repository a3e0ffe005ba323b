"""Makes an identity of the tensors and the metadata of its file. Anybody may have written them: every entry is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..crops.crop import LARGEST_EDGE, LEAST_FRAMING, MOST_FRAMING
from ..errors import FaceLoomError, check_number
from ..faces import Face, Identity, unit_square
from ..files.json_text import read_list, read_object
from .combine import unit_vectors

EMBEDDING_PREFIX = "embedding."  # of the tensors that hold an embedding, before the name of its space
# How many numbers the embeddings of these spaces have.
EMBEDDING_SIZES = {"dlib128": 128, "w600k": 512}
# Points that not every face has: the tensor's name by the name in ``Face``, and their shape.
OPTIONAL_POINTS = {"points68": ("points68", (68, 2)), "mesh": ("dense", (478, 3))}
# Farther from a crop than any face reaches, in pixels, and more photos than anybody has.
_FARTHEST, _MOST_PHOTOS = 1e6, 10**9
_OLDEST, _LONGEST_NORM = 1e4, 1e6  # years; the length of a recognizer's vector
# From this distance of 1 on, a vector's length is not what float32 makes of a unit vector.
_UNIT_TOLERANCE = 1e-3

Tensors = Mapping[str, np.ndarray]


def read_stored(tensors: Tensors, metadata: Mapping[str, str]) -> Identity:
    """Make an identity of what its file holds. FaceLoomError says which entry is missing or cannot be."""
    crops = _crops(tensors)
    faces = _faces(tensors, metadata, len(crops))
    embeddings = {key.removeprefix(EMBEDDING_PREFIX): _embedding(key, value) for key, value in tensors.items()
                  if key.startswith(EMBEDDING_PREFIX)}
    if not faces and not embeddings:
        raise FaceLoomError("it holds neither a face nor an embedding.")
    framing = _number(metadata, "framing", LEAST_FRAMING, MOST_FRAMING)
    photos = int(_number(metadata, "photos", 1, _MOST_PHOTOS, whole=True))
    return Identity(embeddings, crops, faces, framing, metadata.get("name", ""), photos, _norms(metadata))


def read_version(metadata: Mapping[str, str], newest: int) -> bool:
    """Tell whether this FaceLoom knows the version of a file. FaceLoomError where it states none."""
    return _number(metadata, "version", 1, 1e9, whole=True) <= newest


def _number(metadata: Mapping[str, str], name: str, least: float, most: float, whole: bool = False) -> float:
    """Read a number of the metadata."""
    text = metadata.get(name, "")
    try:
        value = int(text) if whole else float(text)
    except ValueError as error:
        raise FaceLoomError(f"its {name} must be a number, not {repr(text[:20]) if text else 'missing'}.") from error
    check_number(f"its {name}", value, least, most, whole)
    return value


def _array(tensors: Tensors, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the floating-point tensor ``key``, which must have this shape."""
    array = tensors.get(key)
    if array is None or array.dtype.kind != "f" or array.shape != shape:
        found = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
        raise FaceLoomError(f"its {key} must be fractions of the shape {list(shape)}, one for each of its crops, not {found}.")
    return array


def _near(key: str, values: np.ndarray) -> np.ndarray:
    """Return coordinates or scores that must be finite and within reason."""
    if not (np.abs(values.astype(np.float64)) <= _FARTHEST).all():  # False for NaN
        raise FaceLoomError(f"its {key} are not all numbers within reach of its crops.")
    return values


def _crops(tensors: Tensors) -> np.ndarray:
    """Return the crops ``[K, S, S, 3]``, float32 in 0..1."""
    crops = tensors.get("crops")
    if crops is None or crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[3] != 3:
        raise FaceLoomError("its crops are no pictures.")
    count, height, width, _ = crops.shape
    if height != width or (count and not 1 <= height <= LARGEST_EDGE):
        raise FaceLoomError(f"its crops must be square, with edges from 1 to {LARGEST_EDGE} pixels, not {width}x{height}.")
    return crops.astype(np.float32) / np.float32(255)


def _faces(tensors: Tensors, metadata: Mapping[str, str], count: int) -> tuple[Face, ...]:
    """Return the face of each crop."""
    try:
        described = read_list(metadata.get("faces"))
    except ValueError as error:
        raise FaceLoomError(f"the description of its faces is {error}.") from error
    if len(described) != count:
        raise FaceLoomError(f"it describes {len(described)} faces for {count} crops.")
    boxes, scores = (_near(key, _array(tensors, key, shape)) for key, shape in (("boxes", (count, 4)), ("scores", (count,))))
    keypoints = _near("keypoints", _array(tensors, "keypoints", (count, 5, 2)))
    optional = {name: (key, _array(tensors, key, (count, *shape))) for name, (key, shape) in OPTIONAL_POINTS.items()}
    faces = []
    for i, attributes in enumerate(described):
        points = {name: _points(key, values[i]) for name, (key, values) in optional.items()}
        face = Face(0, boxes[i], keypoints[i], float(scores[i]), **points, **_attributes(attributes))
        try:
            unit_square(face)
        except FaceLoomError as error:
            raise FaceLoomError("the keypoints of a face lie in one place or in no order a face can have.") from error
        faces.append(face)
    return tuple(faces)


def _points(key: str, values: np.ndarray) -> np.ndarray | None:
    """Return the points of one face; None where all are NaN, which stands for a face that has none."""
    return None if np.isnan(values).all() else _near(key, values)


def _attributes(described: object) -> dict[str, Any]:
    """Return the sex and the age of a face."""
    if not isinstance(described, Mapping):
        raise FaceLoomError("the description of its faces is not a list of objects.")
    sex, age = described.get("sex"), described.get("age")
    if sex not in (None, "female", "male"):
        raise FaceLoomError("the sex of a face must be female, male or null.")
    if age is not None:
        check_number("the age of a face", _plain(age), -_OLDEST, _OLDEST)
    return {"sex": sex, "age": age}


def _embedding(key: str, vector: np.ndarray) -> np.ndarray:
    """Return a unit vector ``[D]``: the file's own, to the bit, where it is one."""
    size = EMBEDDING_SIZES.get(key.removeprefix(EMBEDDING_PREFIX), vector.size)
    if vector.dtype.kind != "f" or vector.shape != (size,) or not size:
        raise FaceLoomError(f"its {key} must be one vector of {size or 'some'} fractions, not {vector.dtype} {list(vector.shape)}.")
    try:
        unit = unit_vectors(vector)
    except FaceLoomError as error:
        raise FaceLoomError(f"its {key} is zero or not finite.") from error
    is_unit = abs(np.linalg.norm(vector.astype(np.float64)) - 1) < _UNIT_TOLERANCE
    return vector.astype(np.float32) if is_unit else unit


def _norms(metadata: Mapping[str, str]) -> dict[str, float]:
    """Return the lengths of the recognizers' vectors by space; files of the first version have none."""
    try:
        norms = read_object(metadata.get("norms", "{}"))
    except ValueError as error:
        raise FaceLoomError(f"the description of its norms is {error}.") from error
    for norm in norms.values():
        check_number("each of its norms", _plain(norm), 1e-9, _LONGEST_NORM)
    return norms


def _plain(value: object) -> Any:
    """Return a number as it is and anything else in a few words, for the error of ``check_number``."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else repr(value)[:20]
