"""Identity files: safetensors with embeddings, reference crops, their landmarks and a thumbnail. Also reads ReActor's face models."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import FaceLoomError, brief
from ..faces import Face, Identity
from ..files.cache import write_file
from ..pixels.tensors import to_uint8
from .combine import unit_vectors

SUFFIX = ".safetensors"
_FORMAT, _VERSION = "faceloom-identity", 1
_EMBEDDING_PREFIX = "embedding."  # of the tensors that hold an embedding, before the name of its space
_THUMBNAIL_EDGE = 256
_LONGEST_NAME = 255  # bytes; what file systems take
# Points that not every face has: the tensor's name by the name in ``Face``, and their shape.
_OPTIONAL_POINTS = {"points68": ("points68", (68, 2)), "mesh": ("dense", (478, 3))}
# Names that Windows keeps for devices.
_RESERVED_NAMES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}


def identity_path(folder: str | os.PathLike, name: str) -> Path:
    """Return ``folder/name.safetensors``. A name that is no file name, or could point anywhere else, is a FaceLoomError."""
    stem = name.strip()
    if stem.lower().endswith(SUFFIX):
        stem = stem[: -len(SUFFIX)]
    bad = re.search(r'[\x00-\x1f<>:"/\\|?*]', stem) or stem.startswith(".") or stem.endswith((".", " "))
    if not stem or bad or stem.split(".")[0].upper() in _RESERVED_NAMES or len((stem + SUFFIX).encode()) > _LONGEST_NAME:
        raise FaceLoomError(f"{brief(name)} cannot be a file name; use letters, digits, spaces, - and _ only.")
    return Path(folder) / (stem + SUFFIX)


def save_identity(identity: Identity, path: str | os.PathLike) -> None:
    """Write an identity to ``path``, whole or not at all. Crops are stored as uint8 (exact for those that ``make_identity`` makes), the
    rest as float32. FaceLoomError where the file cannot be written."""
    from safetensors.numpy import save

    path = Path(path)
    faces = identity.faces
    tensors: dict[str, np.ndarray] = {f"{_EMBEDDING_PREFIX}{space}": np.asarray(vector, np.float32)
                                      for space, vector in identity.embeddings.items()}
    tensors["crops"] = to_uint8(torch.from_numpy(np.array(identity.crops)))
    tensors["boxes"] = np.array([face.box for face in faces], np.float32).reshape(-1, 4)
    tensors["keypoints"] = np.array([face.keypoints for face in faces], np.float32).reshape(-1, 5, 2)
    tensors["scores"] = np.array([face.score for face in faces], np.float64)
    for name, (key, shape) in _OPTIONAL_POINTS.items():
        tensors[key] = np.array([_points_or_nan(getattr(face, name), shape) for face in faces], np.float32).reshape(-1, *shape)
    if len(identity.crops):
        tensors["thumbnail"] = np.frombuffer(_thumbnail_jpeg(tensors["crops"][0]), np.uint8)
    attributes = [{"sex": face.sex, "age": face.age} for face in faces]
    metadata = {"format": _FORMAT, "version": str(_VERSION), "name": identity.name, "photos": str(identity.photos),
                "framing": repr(float(identity.framing)), "faces": json.dumps(attributes),
                "norms": json.dumps({space: float(norm) for space, norm in identity.norms.items()})}
    write_file(path, save(tensors, metadata))


def load_identity(path: str | os.PathLike) -> Identity:
    """Read an identity from FaceLoom's own file or from a ReActor face model (embedding only, no crops).

    FaceLoomError where there is no such file, or where it is damaged, too new, or something else.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FaceLoomError(f"There is no identity file {path}.")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise FaceLoomError(f"{path} is damaged or not a safetensors file ({error}); save the identity again.") from error
    try:
        if metadata.get("format") == _FORMAT:
            return _read_own_format(tensors, metadata, path)
        if {"embedding", "bbox", "kps"} <= set(tensors):
            raw = np.asarray(tensors["embedding"], np.float32).reshape(-1)
            no_crops, length = np.zeros((0, 256, 256, 3)), float(np.linalg.norm(raw))
            return Identity({"w600k": unit_vectors(raw)}, no_crops, (), name=path.stem, norms={"w600k": length})
    except FaceLoomError as error:
        raise FaceLoomError(f"{path} is damaged ({error})") from error
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise FaceLoomError(f"{path} is damaged ({error!r}); save the identity again.") from error
    raise FaceLoomError(f"{path} is not an identity: it is neither FaceLoom's nor a ReActor face model.")


def _read_own_format(tensors: dict[str, np.ndarray], metadata: dict[str, str], path: Path) -> Identity:
    if int(metadata["version"]) > _VERSION:
        raise FaceLoomError(f"{path} was written by a newer FaceLoom; update FaceLoom.")
    embeddings = {key.removeprefix(_EMBEDDING_PREFIX): value for key, value in tensors.items() if key.startswith(_EMBEDDING_PREFIX)}
    for space, vector in embeddings.items():
        unit_vectors(vector)
        if vector.ndim != 1:
            raise FaceLoomError(f"the embedding {space} has shape {vector.shape}.")
    faces = []
    for i, attributes in enumerate(json.loads(metadata["faces"])):
        points: dict[str, Any] = {name: None if np.isnan(tensors[key][i]).any() else tensors[key][i]
                                  for name, (key, _) in _OPTIONAL_POINTS.items()}
        score = float(tensors["scores"][i])
        faces.append(Face(0, tensors["boxes"][i], tensors["keypoints"][i], score, sex=attributes["sex"], age=attributes["age"], **points))
    crops = tensors["crops"].astype(np.float32) / np.float32(255)
    return Identity(embeddings, crops, tuple(faces), float(metadata["framing"]), metadata["name"], int(metadata["photos"]),
                    json.loads(metadata.get("norms", "{}")))


def _points_or_nan(points: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    return np.full(shape, np.nan, np.float32) if points is None else points


def _thumbnail_jpeg(crop: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(crop).resize((_THUMBNAIL_EDGE, _THUMBNAIL_EDGE), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
