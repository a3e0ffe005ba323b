"""Which faces are meant by words such as ``all``, ``first`` or ``0,2``: the same in every frame."""

from __future__ import annotations

from ..detect import kept_positions, unknown_numbers
from ..faces import Faces


def which_faces(faces: Faces, which: str) -> list[int]:
    """Return the positions of the faces that ``which`` names in every frame, in order: ``"all"``, ``"first"``, or numbers such as
    ``"0,2,-1"`` or ``"0-3"``, which count the faces of each frame."""
    frames = faces.positions_by_frame().values()
    return sorted(members[i] for members in frames for i in kept_positions(which, len(members)))


def unknown_faces(faces: Faces, which: str) -> str:
    """Return a sentence where ``which`` names a number that no frame has a face for, else ""."""
    most = max((len(members) for members in faces.positions_by_frame().values()), default=0)
    return unknown_numbers(which, most)
