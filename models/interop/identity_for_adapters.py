"""An identity in the form in which the IP-Adapter FaceID, InstantID and PuLID nodes take people: pictures, and an object in place of
insightface's FaceAnalysis.

Those nodes set ``det_model.input_size`` of the object before every ``get(picture)``; of the faces that ``get`` returns they read ``bbox``,
``kps``, ``embedding`` and ``normed_embedding``, as attributes or as items.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..crops.transformed import transform_face
from ..detect import Detector, detect_faces
from ..errors import FaceLoomError
from ..faces import Face, Identity
from ..files.catalogue import NetContract, rows
from ..identity import Recognizer, make_identity
from ..identity.photos import reference_photos
from ..options.detect import DetectSettings
from ..pixels.resize import resize_area_or_lanczos

# The space each adapter was trained in: insightface's buffalo_l or antelopev2.
ADAPTERS = {"IP-Adapter FaceID": "w600k", "IP-Adapter FaceID Kolors": "glint360k", "InstantID": "glint360k", "PuLID": "glint360k"}

# About the length that both networks give the vector of a clear photo, for identities that were made without one.
_TYPICAL_NORM = 20.0
# Pictures are compared by the means of a grid of so many cells a side, which survive resizing and rounding; they are the same picture where
# the grids differ by less than this on average, of 255.
_GRID_SIZE, _SAME_PICTURE = 16, 3.0


class AdapterFace(dict):
    """A face as insightface returns it: every entry is an attribute too, and an attribute without an entry is None.

    bbox: ``[4]``. kps: ``[5, 2]``. det_score. embedding: ``[D]`` of the recognizer's own length. All float32, and not shared with others.
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
    """Return the identity's vector ``[D]`` float32 in the adapter's space, with the length that the recognizer gives it.

    Where the identity has none, ``recognizer`` makes it from the identity's photos; without a recognizer of that space that is an error.
    """
    space = ADAPTERS[adapter]
    if space not in identity.embeddings and recognizer is not None and recognizer.space == space:
        identity = _embed_again(recognizer, identity)
    if space not in identity.embeddings:
        file = next(row.file for row in rows("recognizer") if isinstance(row.contract, NetContract) and row.contract.space == space)
        spaces = ", ".join(sorted(identity.embeddings)) or "none"
        raise FaceLoomError(f"{adapter} needs an identity with an embedding of {space}, and this one has {spaces}; make it with ArcFace "
                            f"Embed and {file} from Load Face Recognizer, or connect that recognizer here.")
    return np.asarray(identity.embeddings[space], np.float32) * np.float32(identity.norms.get(space, _TYPICAL_NORM))


def _embed_again(recognizer: Recognizer, identity: Identity) -> Identity:
    """Return the same person by another recognizer, averaged over the identity's photos."""
    _check_photos(identity)
    return make_identity(*reference_photos(identity, "The recognizer"), recognizer, how="average")[0]


def _check_photos(identity: Identity) -> None:
    if not len(identity.crops):
        raise FaceLoomError("This identity was loaded without a picture, and the adapters look at one too; make it with ArcFace Embed.")


def adapter_images(identity: Identity, size: int = 1024, padding: float = 0.15, count: int = 1) -> tuple[torch.Tensor, tuple[Face, ...]]:
    """Return the best ``count`` photos of an identity ``[K, size, size, 3]`` and the faces in them, in their pixels.

    The photos have a black border, so that every detector sees the whole head with room around it. padding: the border's width, as a share
    of the photo's edge.
    """
    _check_photos(identity)
    crops = torch.from_numpy(np.array(identity.crops[:count]))
    inner = max(1, round(size / (1 + 2 * padding)))
    before = (size - inner) // 2
    after = size - inner - before
    images = F.pad(resize_area_or_lanczos(crops, inner), (0, 0, before, after, before, after))
    scale = inner / crops.shape[1]
    shift = before + scale / 2 - 0.5
    matrix = np.array([[scale, 0, shift], [0, scale, shift]])
    return images, tuple(transform_face(face, matrix, i) for i, face in enumerate(identity.faces[:count]))


class IdentityAnalysis:
    """Stands in for insightface's FaceAnalysis where one person is wanted: every face it finds has that person's embedding.

    For the identity's own images, of any size, it returns the face that is known to be there; in others it detects faces, with ``detector``
    or the built-in one. So a drawing of keypoints has no face, and a photo of somebody else gives that photo's keypoints.
    """

    def __init__(self, embedding: np.ndarray, images: torch.Tensor, faces: tuple[Face, ...], detector: Detector | None = None) -> None:
        self.embedding = embedding
        self.faces = faces
        self.detector = detector
        self.size = images.shape[1]
        self.means = _grid_means(images)
        self.det_model = SimpleNamespace(input_size=(640, 640))  # callers set it
        # The picture that was detected in last, and its faces: callers ask again with smaller and smaller detection sizes.
        self._last_detection: tuple[bytes, list[Face]] = (b"", [])

    def __repr__(self) -> str:
        return f"IdentityAnalysis({len(self.faces)} picture(s), {len(self.embedding)} numbers)"

    def get(self, img: np.ndarray, max_num: int = 0, det_metric: str = "default") -> list[AdapterFace]:
        """Return the faces of a picture ``[H, W, 3]`` uint8 **BGR**, largest first; at most ``max_num`` unless that is 0."""
        image = torch.from_numpy(np.ascontiguousarray(img[..., ::-1])).to(torch.float32)[None] / 255
        differences = (self.means - _grid_means(image)).abs().mean((1, 2, 3))
        nearest = int(differences.argmin())
        if float(differences[nearest]) * 255 < _SAME_PICTURE and image.shape[1] == image.shape[2]:
            scale = image.shape[1] / self.size
            faces = [transform_face(self.faces[nearest], np.array([[scale, 0, scale / 2 - 0.5], [0, scale, scale / 2 - 0.5]]))]
        else:
            faces = self._detect(image, img.tobytes())
        return [self._as_adapter_face(face) for face in faces[:max_num or None]]

    def _detect(self, image: torch.Tensor, content: bytes) -> list[Face]:
        if self._last_detection[0] != content:
            self._last_detection = (content, list(detect_faces(image, self.detector, DetectSettings(order="large-small"))))
        return self._last_detection[1]

    def _as_adapter_face(self, face: Face) -> AdapterFace:
        return AdapterFace(bbox=face.box.copy(), kps=face.keypoints.copy(), det_score=np.float32(face.score),
                           embedding=self.embedding.copy())


def _grid_means(images: torch.Tensor) -> torch.Tensor:
    """Return ``[N, 3, 16, 16]``: the means of a grid over images ``[N, H, W, 3]``, on the CPU."""
    return F.adaptive_avg_pool2d(images.movedim(-1, 1).to("cpu", torch.float32), _GRID_SIZE)


def adapter_analysis(identity: Identity, adapter: str, *, size: int = 1024, padding: float = 0.15, count: int = 1,
                     detector: Detector | None = None, recognizer: Recognizer | None = None) -> tuple[torch.Tensor, IdentityAnalysis]:
    """Return the images ``[K, size, size, 3]`` and the object for the nodes of one adapter (a key of ``ADAPTERS``).

    The arguments are those of ``adapter_images``, ``adapter_embedding`` and ``IdentityAnalysis``.
    """
    embedding = adapter_embedding(identity, adapter, recognizer)
    images, faces = adapter_images(identity, size, padding, count)
    return images, IdentityAnalysis(embedding, images, faces, detector)
