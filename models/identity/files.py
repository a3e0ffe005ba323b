"""Identity files: safetensors with embeddings, reference crops, their landmarks and a thumbnail. Also reads ReActor's face models."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import FaceLoomError, brief
from ..faces import Identity
from ..files.cache import write_file
from ..files.damaged import fault_of
from ..pixels.tensors import to_uint8
from .combine import unit_vectors
from .stored import EMBEDDING_PREFIX, EMBEDDING_SIZES, OPTIONAL_POINTS, read_stored, read_version

SUFFIX = ".safetensors"
_FORMAT, _VERSION = "faceloom-identity", 1
_THUMBNAIL_EDGE = 256
_REACTOR_SPACE = "w600k"  # of the embeddings in its face models
_LONGEST_NAME = 255  # bytes; what file systems take
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
    tensors: dict[str, np.ndarray] = {f"{EMBEDDING_PREFIX}{space}": np.asarray(vector, np.float32)
                                      for space, vector in identity.embeddings.items()}
    tensors["crops"] = to_uint8(torch.from_numpy(np.array(identity.crops)))
    tensors["boxes"] = np.array([face.box for face in faces], np.float32).reshape(-1, 4)
    tensors["keypoints"] = np.array([face.keypoints for face in faces], np.float32).reshape(-1, 5, 2)
    tensors["scores"] = np.array([face.score for face in faces], np.float64)
    for name, (key, shape) in OPTIONAL_POINTS.items():
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
    path = Path(path)
    if not path.is_file():
        raise FaceLoomError(f"There is no identity file {path}.")
    tensors, metadata = _read(path)
    own = metadata.get("format") == _FORMAT
    if not own and not {"embedding", "bbox", "kps"} <= set(tensors):
        raise FaceLoomError(f"{path} is not an identity: it is neither FaceLoom's nor a ReActor face model.")
    try:
        if not own:
            return _from_reactor(tensors["embedding"], path.stem)
        if read_version(metadata, _VERSION):
            return read_stored(tensors, metadata)
    except FaceLoomError as error:
        raise FaceLoomError(f"{path} is damaged: {str(error).removesuffix('.')}; save the identity again.") from error
    raise FaceLoomError(f"{path} was written by a newer FaceLoom; update FaceLoom.")


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    fault = fault_of(path)
    if fault:
        raise FaceLoomError(f"{path} is damaged: it {fault}.")
    try:
        with safe_open(path, "np") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise FaceLoomError(f"{path} is damaged or not a safetensors file; save the identity again.") from error
    except (TypeError, AttributeError) as error:  # how safetensors meets what numpy lacks
        raise FaceLoomError(f"{path} holds a kind of numbers that identities do not have, so it is damaged; save the identity again."
                            ) from error


def _from_reactor(embedding: np.ndarray, name: str) -> Identity:
    """Make an identity of the embedding of a ReActor face model."""
    size = EMBEDDING_SIZES[_REACTOR_SPACE]
    if embedding.dtype.kind != "f" or embedding.size != size:
        raise FaceLoomError(f"its embedding must be {size} fractions, not {embedding.dtype} {list(embedding.shape)}.")
    raw = embedding.reshape(-1).astype(np.float64)
    try:
        with np.errstate(over="ignore"):
            unit = unit_vectors(raw)
    except FaceLoomError as error:
        raise FaceLoomError("its embedding is zero or not finite.") from error
    length = float(np.linalg.norm(raw.astype(np.float32)))
    return Identity({_REACTOR_SPACE: unit}, np.zeros((0, 256, 256, 3)), (), name=name, norms={_REACTOR_SPACE: length})


def _points_or_nan(points: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    return np.full(shape, np.nan, np.float32) if points is None else points


def _thumbnail_jpeg(crop: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(crop).resize((_THUMBNAIL_EDGE, _THUMBNAIL_EDGE), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
