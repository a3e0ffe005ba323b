"""The values that travel between stages: Face, Faces and Identity.

All points are pixel coordinates ``(x, y)`` whose integers are pixel centres (the upper left pixel is ``(0, 0)``), float32.
Left and right are the viewer's: the first eye is the one nearer the image's left border on an upright frontal face.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from .errors import FaceLoomError
from .pixels.affine import similarity

# FFHQ's alignment: left eye, right eye, nose tip, left and right mouth corner, as fractions of the crop's edge. Crops are cut by it.
FFHQ_TEMPLATE = np.array([(.37691676, .46864664), (.62285697, .46912813), (.50123859, .61331904), (.39308822, .725411),
                          (.61150205, .72490465)])
FFHQ_TEMPLATE.setflags(write=False)

# iBUG 68-point indices of the parts that five keypoints are made of.
LEFT_EYE = slice(36, 42)
RIGHT_EYE = slice(42, 48)
NOSE_TIP = 30
MOUTH_CORNERS = (48, 54)
# The index of each point's mirror image.
MIRROR_68 = np.r_[16:-1:-1, 26:16:-1, 27:31, 35:30:-1, 45:41:-1, 47:45:-1, 39:35:-1, 41:39:-1, 54:47:-1, 59:54:-1, 64:59:-1, 67:64:-1]


def keypoints_from_68(points: np.ndarray) -> np.ndarray:
    """Return the five keypoints ``[..., 5, 2]`` (eye centres, nose tip, mouth corners) of ``[..., 68, 2]`` iBUG points."""
    points = np.asarray(points, np.float32)
    return np.stack(
        [
            points[..., LEFT_EYE, :].mean(-2),
            points[..., RIGHT_EYE, :].mean(-2),
            points[..., NOSE_TIP, :],
            points[..., MOUTH_CORNERS[0], :],
            points[..., MOUTH_CORNERS[1], :],
        ],
        axis=-2,
    )


def read_only(value, shape: tuple[int | None, ...], name: str, kind: type = np.float32) -> np.ndarray:
    """Copy a value into a read-only array; FaceLoomError where it has not this shape (None: any size along that axis)."""
    array = np.array(value, kind)
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        raise FaceLoomError(f"{name} must have shape {shape}, not {array.shape}.")
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Face:
    """One face in one image of a batch.

    frame: index into the image batch. box: ``[4]`` x0, y0, x1, y1 (may reach outside the frame).
    keypoints: ``[5, 2]`` left eye, right eye, nose tip, left and right mouth corner. score: detector confidence, higher is surer.
    points68: ``[68, 2]`` iBUG points. mesh: ``[478, 3]`` MediaPipe's mesh, x and y in pixels, z in the same unit, negative
    towards the camera. embeddings: unit vectors by space name (``dlib128``, ``w600k`` ...). sex: ``"female"`` or ``"male"``.
    age: years. track: the same number for the same person along a clip. square: ``[2, 3]`` float64, image → the square that is this
    face's crop, whose edges are 0 and 1, where that is not FFHQ's (models/crops/squares.py). identity: whom this face becomes, where that
    is settled for it alone.
    """

    frame: int
    box: np.ndarray
    keypoints: np.ndarray
    score: float = 1.0
    points68: np.ndarray | None = None
    mesh: np.ndarray | None = None
    embeddings: Mapping[str, np.ndarray] = field(default_factory=dict)
    sex: str | None = None
    age: float | None = None
    track: int | None = None
    square: np.ndarray | None = None
    identity: Identity | None = None

    def __post_init__(self) -> None:
        fix = object.__setattr__
        fix(self, "box", read_only(self.box, (4,), "box"))
        fix(self, "keypoints", read_only(self.keypoints, (5, 2), "keypoints"))
        if self.points68 is not None:
            fix(self, "points68", read_only(self.points68, (68, 2), "points68"))
        if self.mesh is not None:
            fix(self, "mesh", read_only(self.mesh, (478, 3), "mesh"))
        if self.square is not None:
            fix(self, "square", read_only(self.square, (2, 3), "square", np.float64))

    @property
    def size(self) -> float:
        """Edge in pixels of the square with the box's area."""
        width, height = self.box[2:] - self.box[:2]
        return float(np.sqrt(max(width, 0.0) * max(height, 0.0)))

    @property
    def center(self) -> np.ndarray:
        """``[2]`` middle of the box."""
        return (self.box[:2] + self.box[2:]) / 2

    @property
    def eye_distance(self) -> float:
        """Pixels between the eye centres."""
        return float(np.linalg.norm(self.keypoints[1] - self.keypoints[0]))

    def __repr__(self) -> str:
        x0, y0, x1, y1 = (round(float(v)) for v in self.box)
        return f"Face(frame {self.frame}, box {x0},{y0}-{x1},{y1}, score {self.score:.2f})"


def unit_square(face: Face | np.ndarray) -> np.ndarray:
    """Return image → the unit square that a face is cropped by, ``[2, 3]`` float64, or ``[..., 2, 3]`` for ``[..., 5, 2]`` keypoints.

    That is the face's own ``square`` where it has one, else FFHQ's.
    """
    if isinstance(face, Face):
        return similarity(face.keypoints, FFHQ_TEMPLATE) if face.square is None else face.square
    return similarity(face, FFHQ_TEMPLATE)


