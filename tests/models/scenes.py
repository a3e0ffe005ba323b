"""Portraits put into other pictures, with the true place of everything."""

from __future__ import annotations

import numpy as np
import torch
from faceloom.models.detect import detect_faces
from faceloom.models.faces import Face, Faces
from faceloom.models.pixels.affine import invert, transform
from PIL import Image


def bytes_of(image: torch.Tensor) -> np.ndarray:
    return (image[0].numpy() * 255).round().astype(np.uint8)


def batch_of(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures).astype(np.float32) / 255)


def turn_and_scale(width: int, height: int, degrees: float, scale: float, target: tuple[float, float]) -> np.ndarray:
    """Matrix that turns a width × height picture about its middle, scales it and puts that middle at ``target``."""
    angle = np.radians(degrees)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.concatenate([linear, (np.array(target) - linear @ ((width - 1) / 2, (height - 1) / 2))[:, None]], 1)


def place(canvas: np.ndarray, portrait: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The canvas with the portrait drawn through ``matrix`` (portrait → canvas pixels), shrunk without aliasing."""
    height, width = canvas.shape[:2]
    scale = float(np.sqrt(np.linalg.det(matrix[:, :2])))
    factor = max(1, int(1 / scale))
    source = Image.fromarray(portrait).reduce(factor)
    back = invert(matrix)
    linear = back[:, :2] / factor
    shift = (back[:, 2] + 0.5) / factor - linear @ (0.5, 0.5)
    data = (*linear[0], shift[0], *linear[1], shift[1])
    drawn = source.transform((width, height), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC)
    solid = Image.new("L", source.size, 255).transform((width, height), Image.Transform.AFFINE, data, Image.Resampling.NEAREST)
    return np.where(np.asarray(solid)[..., None] > 0, np.asarray(drawn), canvas)


def backdrop(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth coloured clouds: something to look at, and no face."""
    rough = np.random.default_rng(seed).integers(40, 200, (max(2, height // 64), max(2, width // 64), 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC))


def the_face(image: torch.Tensor) -> Face:
    faces = detect_faces(image)
    assert len(faces) == 1
    return faces[0]


def keypoint_error(face: Face, truth: Face, matrix: np.ndarray) -> float:
    """Mean distance of the five keypoints from the true ones, in true eye distances."""
    wanted = transform(truth.keypoints, matrix)
    return float(np.linalg.norm(face.keypoints - wanted, axis=1).mean() / np.linalg.norm(wanted[1] - wanted[0]))


def nearest(faces: Faces, truth: Face, matrix: np.ndarray) -> tuple[Face, float]:
    """The found face nearest to the true one, and its keypoint error."""
    errors = [keypoint_error(face, truth, matrix) for face in faces]
    assert errors, "no face found"
    best = int(np.argmin(errors))
    return faces[best], errors[best]


def box_overlap(face: Face, truth: Face, matrix: np.ndarray) -> float:
    """Intersection over union of the found box and the box of the true 68 points after ``matrix``."""
    from faceloom.models.detect.boxes import overlaps
    from faceloom.models.faces import box_from_68

    return float(overlaps(face.box, box_from_68(transform(truth.points68, matrix))[None])[0][0])
