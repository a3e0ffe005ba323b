"""What pass one found as a file, so that a run that was ended can go on: arrays and a few words, never a pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import FaceLoomError
from ..faces import Face, Faces
from ..files.cache import replace_file
from .find import FoundFaces

FORMAT = "faceloom-clip-faces-1"
OPTIONAL_POINTS = {"points68": (68, 2), "mesh": (478, 3), "square": (2, 3)}  # in which faces that have none are NaN
WORDS = ("sex", "age", "track")


def save_found(found: FoundFaces, path: str | os.PathLike) -> None:
    """Write what pass one found, whole or not at all. FaceLoomError where the file cannot be written.

    Identities that were assigned to faces are not written: they come with the request.
    """
    from safetensors.numpy import save

    faces = found.faces
    tensors: dict[str, np.ndarray] = {
        "frames": faces.frame_indices, "boxes": _stack([face.box for face in faces], (4,)), "keypoints": faces.keypoints,
        "scores": np.array([face.score for face in faces], np.float64), "cuts": np.array(sorted(faces.cuts), np.int64),
        "times": np.array(found.times, np.float64)}
    for name, shape in OPTIONAL_POINTS.items():
        missing = np.full(shape, np.nan)
        points = [missing if getattr(face, name) is None else getattr(face, name) for face in faces]
        tensors[name] = _stack(points, shape, np.float64 if name == "square" else np.float32)
    spaces = sorted({space for face in faces for space in face.embeddings})
    for space in spaces:
        size = next(len(face.embeddings[space]) for face in faces if space in face.embeddings)
        rows = [face.embeddings.get(space, np.full(size, np.nan)) for face in faces]
        tensors[f"embedding.{space}"] = _stack(rows, (size,))
    tensors |= {f"view.{track}": view.numpy() for track, view in found.views.items()}
    words = {"format": FORMAT, "size": [faces.frames, faces.height, faces.width], "framing": faces.framing, "crop_size": faces.crop_size,
             "searched": found.searched, **{name: [getattr(face, name) for face in faces] for name in WORDS}}
    try:
        with replace_file(path) as file:
            file.write(save(tensors, {"faces": json.dumps(words)}))
    except OSError as error:
        raise FaceLoomError(f"{path} cannot be written ({error.strerror or error}).") from error


def load_found(path: str | os.PathLike) -> FoundFaces:
    """Read what ``save_found`` wrote. FaceLoomError where the file is damaged or another one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(Path(path), "np") as file:
            words = json.loads((file.metadata() or {})["faces"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if words["format"] != FORMAT:
            raise FaceLoomError(f"{path} was written by another FaceLoom; delete it to begin anew.")
        return _read(words, tensors)
    except (SafetensorError, OSError, ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise FaceLoomError(f"{path} is damaged ({type(error).__name__}); delete it to begin anew.") from error


def _read(words: dict[str, Any], tensors: dict[str, np.ndarray]) -> FoundFaces:
    """Turn words and arrays back into what was found."""
    spaces = [key for key in tensors if key.startswith("embedding.")]
    items = []
    for i, frame in enumerate(tensors["frames"].tolist()):
        points = {name: tensors[name][i] for name in OPTIONAL_POINTS if not np.isnan(tensors[name][i]).any()}
        embeddings = {key.removeprefix("embedding."): tensors[key][i] for key in spaces if not np.isnan(tensors[key][i]).any()}
        known = {name: words[name][i] for name in WORDS}
        items.append(Face(frame, tensors["boxes"][i], tensors["keypoints"][i], float(tensors["scores"][i]), embeddings=embeddings,
                          **points, **known))
    frames, height, width = words["size"]
    faces = Faces(tuple(items), frames, height, width, words["framing"], words["crop_size"], cuts=frozenset(tensors["cuts"].tolist()))
    views = {int(key.removeprefix("view.")): torch.from_numpy(value) for key, value in tensors.items() if key.startswith("view.")}
    return FoundFaces(faces, views, words["searched"], tuple(tensors["times"].tolist()))


def _stack(rows: list[np.ndarray], shape: tuple[int, ...], kind: type = np.float32) -> np.ndarray:
    """Stack arrays of one shape; no rows make ``[0, ...]``."""
    return np.stack(rows).astype(kind) if rows else np.zeros((0, *shape), kind)
