"""An identity as the IP-Adapter FaceID, InstantID and PuLID nodes take people: a picture, and the object they call insightface.

What those nodes read of the object: ``det_model.input_size`` is set before every ``get(picture)``; of the faces that ``get`` answers
``bbox``, ``kps``, ``embedding`` and ``normed_embedding``, as attributes or as items.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..crops.transformed import transform_face
from ..detect import Detector, detect_faces
from ..errors import FaceLoomError
from ..faces import Face, Faces, Identity
from ..files.catalogue import rows
from ..identity import Recognizer, make_identity
from ..pixels.resize import resize_area_or_lanczos

# The space each adapter was trained in: insightface's buffalo_l or antelopev2.
ADAPTERS = {"IP-Adapter FaceID": "w600k", "IP-Adapter FaceID Kolors": "glint360k", "InstantID": "glint360k", "PuLID": "glint360k"}

# About the length both networks give the vector of a clear photograph, for identities that were made without one.
_LENGTH = 20.0
# Pictures are known again by their means in a grid, from one resize or rounding to the next.
_GRID, _ALIKE = 16, 3.0


class AdapterFace(dict):
    """A face as insightface has it: every entry is an attribute too, and what it lacks is None.

    bbox: ``[4]``. kps: ``[5, 2]``. det_score. embedding: ``[D]`` of the recognizer's own length. All float32 and the caller's own.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.get(name)

    @property
    def embedding_norm(self) -> float:
        return float(np.linalg.norm(self["embedding"]))

    @property
    def normed_embedding(self) -> np.ndarray:
        return self["embedding"] / np.float32(self.embedding_norm)


def adapter_embedding(identity: Identity, adapter: str, recognizer: Recognizer | None = None) -> np.ndarray:
    """``[D]`` float32, the identity's vector in the adapter's space, as long as the recognizer makes it.

    Where the identity has none, ``recognizer`` looks at its pictures.
    """
    space = ADAPTERS[adapter]
    if space not in identity.embeddings and recognizer is not None and recognizer.space == space:
        identity = _seen_by(recognizer, identity)
    if space not in identity.embeddings:
        file = next(row.file for row in rows("recognizer") if row.contract.space == space)
        has = ", ".join(sorted(identity.embeddings)) or "none"
        raise FaceLoomError(f"{adapter} needs an identity with an embedding of {space}, and this one has {has}; make it with ArcFace Embed "
                            f"and {file} from Load Face Recognizer, or connect that recognizer here.")
    return np.asarray(identity.embeddings[space], np.float32) * np.float32(identity.norms.get(space, _LENGTH))


def _seen_by(recognizer: Recognizer, identity: Identity) -> Identity:
    """The same person by another network, averaged over the pictures that were kept."""
    _check_pictures(identity)
    crops = torch.from_numpy(np.array(identity.crops))
    faces = tuple(replace(face, frame=i) for i, face in enumerate(identity.faces))
    return make_identity(crops, Faces(faces, *crops.shape[:3]), recognizer, how="average")[0]


def _check_pictures(identity: Identity) -> None:
    if not len(identity.crops):
        raise FaceLoomError("This identity was loaded without a picture, and the adapters look at one too; make it with ArcFace Embed.")


def adapter_pictures(identity: Identity, size: int = 1024, padding: float = 0.15, count: int = 1) -> tuple[torch.Tensor, tuple[Face, ...]]:
    """The best ``count`` reference crops ``[K, size, size, 3]`` in a black border, so that every detector sees the whole head with room
    around it, and their faces in the pictures' pixels. padding: the border's width, in crop edges."""
    _check_pictures(identity)
    crops = torch.from_numpy(np.array(identity.crops[:count]))
    inner = max(1, round(size / (1 + 2 * padding)))
    before = (size - inner) // 2
    pictures = F.pad(resize_area_or_lanczos(crops, inner), (0, 0, before, size - inner - before, before, size - inner - before))
    scale = inner / crops.shape[1]
    shift = before + scale / 2 - 0.5
    matrix = np.array([[scale, 0, shift], [0, scale, shift]])
    return pictures, tuple(transform_face(face, matrix, i) for i, face in enumerate(identity.faces[:count]))


class IdentityAnalysis:
    """Stands in for insightface's FaceAnalysis where one person is wanted: every face it finds is that person.

    On the identity's own pictures, of any size, it answers the face that is known to be there; on others it detects, with ``detector``
    or the built-in one. So a drawing of keypoints has no face, and a photograph of somebody else gives that photograph's keypoints.
    """

    def __init__(self, embedding: np.ndarray, pictures: torch.Tensor, faces: tuple[Face, ...], detector: Detector | None = None) -> None:
        self.embedding = embedding
        self.faces = faces
        self.detector = detector
        self.size = pictures.shape[1]
        self.means = _means(pictures)
        self.det_model = SimpleNamespace(input_size=(640, 640))  # callers set it
        self._last: tuple[bytes, list[Face]] = (b"", [])  # they ask again and again with smaller detection sizes

    def __repr__(self) -> str:
        return f"IdentityAnalysis({len(self.faces)} picture(s), {len(self.embedding)} numbers)"

    def get(self, img: np.ndarray, max_num: int = 0, det_metric: str = "default") -> list[AdapterFace]:
        """The faces of ``[H, W, 3]`` uint8 **BGR**, largest first; at most ``max_num`` unless that is 0."""
        picture = torch.from_numpy(np.ascontiguousarray(img[..., ::-1])).to(torch.float32)[None] / 255
        apart = (self.means - _means(picture)).abs().mean((1, 2, 3))
        nearest = int(apart.argmin())
        if float(apart[nearest]) * 255 < _ALIKE and picture.shape[1] == picture.shape[2]:
            scale = picture.shape[1] / self.size
            found = [transform_face(self.faces[nearest], np.array([[scale, 0, scale / 2 - 0.5], [0, scale, scale / 2 - 0.5]]))]
        else:
            found = self._detected(picture, img.tobytes())
        return [self._described(face) for face in found[:max_num or None]]

    def _detected(self, picture: torch.Tensor, content: bytes) -> list[Face]:
        if self._last[0] != content:
            self._last = (content, list(detect_faces(picture, self.detector, order="large-small")))
        return self._last[1]

    def _described(self, face: Face) -> AdapterFace:
        return AdapterFace(bbox=face.box.copy(), kps=face.keypoints.copy(), det_score=np.float32(face.score),
                           embedding=self.embedding.copy())


def _means(pictures: torch.Tensor) -> torch.Tensor:
    """``[N, 3, 16, 16]`` of ``[N, H, W, 3]``."""
    return F.adaptive_avg_pool2d(pictures.movedim(-1, 1).to("cpu", torch.float32), _GRID)


def adapter_analysis(identity: Identity, adapter: str, *, size: int = 1024, padding: float = 0.15, count: int = 1,
                     detector: Detector | None = None, recognizer: Recognizer | None = None) -> tuple[torch.Tensor, IdentityAnalysis]:
    """The pictures ``[K, size, size, 3]`` and the object for the nodes of one adapter (a key of ``ADAPTERS``)."""
    embedding = adapter_embedding(identity, adapter, recognizer)
    pictures, faces = adapter_pictures(identity, size, padding, count)
    return pictures, IdentityAnalysis(embedding, pictures, faces, detector)
