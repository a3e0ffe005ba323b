"""Who is in the pictures of the benchmark."""

from __future__ import annotations

import torch
from faceloom.cli.demo import read_portraits
from faceloom.models.detect import detect_faces
from faceloom.models.faces import Faces, Identity
from faceloom.models.identity import make_identity
from faceloom.models.options.detect import DetectSettings


def people() -> tuple[Faces, torch.Tensor, Identity]:
    """Return the first demo portrait's face, its picture, and the second one's identity."""
    target, source = read_portraits().values()
    identity, _ = make_identity(source, detect_faces(source, settings=DetectSettings(keep="first")))
    return detect_faces(target, settings=DetectSettings(keep="first")), target, identity
