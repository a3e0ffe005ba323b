"""A photograph, two faces and a person that are plain formulas, and what each double makes of them, pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import doubles
import numpy as np
import torch
from doubles import FFHQ, TRUTHS, source_weights, truth_latent
from faceloom.models.crops.crop import crop_faces
from faceloom.models.faces import Face, Faces, Identity
from faceloom.models.files.folders import Folders
from faceloom.models.parse import region_mask
from graphs import apply, fit, grid, inverse
from swapping import swapped

STEP = 1 / 255
SIZE = 96  # of the canonical crops
HEIGHT, WIDTH = 400, 440


def scene(points: np.ndarray) -> np.ndarray:
    """The photograph as a function of position: plain slopes, which any resampling leaves alone. ``[..., 2]`` to ``[..., 3]``."""
    x, y = points[..., 0] / WIDTH, points[..., 1] / HEIGHT
    return np.stack([.3 + .6 * x, .28 + .7 * y, .95 - .4 * x - .3 * y], -1)


def keypoints_at(center: tuple[float, float], angle: float, eyes: float) -> np.ndarray:
    """Five points of an imagined face, not quite anybody's template."""
    shape = (FFHQ - .5) / .246 * eyes + np.array([[0, 2], [1, -1], [3, 1], [-2, 0], [1, 3]])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return shape @ turn.T + center


IMAGES = torch.from_numpy(np.stack([scene(grid(HEIGHT, WIDTH))] * 2)).to(torch.float32)
FACES = Faces(
    tuple(Face(frame, [0, 0, 1, 1], keypoints_at(*where)) for frame, where in ((0, ((215, 190), .2, 62)), (1, ((225, 205), -.35, 55)))),
    2, HEIGHT, WIDTH, 1.1, SIZE,
)
RAW = {space: np.random.default_rng(i).normal(0, 1, 512) for i, space in enumerate(("w600k", "simswap", "ghost", "cscs", "cscs_adapter"))}


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def photo() -> tuple[np.ndarray, Face]:
    """The source's reference crop: slopes again, and a face that is not quite in the middle."""
    points = grid(120, 120) / 120
    picture = np.stack([.9 - .7 * points[..., 1], .1 + .6 * points[..., 0], .2 + .5 * points[..., 1]], -1)
    return picture, Face(0, [0, 0, 1, 1], FFHQ * 120 * .9 + (5, 8))


def identity() -> Identity:
    picture, face = photo()
    return Identity({space: unit(raw) for space, raw in RAW.items()}, picture[None], (face,),
                    norms={space: float(np.linalg.norm(raw)) for space, raw in RAW.items()})


class Mirror:
    """A recognizer that knows the two faces of the scene by heart."""

    def __init__(self, space: str) -> None:
        self.space = space
        self.calls = 0

    def vectors(self) -> np.ndarray:
        return np.stack([np.random.default_rng(50 + i).normal(0, .9, 512) for i in range(2)])

    def embed_raw(self, images, faces, progress=None) -> np.ndarray:
        self.calls += 1
        return self.vectors()[[face.frame for face in faces]].astype(np.float32)

    def embed(self, images, faces, progress=None) -> np.ndarray:
        return unit(self.embed_raw(images, faces))


def path_of(folders: Folders, name: str) -> Path:
    return folders.roots[0] / "faceloom" / "swap" / ("someone.dfm" if name == "deepfacelive" else f"{name}.onnx")


def source_colour(name: str) -> np.ndarray:
    """``[3]``: what the double makes of the identity, from this file's own account of the steps."""
    truth = TRUTHS[name]
    if truth.source_picture:
        template, edge = truth.source_picture
        _, face = photo()
        seen = apply(inverse(fit(np.float64(face.keypoints), template * edge)), grid(edge, edge)) / 120
        picture = np.stack([.9 - .7 * seen[..., 1], .1 + .6 * seen[..., 0], .2 + .5 * seen[..., 1]], -1)
        return (picture * source_weights(edge)).mean((0, 1))
    if name == "deepfacelive":
        return np.zeros(3)
    if truth.adapter:
        latent = unit(RAW[truth.space]) + unit(RAW[truth.adapter])
        return .15 + latent @ doubles.PAINT * doubles.gain(truth)
    return .15 + truth_latent(truth, RAW[truth.space]) @ doubles.PAINT * doubles.gain(truth)


def shown_at(face: Face) -> np.ndarray:
    """``[SIZE, SIZE, 2]``: where in the picture every pixel of a face's canonical crop lies."""
    return apply(inverse(fit(np.float64(face.keypoints), ((FFHQ - .5) / FACES.framing + .5) * SIZE - .5)), grid(SIZE, SIZE))


def expectation(name: str, face: Face, colour: np.ndarray, scale: float = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The crop, the engine's own mask (or None) and how far its square reaches, at every pixel of the canonical crop."""
    truth, where = TRUTHS[name], shown_at(face)
    at = apply(fit(np.float64(face.keypoints), truth.template * truth.size), where)
    u, v = at[..., 0] / truth.size, at[..., 1] / truth.size
    ramp = np.stack([.25 * u, .25 * v, .12 + .06 * (u + v)], -1)
    own = np.min([.1 + .8 * (u, v)[axis] for axis in truth.masks], 0) if truth.masks else None
    inside = np.clip(np.minimum(at + .5, truth.size - .5 - at).min(-1) / truth.size * 16, 0, 1)
    return scene(where / scale) * (.4, .2, .1) + ramp + colour, own, inside * inside * (3 - 2 * inside)


def check(engine, name: str, boost: int = 1, faces: Faces = FACES, images: torch.Tensor = IMAGES, scale: float = 1) -> None:
    """Every pixel of what the engine answers, within 1/255. scale: images show the scene so many times enlarged."""
    crops, masks = swapped(engine, images, faces, identity(), SIZE, pixel_boost=boost)
    untouched = crop_faces(images, faces, SIZE)
    hull = region_mask(("face",), SIZE, faces=faces).numpy()
    for i, face in enumerate(faces):
        picture, own, reach = expectation(name, face, source_colour(name), scale)
        crop, mask = crops[i].numpy().astype(np.float64), masks[i].numpy()
        wanted = (hull[i] if own is None else np.clip(own, 0, 1)) * reach
        assert np.abs(mask - wanted).max() < STEP
        assert (mask > .9).any() or own is not None
        rim = 4 * scale  # beyond the picture its last pixels repeat
        where = shown_at(face)
        inner = (reach > .3) & (mask > 0) & ((where > rim) & (where < (images.shape[2] - rim, images.shape[1] - rim))).all(-1)
        assert inner.mean() > .2
        assert picture[inner].min() > 0 and picture[inner].max() < 1
        assert np.abs(crop - picture)[inner].max() < STEP
        assert torch.equal(crops[i][masks[i] == 0], untouched[i][masks[i] == 0])
