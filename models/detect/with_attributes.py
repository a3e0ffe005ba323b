"""Detectors with another network beside them: one that reads sex and age of the faces, or one that finds 106 landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Protocol, runtime_checkable

import torch

from ..face3d.points106 import Landmarker
from ..faces import Face, Faces
from ..progress import Progress, silent
from . import Detector
from .attributes import AgeAndSex


@runtime_checkable
class BringsLandmarks(Protocol):
    """Something that carries a network of 106 landmarks."""

    @property
    def landmarker(self) -> Landmarker: ...


@dataclass(frozen=True, eq=False)
class WrappedDetector:
    """A ``Detector`` that finds what another one finds."""

    detector: Detector

    @property
    def name(self) -> str:
        return self.detector.name

    def detect(self, images: torch.Tensor, threshold: float = 0.5, progress: Progress = silent) -> list[list[Face]]:
        """Find the faces of every frame of ``[B, H, W, 3]`` float32 0..1, unsorted."""
        return self.detector.detect(images, threshold, progress)


@dataclass(frozen=True, eq=False)
class DescribedDetector(WrappedDetector):
    """A ``Detector`` whose faces have ``sex`` and ``age``."""

    attributes: AgeAndSex

    def detect(self, images: torch.Tensor, threshold: float = 0.5, progress: Progress = silent) -> list[list[Face]]:
        """Find the faces of every frame of ``[B, H, W, 3]`` float32 0..1, unsorted, and read their sex and age."""
        found = self.detector.detect(images, threshold, progress)
        count, height, width = images.shape[:3]
        described = iter(self.attributes.read(images, Faces(tuple(chain(*found)), count, height, width), progress))
        return [[next(described) for _ in faces] for faces in found]


@dataclass(frozen=True, eq=False)
class LandmarkedDetector(WrappedDetector):
    """A ``Detector`` that carries a network of 106 landmarks, with which some swap systems look at their own crops."""

    landmarker: Landmarker