@dataclass(frozen=True)
class CutCrop:
    """One crop of a ``CutCrops``. number: its position. checksum: of the crop. source_checksum: of the pixels it was cut from."""

    number: int
    checksum: int
    source_checksum: int


@dataclass(frozen=True, eq=False)
class CutCrops:
    """Crops that ``crops.crop.cut_crops`` cut, so that later stages may copy them instead of cutting them again.

    images: the tensor ``[B, H, W, 3]`` they were cut from. crops: the tensor ``[N, S, S, 3]`` of all of them. Both are weak references:
    faces never keep pictures in memory. by_place: each crop by its frame and the bytes of its matrix image → crop ``[2, 3]`` at the size
    S, so a face whose square, framing or crop size was changed does not find one.

    Any node may write in either tensor. ``crops.crop.find_cut_crop`` compares checksums before it gives a crop out.
    """

    images: weakref.ref
    crops: weakref.ref
    by_place: Mapping[tuple[int, bytes], CutCrop]


@dataclass(frozen=True, eq=False)
class Faces:
    """All faces of an image batch, frame by frame.

    items: the faces. frames: how many images the batch has. height, width: of every image, pixels.
    framing: how much the canonical crop takes in (1.0 = FFHQ, larger = more). crop_size: edge of the canonical crop, pixels.
    whites: the brightest value of each image, where one has values above 1 (``pixels/tone.py``); else empty.
    cuts: frames with which a new shot of a clip begins, as far as they are known.
    cut: crops of these faces that were cut before, if any; only what saves work.
    """

    items: tuple[Face, ...]
    frames: int
    height: int
    width: int
    framing: float = 1.0
    crop_size: int = 512
    whites: tuple[float, ...] = ()
    cuts: frozenset[int] = frozenset()
    cut: CutCrops | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Face]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Face:
        return self.items[index]

    def take(self, indices: Sequence[int]) -> Faces:
        """Return the faces at these positions, in this order."""
        if len(indices) == len(self) and all(i == j for i, j in enumerate(indices)):
            return self
        return replace(self, items=tuple(self.items[i] for i in indices))

    @property
    def keypoints(self) -> np.ndarray:
        """``[N, 5, 2]``: the five keypoints of every face."""
        return np.stack([f.keypoints for f in self.items]) if self.items else np.zeros((0, 5, 2), np.float32)

    @cached_property
    def unit_squares(self) -> np.ndarray:
        """``[N, 2, 3]`` float64, read-only: ``unit_square`` of every face."""
        mixed = any(face.square is not None for face in self.items)
        squares = np.stack([unit_square(face) for face in self.items]) if mixed else unit_square(self.keypoints)
        squares.setflags(write=False)
        return squares

    @property
    def frame_indices(self) -> np.ndarray:
        """``[N]`` int64, the frame of each face."""
        return np.array([f.frame for f in self.items], np.int64)

    def positions_by_frame(self) -> dict[int, list[int]]:
        """Return the positions of the faces of each frame that has one."""
        frames: dict[int, list[int]] = {}
        for i, face in enumerate(self.items):
            frames.setdefault(face.frame, []).append(i)
        return frames

    def check_image(self, shape: Sequence[int]) -> None:
        """Raise unless an image batch of ``shape`` ``[B, H, W, C]`` is the one these faces were found in."""
        if tuple(shape[:3]) != (self.frames, self.height, self.width):
            raise FaceLoomError(
                f"The faces come from {self.frames} image(s) of {self.width}×{self.height}, but the connected image batch is "
                f"{shape[0]} of {shape[2]}×{shape[1]}; connect the image that went into Face Detect."
            )

    def __repr__(self) -> str:
        return f"Faces({len(self.items)} in {self.frames} image(s) of {self.width}×{self.height})"


@dataclass(frozen=True, eq=False)
class Identity:
    """A person to become, from one or several photos.

    embeddings: unit vectors ``[D]`` by space (``dlib128`` ...), combined over the photos. crops: ``[K, S, S, 3]`` float32 RGB 0..1
    canonical crops of the reference photos, best first, made with ``framing``. faces: the K faces those crops show, in **crop**
    pixel coordinates. name: what the artist calls them. photos: how many photos went in (may be more than the crops kept).
    norms: by space, the mean length the recognizer gave its vectors before they were made unit (some swap networks want it).
    """

    embeddings: Mapping[str, np.ndarray]
    crops: np.ndarray
    faces: tuple[Face, ...]
    framing: float = 1.0
    name: str = ""
    photos: int = 1
    norms: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "crops", read_only(self.crops, (None, None, None, 3), "identity crops"))
        if len(self.faces) != len(self.crops):
            raise FaceLoomError(f"An identity needs as many faces ({len(self.faces)}) as crops ({len(self.crops)}).")

    def __repr__(self) -> str:
        spaces = ", ".join(sorted(self.embeddings)) or "no embedding"
        return f"Identity({self.name or 'unnamed'}, {self.photos} photo(s), {spaces})"


def box_from_68(points: np.ndarray) -> np.ndarray:
    """Return the upright box ``[4]`` of 68 points: from mid-forehead to chin and from ear to ear, as other detectors draw it."""
    points = points.astype(np.float64)
    brows = points[17:27]
    up = points[27] - points[33]  # nose bridge against nose base
    forehead = brows + 0.6 * up
    everything = np.concatenate([points, forehead])
    return np.concatenate([everything.min(0), everything.max(0)])
