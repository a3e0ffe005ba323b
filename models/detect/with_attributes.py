"""Any detector with more beside it: sex and age of its faces, or 106 landmarks."""

from __future__ import annotations

from itertools import chain

import torch

from ..face3d.points106 import Landmarker
from ..faces import Face, Faces
from ..progress import Progress, silent
from . import Detector
from .attributes import AgeAndSex


class DescribedDetector:
    """A ``Detector`` whose faces have ``sex`` and ``age``."""

    def __init__(self, detector: Detector, attributes: AgeAndSex) -> None:
        self.detector = detector
        self.attributes = attributes
        self.name = detector.name

    def __repr__(self) -> str:
        return f"DescribedDetector({self.detector!r}, {self.attributes!r})"

    def detect(self, images: torch.Tensor, threshold: float = 0.5, progress: Progress = silent) -> list[list[Face]]:
        """Faces of every frame of ``[B, H, W, 3]`` float32 0..1, unsorted."""
        found = self.detector.detect(images, threshold, progress)
        described = iter(self.attributes.read(images, Faces(tuple(chain(*found)), *images.shape[:3]), progress))
        return [[next(described) for _ in faces] for faces in found]


class LandmarkedDetector:
    """A ``Detector`` that brings the 106 landmarks some swap systems look at their own crops with."""

    def __init__(self, detector: Detector, landmarker: Landmarker) -> None:
        self.detector = detector
        self.landmarker = landmarker
        self.name = detector.name

    def __repr__(self) -> str:
        return f"LandmarkedDetector({self.detector!r})"

    def detect(self, images: torch.Tensor, threshold: float = 0.5, progress: Progress = silent) -> list[list[Face]]:
        """The detector's own faces."""
        return self.detector.detect(images, threshold, progress)
